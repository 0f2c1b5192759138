"""Run files: TOML with the fields of DistillationConfig, flat, by their names.

Paths in the file are relative to the file; `--set` values and Python's are
relative to the working directory. A problem is reported with its line.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanodistill.config.distillation import DistillationConfig
from nanodistill.config.settings import InputPath, ObjectRef
from nanodistill.errors import ConfigError, InputError, Problem
from nanodistill.secrets import is_secret_name
from nanodistill.text_files import UnreadableFileError, can_be_path, expanded, read_text

TABLE_HEADER = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")
KEY = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z0-9_.-]+))\s*=""")


def load_config(path: Path, overrides: Iterable[str] = ()) -> DistillationConfig:
    """Read a run file and lay `--set` overrides over it.

    Args:
        overrides: texts of the form KEY=VALUE; KEY dotted for tables, VALUE read
            as TOML and, where it is none, as text.

    Raises:
        ConfigError: with all problems at once, each with its line in the file.
        InputError: the file is missing or no TOML.
    """
    text = _read(path)
    values = resolve_paths(_parse(text, path), path.parent)
    for override in overrides:
        _set(values, override)
    try:
        return DistillationConfig(**values)
    except ConfigError as invalid:
        located = [_located(problem, text, path) for problem in invalid.problems]
        raise ConfigError(f"{path} does not hold:", located) from invalid


def resolve_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with relative paths and module files resolved against `folder`."""
    own = dict(values)
    if isinstance(prompts := own.get("prompt_templates"), dict):
        own["prompt_templates"] = {
            name: _anchored_path(text, folder, always=False) if isinstance(text, str) else text
            for name, text in prompts.items()
        }
    for name, field in DistillationConfig.model_fields.items():
        if not isinstance(own.get(name), str):
            continue
        for mark in field.metadata:
            if isinstance(mark, InputPath):
                own[name] = _anchored_path(own[name], folder, always=mark.always)
            elif isinstance(mark, ObjectRef):
                own[name] = _anchored_reference(own[name], folder)
    return own


def _anchored_path(text: str, folder: Path, *, always: bool) -> str:
    prefix, bare = ("mlx/", text[4:]) if text.startswith("mlx/") else ("", text)
    if bare.startswith("python:"):
        return "python:" + _anchored_reference(bare[7:], folder)
    if not bare or "\n" in bare or not can_be_path(bare):
        return text
    own = expanded(bare)
    if own.parts[:1] and own.parts[0].startswith("~"):
        return text  # nobody's home: a text such as "~10 words", or a slip that its reader names
    path = folder / own
    looks_like_path = own.suffix in DATA_SUFFIXES or bare.startswith(("./", "../", "~"))
    return f"{prefix}{path}" if always or looks_like_path or os.path.lexists(path) else text


DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".parquet", ".gguf", ".md", ".txt"})


def _anchored_reference(text: str, folder: Path) -> str:
    """`checks:is_good` as `FOLDER/checks.py:is_good` where that file stands beside the run file."""
    module, colon, name = text.rpartition(":")
    file = folder / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
    return f"{file}:{name}" if colon and module and file.is_file() else text


def _read(path: Path) -> str:
    try:
        text = read_text(path)
    except FileNotFoundError as missing:
        raise InputError(
            f"There is no run file {path}.",
            next_step="Name one, or copy one from pipelines/ to begin with.",
        ) from missing
    except UnreadableFileError as unreadable:
        raise InputError(f"The run file {path} {unreadable}.") from unreadable
    if not text.strip():
        raise InputError(
            f"The run file {path} is empty.",
            next_step="It takes at least name, seed and instruction; see pipelines/.",
        )
    return text


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as deep:
        raise InputError(f"{path} is no valid TOML: it is nested too deeply.") from deep
    except ValueError as broken:  # TOMLDecodeError, and int's own for thousands of digits
        said = str(broken).rstrip(".")
        raise InputError(f"{path} is no valid TOML: {said}.{_hint(text, said)}") from broken


AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
TYPOGRAPHIC = re.compile("[\u2018-\u201f\u00ab\u00bb]")
YAML_LINE = re.compile(r"\s*(- |[A-Za-z_][\w.-]*:(\s|$))")
BARE_VALUE = re.compile(r"\s*([\w.-]+)\s*=\s*([^\s\"'\[{#][^#]*)")
WORDS_OF_OTHERS = {
    "True": "true",
    "False": "false",
    "None": "nothing: leave the line out",
    "null": "nothing: leave the line out",
}


def _hint(text: str, said: str) -> str:
    """The line that TOML stumbled over, and what was probably meant; no line that has a key."""
    if text.lstrip().startswith("{") and _is_json(text):
        return ' It is JSON; a run file has lines such as name = "triage".'
    found = AT_LINE.search(said)
    lines = text.splitlines()
    number = int(found[1]) if found else len(lines)
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    name = re.split(r"[=:]", line, maxsplit=1)[0].strip(" \"'")
    hidden = not line.strip() or is_secret_name(name)
    shown = "" if hidden else f" Line {number} is: {line.strip()[:80]}"
    return f"{shown}{_meant(line, said)}"


def _meant(line: str, said: str) -> str:
    value = BARE_VALUE.match(line)
    if TYPOGRAPHIC.search(line):
        return " It has typographic quotation marks; use straight ones."
    if "overwrite" in said or "twice" in said:
        return " That key or table is there twice; keep one."
    if "\\" in line and '"' in line:
        return (
            " In double quotes a backslash begins an escape; write a path in single quotes: "
            "'C:\\data'."
        )
    if YAML_LINE.match(line) and "=" not in line.partition("#")[0].partition('"')[0]:
        return ' That is YAML; TOML wants name = "value".'
    if value and value[2].strip() in WORDS_OF_OTHERS:
        return f" For {value[2].strip()} write {WORDS_OF_OTHERS[value[2].strip()]}."
    if value and ("Invalid value" in said or "after a statement" in said or "Invalid" in said):
        return f' Text wants quotation marks: {value[1]} = "…".'
    if "Expected '='" in said or "Invalid statement" in said:
        return ' A line is name = "value", or a [table].'
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set does not hold:", [Problem(override, "should be KEY=VALUE")])
    *tables, last = key.strip().split(".")
    target = values
    for table in tables:
        inner = target.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigError("--set does not hold:", [Problem(key, f"{table} is no table")])
        target = inner
    target[last] = _toml_value(text)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number of thousands of digits
        return text


def _located(problem: Problem, text: str, path: Path) -> Problem:
    line = line_of(problem.where, text)
    where = f"{path}:{line}: {problem.where}" if line else problem.where
    return Problem(where, problem.what)


def line_of(dotted: str, text: str) -> int | None:
    """The line, from 1, that sets a dotted key, or the table or list that the key is inside."""
    best: tuple[int, int] | None = None
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := TABLE_HEADER.match(line):
            found = table = header[1].strip()
        elif key := KEY.match(line):
            name = key[1] or key[2] or key[3]
            found = f"{table}.{name}" if table else name
        else:
            continue
        if (dotted == found or dotted.startswith(found + ".")) and (
            best is None or len(found) > best[0]
        ):
            best = (len(found), number)
    return best[1] if best else None
