"""What kind of file a journal is, and how one of an earlier format becomes one of today.

Format 1 had no checksums. Its rows are copied into new tables, with checksums of
what is there now, in one transaction: a crash leaves the old journal or the new one.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from nanodistill.errors import DamagedFile, NewerVersion
from nanodistill.journal.checksums import crc_of
from nanodistill.journal.rows import ATTEMPT, SCHEMA
from nanodistill.journal.trouble import damaged

APPLICATION = 0x4E616E6F
FORMAT = 2
TABLES = ("responses", "attempts", "notes")
BEGIN = f"""
    BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {SCHEMA}
    INSERT INTO notes VALUES ('format', '{FORMAT}', {crc_of("format", str(FORMAT))}); COMMIT;
"""
COPY = f"""
    INSERT INTO responses
        SELECT id, key, stage, failure, finish, whole_by,
            CASE whole_by WHEN 0 THEN 0 ELSE crc_of(key, whole_by) END,
            crc_of_text(body), crc_of(key, stage, failure, finish, crc_of_text(body)), body
        FROM responses_1 ORDER BY id;
    INSERT INTO attempts SELECT id, {ATTEMPT}, crc_of({ATTEMPT}) FROM attempts_1 ORDER BY id;
    INSERT INTO notes SELECT name, value, crc_of(name, value) FROM notes_1;
    INSERT OR REPLACE INTO notes VALUES ('format', '{FORMAT}', crc_of('format', '{FORMAT}'));
"""


def format_of(path: Path, connection: sqlite3.Connection) -> int:
    """The format of the journal, of those that are known here.

    Raises:
        NewerVersion, DamagedFile: it is none of them.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        raise damaged(path, "it is empty")
    if tables.isdisjoint(TABLES) and application != APPLICATION:
        raise _not_ours(path)
    noted = _noted_format(connection) if "notes" in tables else None
    is_ours = application == APPLICATION and noted in (str(found), None)
    if is_ours and found > FORMAT:
        raise _newer(path, found)
    if not is_ours or found < 1 or (found == FORMAT and noted is None):
        raise damaged(path, "its header is not the one that was written")
    return int(found)


def migrate(connection: sqlite3.Connection) -> None:
    """Make a journal of format 1 one of today."""
    statements = [f"ALTER TABLE {name} RENAME TO {name}_1" for name in TABLES]
    statements += [*SCHEMA.split(";"), *COPY.split(";")]
    statements += [f"DROP TABLE {name}_1" for name in TABLES]
    statements += [f"PRAGMA user_version = {FORMAT}"]
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise


def _noted_format(connection: sqlite3.Connection) -> str | None:
    """The format as it is noted beside the header, from format 2 on."""
    row = connection.execute("SELECT value FROM notes WHERE name = 'format'").fetchone()
    return None if row is None else str(row[0])


def _newer(path: Path, found: int) -> NewerVersion:
    return NewerVersion(
        f"{path} was written by a newer NanoDistill "
        f"(journal format {found}, this one knows {FORMAT}).",
        next_step="Update NanoDistill, or choose another output_dir or name.",
    )


def _not_ours(path: Path) -> DamagedFile:
    return DamagedFile(
        f"{path} is an SQLite file, but not a journal of ours.",
        next_step="Move it away, or choose another output_dir or name.",
    )
