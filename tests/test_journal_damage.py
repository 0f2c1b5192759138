"""Flipped bytes: what is read back is what was written, or the journal says that it is damaged."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_journal import call, crashed_copy, failed, key, refusal

from nanodistill.errors import CorruptFileError
from nanodistill.journal import Journal, Validated, open_journal, read_journal

KEYS = [key(n) for n in range(40)]


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
