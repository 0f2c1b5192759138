"""A checksum for each row, so that a flipped bit is damage and never an answer.

CRC-32 of the values in Python's `ascii` notation, which tells types and borders
apart and is the same in every version. It is meant against disks and memory, not
against people: whoever can write the file can write the checksum.
"""

from __future__ import annotations

import sqlite3
import zlib


def crc_of(*values: object) -> int:
    """The checksum of a row's values, in the types in which SQLite gives them back."""
    return zlib.crc32(ascii(values).encode())


def crc_of_text(text: str) -> int:
    """The checksum of a long text."""
    return zlib.crc32(text.encode())


def teach(connection: sqlite3.Connection) -> None:
    """Let statements of `connection` use `crc_of` and `crc_of_text`."""
    connection.create_function("crc_of", -1, crc_of, deterministic=True)
    connection.create_function("crc_of_text", 1, crc_of_text, deterministic=True)
