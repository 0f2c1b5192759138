"""Paths and text files as people give them: what can be a path, and what a file says.

A field may hold a text or a path, so a text that no file can be called is an
ordinary thing here, and no error of the system's. Files come from editors that
write a byte order mark or another encoding than UTF-8: the mark is skipped, any
other encoding is named.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

BOM = codecs.BOM_UTF8
OTHER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
LONGEST_NAME = 255  # bytes; what the usual file systems take for one name
LONGEST_PATH = 4096  # bytes; what Linux takes in all, and more than macOS does


class NoPath(ValueError):
    """A text that no file can be called."""


class NotText(ValueError):
    """A file whose bytes are no UTF-8 text; says what they are, and on which line."""


def path_of(given: str | Path) -> Path:
    """The path that `given` says, `~` replaced. It need not exist.

    Raises:
        NoPath: nothing can be called so.
    """
    text = str(given)
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError as broken:
        raise NoPath("holds half a character, which no file name can") from broken
    if "\0" in text:
        raise NoPath("holds a NUL character, which no file name can")
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if longest > LONGEST_NAME or size > LONGEST_PATH:
        raise NoPath(f"is too long for a path: a name has at most {LONGEST_NAME} bytes")
    try:
        return Path(text).expanduser()
    except RuntimeError as nobody:
        user = text.partition("/")[0]
        raise NoPath(f"begins with {user}, and there is no such user") from nobody


def existing(given: str | Path) -> Path | None:
    """The path that `given` says, where there is something under it that we may see."""
    try:
        path = path_of(given)
    except NoPath:
        return None
    return path if os.path.exists(path) else None


def is_there(path: Path) -> bool:
    """Whether something is called so, be it a folder or a link that leads nowhere."""
    return os.path.lexists(path)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        NotText: it is in another encoding, or no text.
        OSError: it can't be read.
    """
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """The text that UTF-8 bytes say, without a byte order mark.

    Raises:
        NotText: they are in another encoding, or no text.
    """
    for mark, name in OTHER_MARKS.items():
        if content.startswith(mark):
            raise NotText(f"is {name}; save it as UTF-8")
    if b"\0" in content:
        raise NotText("is no text: it holds NUL bytes (UTF-8 text was expected)")
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as bad:
        line = content.count(b"\n", 0, bad.start) + 1
        byte = bad.object[bad.start]
        raise NotText(f"is not UTF-8: byte 0x{byte:02x} on line {line}; save it as UTF-8") from bad
