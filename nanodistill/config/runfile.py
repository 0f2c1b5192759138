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
from nanodistill.config.settings import InputPath, ObjectRef
from nanodistill.errors import ConfigError, InputError, Problem

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
    if "\n" in bare or len(bare) > 500:
        return text
    path = folder / Path(bare).expanduser()
    looks_like_path = Path(bare).suffix in DATA_SUFFIXES or bare.startswith(("./", "../", "~"))
    return f"{prefix}{path}" if always or looks_like_path or path.exists() else text


DATA_SUFFIXES = frozenset({".jsonl", ".json", ".csv", ".parquet", ".gguf", ".md", ".txt"})


def _anchored_reference(text: str, folder: Path) -> str:
    """`checks:is_good` as `FOLDER/checks.py:is_good` where that file stands beside the run file."""
    module, colon, name = text.rpartition(":")
    file = folder / (module if module.endswith(".py") else module.replace(".", "/") + ".py")
    return f"{file}:{name}" if colon and module and file.is_file() else text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        raise InputError(
            f"There is no run file {path}.",
            next_step="Name one, or copy one from pipelines/ to begin with.",
        ) from missing
    except (OSError, UnicodeDecodeError) as unreadable:
        raise InputError(f"{path} can't be read: {unreadable}.") from unreadable


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as broken:
        raise InputError(f"{path} is no valid TOML: {broken}.") from broken


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
    except tomllib.TOMLDecodeError:
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
