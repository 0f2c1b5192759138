"""What a user may write to take part: a thinking format, a parser, a function.

Each is named in a run file as `module:name` or `file.py:name`, or given as an
object from Python. A class is instantiated without arguments.

    class Steps:                                     # thinking_format = "mine.py:Steps"
        def format(self, thinking, output):
            return f"Steps: {thinking} => {output}"

        def parse(self, response):
            thinking, output = response.removeprefix("Steps: ").split(" => ")
            return thinking, output

    class Tabbed:                                    # response_parser = "mine.py:Tabbed"
        def parse_synthetic_examples(self, text):
            pairs = (line.split("\\t") for line in text.splitlines() if "\\t" in line)
            return [{"input": a, "output": b} for a, b in pairs]
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from nanodistill.errors import ConfigError, NanoDistillError, Problem, RunIncompleteError
from nanodistill.text_files import expanded, path_problem
from nanodistill.types import tagged_hash


@runtime_checkable
class ThinkingFormat(Protocol):
    """How thinking and output stand in one text. `parse` undoes `format`."""

    def format(self, thinking: str, output: str) -> str: ...

    def parse(self, response: str) -> tuple[str, str]:
        """Thinking and output. A ValueError or KeyError says that the text is in no such form."""
        ...


@runtime_checkable
class ResponseParser(Protocol):
    """Reads generated examples out of a teacher's answer, before our own strategies try."""

    def parse_synthetic_examples(self, text: str) -> list[dict[str, str]]:
        """Rows with `input` and, where the answer has one, `output`; empty if there are none."""
        ...


def load_object(reference: str, *, field: str) -> Any:
    """The object that `module:name` or `file.py:name` names; `name` may be dotted.

    Args:
        field: the configuration field that holds the reference, for the error.

    Raises:
        ConfigError: it can't be imported, or holds no such name.
    """
    module_name, colon, name = reference.rpartition(":")
    if not colon or not module_name or not name:
        raise _refused(field, f"'{reference}' should be module:name or file.py:name")
    found: Any = _module(module_name, field)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as missing:
            raise _refused(field, f"{module_name} has no '{name}'") from missing
    return found


def instantiated(found: Any, *, field: str) -> Any:
    """`found`, or where it is a class, an instance of it, made without arguments.

    Raises:
        ConfigError: it can't be made; `field` is the configuration field that names it.
    """
    if not isinstance(found, type):
        return found
    try:
        return found()
    except (Exception, SystemExit) as raised:
        what = f"{found.__name__}() raised {_in_short(raised)}; a class is made without arguments"
        raise _refused(field, what) from raised


class UserCodeError(RunIncompleteError):
    """A user's own function raised what nobody expected of it."""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Anything raised inside, `sys.exit` included, is told with the user's own file and line.

    Raises:
        UserCodeError: in its place.
    """
    try:
        yield
    except NanoDistillError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(
            f"{what} raised {_in_short(error)}", next_step="Fix it and run the command again."
        ) from error


def _in_short(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}: {error}"


def _module(name: str, field: str) -> ModuleType:
    if name.endswith(".py"):
        return _from_file(expanded(name), field)
    if not all(part.isidentifier() for part in name.split(".")):
        raise _refused(field, f"'{name}' is no name of a module, nor of a .py file")
    beside = Path(name.replace(".", "/") + ".py")
    try:
        with _told(name, field):
            return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name not in (name, name.partition(".")[0]):
            raise _refused(field, f"{name} needs the module '{missing.name}'") from missing
        if not os.path.isfile(beside) or str(Path.cwd()) in sys.path:
            raise _refused(field, f"there is no module '{name}'") from missing
        sys.path.append(str(Path.cwd()))
        return _module(name, field)


def _from_file(path: Path, field: str) -> ModuleType:
    """The module in a file, loaded once; its neighbours can be imported by it."""
    if wrong := path_problem(path):
        raise _refused(field, f"{path} {wrong}")
    path = path.resolve()
    name = f"nanodistill_user_{path.stem}_{tagged_hash('path', str(path))[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise _refused(field, f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _told(str(path), field):
            spec.loader.exec_module(module)
    except ModuleNotFoundError as missing:
        del sys.modules[name]
        raise _refused(field, f"{path} needs the module '{missing.name}'") from missing
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _told(name: str, field: str) -> Iterator[None]:
    """What a user's module raises while it is imported, as a problem of the field.

    Whatever it is: the code is theirs and may raise anything. A module that is not found is
    for the caller to tell.
    """
    try:
        yield
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as raised:
        line = _line_of(raised, name)
        what = f"{name} can't be imported: {type(raised).__name__}{line}: {raised}"
        raise _refused(field, what) from raised


def _line_of(raised: BaseException, file: str) -> str:
    """Where in the user's file it was, if that is known."""
    if isinstance(raised, SyntaxError):
        return f" in line {raised.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(raised.__traceback__) if at.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def _refused(field: str, what: str) -> ConfigError:
    return ConfigError("The configuration does not hold:", [Problem(field, what)])
