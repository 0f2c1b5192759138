"""Paths and text files as people give them.

A field may hold a path or a text, and what looks like a path may be none: too long, with a NUL in
it, below a home that does not exist. pathlib raises a different exception for each; here the only
error is a file that can't be read, in words for a person.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

# The longer marks first: UTF-32's begins with UTF-16's.
OTHER_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
CONTROL = re.compile(r"[\x01-\x1f\x7f]")
ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
NO_PATH = {
    errno.ENAMETOOLONG: "is too long for a path",
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENOTDIR: "lies below a file, which is no folder",
    errno.EACCES: "can't be looked at: permission denied",
    errno.EPERM: "can't be looked at: permission denied",
}


class UnreadableFileError(ValueError):
    """A text file that can't be read; the message follows the file's name."""


def expanded(text: str | Path) -> Path:
    """The path with `~` and `~user` replaced; as it is where no such user is known."""
    return Path(os.path.expanduser(text))


def path_problem(path: str | Path) -> str | None:
    """Why `path` can lead to nothing; None where something is there, or could be made there."""
    text = os.path.expanduser(path)
    if "\0" in text:
        return "holds a NUL character, which no path may have"
    if control := CONTROL.search(text):
        escape = ESCAPES.get(control[0], f"\\x{ord(control[0]):02x}")
        return (
            f"holds the control character {escape}; write a path with backslashes in "
            "single quotes, where TOML leaves them alone"
        )
    if text.startswith("~"):
        user = Path(text).parts[0]
        return f"begins with {user}, and no user of that name has a home here"
    try:
        os.stat(text)
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    except OSError as failed:
        if failed.errno == errno.ENOENT and os.path.islink(text):
            return f"is a symbolic link to {os.readlink(text)}, which is not there"
        return NO_PATH.get(failed.errno or 0)
    return None


def can_be_path(text: str) -> bool:
    """Whether a text on one line is short enough, and otherwise fit, to name a file."""
    problem = path_problem(text)
    return problem is None or not problem.startswith(("holds", NO_PATH[errno.ENAMETOOLONG]))


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, without a byte order mark.

    Raises:
        FileNotFoundError: there is none.
        UnreadableFileError: it can't be opened, or is no text in UTF-8.
    """
    if problem := path_problem(path):
        raise UnreadableFileError(problem)
    try:
        return decoded(path.read_bytes())
    except FileNotFoundError:
        raise
    except IsADirectoryError as folder:
        raise UnreadableFileError("is a folder; name a file") from folder
    except OSError as failed:
        raise UnreadableFileError(f"can't be read: {failed.strerror or failed}") from failed


def decoded(content: bytes) -> str:
    """
    Raises:
        UnreadableFileError: it is no text in UTF-8.
    """
    for mark, name in OTHER_ENCODINGS:
        if content.startswith(mark):
            raise UnreadableFileError(f"is {name}; save it as UTF-8")
    if b"\0" in content:
        raise UnreadableFileError(_with_zeros(content))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = content.count(b"\n", 0, bad.start) + 1
        byte = f"byte 0x{content[bad.start]:02x} in line {line}"
        raise UnreadableFileError(f"is not UTF-8 ({byte}); save it as UTF-8") from bad


def _with_zeros(content: bytes) -> str:
    """UTF-16 without a mark has a zero in every other byte of plain text; no text has one."""
    start = content[:200]
    wide = max(start[::2].count(0), start[1::2].count(0))
    if wide > len(start) // 3 and min(start[::2].count(0), start[1::2].count(0)) == 0:
        return "is UTF-16; save it as UTF-8"
    return "is no text: it holds zero bytes"
