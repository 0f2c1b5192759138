"""Flipped bytes: what is read back is what was written, or the journal says that it is damaged."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_journal import call, crashed_copy, failed, key, refusal

from nanodistill.errors import CorruptFileError
from nanodistill.journal import Journal, Validated, open_journal, read_journal
from nanodistill.journal.store import FORMAT

KEYS = [key(n) for n in range(40)]
FORMAT_1 = """
    PRAGMA journal_mode = WAL; PRAGMA application_id = 0x4E616E6F; PRAGMA user_version = 1;
    CREATE TABLE responses (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, stage TEXT NOT NULL, failure TEXT,
        finish TEXT, body TEXT NOT NULL, whole_by INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE attempts (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, stage TEXT NOT NULL, model TEXT NOT NULL,
        key BLOB NOT NULL, cause TEXT NOT NULL, outcome TEXT NOT NULL, kind TEXT, status INTEGER,
        latency REAL NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, cost_usd REAL
    );
    CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


def everything(journal: Journal) -> list[Any]:
    """All that can be read, but for what `whole_by` is a remark on."""
    return [
        journal.responses(KEYS),
        {k: (state.failure, state.finish) for k, state in journal.states(KEYS).items()},
        list(journal.attempts()),
        journal.sums(),
        journal.note("form"),
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[Any]]:
    """The files of a journal, half of it in its WAL, and what they hold."""
    folder = tmp_path_factory.mktemp("sound")
    with open_journal(folder / "run" / "journal.sqlite") as journal:
        journal.commit([call(n, "word " * 40 * n) for n in range(12)])
        journal.commit([refusal(20), failed(21), *(Validated(key(n), 3) for n in range(4))])
        assert journal._writer is not None
        journal._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        journal.keep_note("form", "json_schema")
        journal.commit([call(n, "word " * 700) for n in range(30, 34)])
        copy = crashed_copy(journal, folder / "copy")
        files = {file.name: file.read_bytes() for file in copy.parent.iterdir()}
        return files, everything(journal)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.sampled_from(["", "", "", "-wal", "-seal"]),
    place=st.integers(0, 2**32 - 1),
    flip=st.integers(1, 255),
    write=st.booleans(),
)
def test_no_flipped_byte_goes_unnoticed(
    sound: tuple[dict[str, bytes], list[Any]], which: str, place: int, flip: int, write: bool
) -> None:
    files, held = sound
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        for name, content in files.items():
            path.with_name(name).write_bytes(content)
        flipped = path.with_name(path.name + which)
        flawed = bytearray(flipped.read_bytes())
        flawed[place % len(flawed)] ^= flip
        flipped.write_bytes(flawed)
        try:
            with (open_journal if write else read_journal)(path) as journal:
                assert everything(journal) == held
                if write:
                    journal.commit([call(99)])
                    assert journal.responses([key(99)])
        except CorruptFileError:
            pass


def test_a_changed_text_is_damage_and_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(path) as journal:
        journal.commit([call(1, "the wanted answer")])
    path.write_bytes(path.read_bytes().replace(b"the wanted answer", b"the wrong! answer"))
    with open_journal(path) as journal, pytest.raises(CorruptFileError, match="checksum") as damage:
        journal.responses([key(1)])
    assert "Put back" in str(damage.value)


def old_journal(path: Path) -> None:
    """A journal of format 1 with what one of today holds."""
    with open_journal(path) as journal:
        journal.commit([call(1), refusal(2), failed(3), Validated(key(1), 7)])
        journal.keep_note("form", "json_schema")
    new = sqlite3.connect(path)
    rows = {
        "responses": "id, key, stage, failure, finish, body, whole_by",
        "attempts": "id, at, stage, model, key, cause, outcome, kind, status, latency, "
        "prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_usd",
        "notes": "name, value",
    }
    kept = {
        table: new.execute(f"SELECT {cols} FROM {table}").fetchall() for table, cols in rows.items()
    }
    new.close()
    path.unlink()
    old = sqlite3.connect(path)
    old.executescript(FORMAT_1)
    for table, found in kept.items():
        found = [row for row in found if row[0] != "format"]
        old.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(found[0]))})", found)
    old.commit()
    old.close()


@pytest.mark.parametrize("opened", [open_journal, read_journal])
def test_a_journal_of_format_1_goes_on_with_checksums(tmp_path: Path, opened: Any) -> None:
    path = tmp_path / "journal.sqlite"
    with open_journal(tmp_path / "same.sqlite") as journal:
        journal.commit([call(1), refusal(2), failed(3), Validated(key(1), 7)])
        journal.keep_note("form", "json_schema")
        held = everything(journal)
    old_journal(path)
    with opened(path) as journal:
        assert everything(journal) == held
        assert journal.states([key(1)])[key(1)].whole_by == 7
    with open_journal(path) as journal:
        journal.commit([call(4)])
        assert everything(journal) != held
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    connection.close()


def test_a_migration_that_finds_no_room_leaves_the_old_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old_journal(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes_1 (name TEXT)")
    connection.commit()
    before = connection.execute("SELECT * FROM responses").fetchall()
    with pytest.raises(CorruptFileError), open_journal(path):
        pass
    assert connection.execute("SELECT * FROM responses").fetchall() == before
    connection.execute("DROP TABLE notes_1")
    connection.commit()
    connection.close()
    with open_journal(path) as journal:
        assert set(journal.responses([key(1), key(2)])) == {key(1), key(2)}
