"""What can be wrong with a journal's file, as errors that say what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanodistill.errors import (
    CorruptFileError,
    DiskFullError,
    FolderError,
    NanoDistillError,
    RunLockedError,
    too_many_open_files,
)

FULL_BELOW = 1 << 20
"""Bytes free. SQLite reports some full disks as an I/O error; under a megabyte it is that."""
DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,  # a statement of ours does not fit the tables that are there
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)


def commit_counter_of(path: Path) -> Path:
    """The file beside the journal that says how many records were committed."""
    return path.with_name(f"{path.name}-seal")


def corrupt_journal(path: Path, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"the journal {path} is damaged: {what}.",
        next_step=f"Put back {path.name}, {path.name}-wal and {commit_counter_of(path).name} from "
        f"a backup. Without one: delete {commit_counter_of(path).name} to go on with what the "
        f"journal still holds, or if that does not open either, move {path.name} away to begin "
        "again. What was lost is asked, and paid, again.",
    )


@contextmanager
def translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _explained_os(path, error) from error


def _explained(path: Path, error: sqlite3.DatabaseError) -> Exception:
    if not hasattr(error, "sqlite_errorcode"):
        # Raised by Python's own binding, not by SQLite.
        return corrupt_journal(path, "it holds text that is not UTF-8")
    code = error.sqlite_errorcode & 0xFF
    if code == sqlite3.SQLITE_CANTOPEN and (limit := _descriptor_limit()):
        return limit
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return _disk_full(path)
    short = error.sqlite_errorcode == sqlite3.SQLITE_IOERR_SHORT_READ
    if short or code in DAMAGE or (code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)):
        return corrupt_journal(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunLockedError(
            f"another process is writing {path}.",
            next_step="Wait for it to end, or stop it, then run the command again.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return FolderError(f"can't write the journal {path}: {error}.")
    if code == sqlite3.SQLITE_IOERR:
        return NanoDistillError(f"can't read or write the journal {path}: {error}.")
    return error


def _descriptor_limit() -> NanoDistillError | None:
    """SQLite says no more than that it can't open a file; whether any can be opened shows why."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return too_many_open_files(error)
    return None


def _explained_os(path: Path, error: OSError) -> NanoDistillError:
    if limit := too_many_open_files(error):
        return limit
    if _is_full(path):
        return _disk_full(path)
    return FolderError(f"can't write the journal {path}: {error}.")


def _is_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < FULL_BELOW


def _disk_full(path: Path) -> DiskFullError:
    return DiskFullError(
        f"no room left on the disk of {path}.",
        next_step="Make room and run the same command: it goes on from what is safe.",
    )
