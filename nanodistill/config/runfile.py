"""Run files: TOML with the fields of DistillationConfig, flat, by their names.

Paths in the file are relative to the file; `--set` values and Python's are
relative to the working directory. A problem is reported with its line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nanodistill.config.distillation import DistillationConfig
from nanodistill.config.settings import InputPath, ObjectRef, shortened
from nanodistill.errors import ConfigError, InputError, Problem
from nanodistill.textfiles import NoPath, NotText, existing, is_there, path_of, read_text

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
    values = anchored(_parse(text, path), path.parent)
    for override in overrides:
        _set(values, override)
    try:
        return DistillationConfig(**values)
    except ConfigError as invalid:
        located = [_located(problem, text, path) for problem in invalid.problems]
        raise ConfigError(f"{path} does not hold:", located) from invalid


def anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
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
    try:
        path = folder / path_of(bare)
    except NoPath:
        return text  # a prompt's own words, or a problem of the field
    looks_like_path = "\n" not in bare and (
        Path(bare).suffix in DATA_SUFFIXES or bare.startswith(("./", "../", "~"))
    )
    return f"{prefix}{path}" if always or looks_like_path or is_there(path) else text


DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".parquet", ".gguf", ".md", ".txt"})


def _anchored_reference(text: str, folder: Path) -> str:
    """`checks:is_good` as `FOLDER/checks.py:is_good` where that file stands beside the run file."""
    module, colon, name = text.rpartition(":")
    relative = module if module.endswith(".py") else module.replace(".", "/") + ".py"
    file = existing(folder / relative)
    return f"{file}:{name}" if colon and module and file else text


def _read(path: Path) -> str:
    try:
        return read_text(path_of(path))
    except NoPath as wrong:
        raise InputError(f"The run file {shortened(str(path))!r} {wrong}.") from wrong
    except FileNotFoundError as missing:
        raise InputError(
            f"There is no run file {path}.",
            next_step="Name one, or copy one from pipelines/ to begin with.",
        ) from missing
    except IsADirectoryError as folder:
        raise InputError(
            f"{path} is a folder.", next_step="Name the run file itself: a .toml file."
        ) from folder
    except OSError as unreadable:
        reason = unreadable.strerror or str(unreadable)
        raise InputError(f"{path} can't be read: {reason}.") from unreadable
    except NotText as wrong:
        raise InputError(f"{path} {wrong}.") from wrong


def _parse(text: str, path: Path) -> dict[str, Any]:
    if not text.strip():
        raise InputError(
            f"{path} is empty.", next_step="Copy a run file from pipelines/ to begin with."
        )
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as broken:  # a number too long to read is a ValueError
        line = _line_said(str(broken))
        where = f"{path}:{line}" if line else str(path)
        raise InputError(
            f"{where} is no valid TOML: {str(broken).rstrip('.')}.", next_step=_hint(text, line)
        ) from broken


LINE_SAID = re.compile(r"\(at line (\d+), column \d+\)")
CURLY_QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb"
YAML_LINE = re.compile(r"\s*(-\s|---|[\w.-]+\s*:(\s|\Z))")


def _line_said(told: str) -> int | None:
    """The line that tomllib names."""
    found = LINE_SAID.search(told)
    return int(found[1]) if found else None


def _hint(text: str, number: int | None) -> str | None:
    """What was probably meant, by the look of the file and of the line that can't be read."""
    if text.lstrip().startswith("{"):
        return 'This looks like JSON; a run file is TOML, one line for each field: name = "run".'
    lines = text.splitlines()
    line = lines[number - 1] if number and number <= len(lines) else ""
    key = line.partition("=")[0].strip()
    if any(quote in line for quote in CURLY_QUOTES):
        return 'Write straight quotes (") in place of typographic ones.'
    if "\\" in line:
        return (
            "A backslash in double quotes stands twice; use single quotes: 'C:\\data', or C:/data."
        )
    if "=" not in line and YAML_LINE.match(line):
        return 'This looks like YAML; a run file is TOML: name = "run", and [table] for a table.'
    if "=" not in line:
        return (
            'Each field is a line of the form KEY = VALUE; a text stands in quotes: name = "run".'
        )
    if line_of(key, "\n".join(lines[: (number or 1) - 1])):
        return f"{key} is set twice; leave one of them."
    return f'A text stands in quotes: {key} = "…"; true and false are lower-case.'


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not all([*tables, last]):
        raise ConfigError("--set does not hold:", [Problem(override, "should be KEY=VALUE")])
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
    except (ValueError, RecursionError):
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
