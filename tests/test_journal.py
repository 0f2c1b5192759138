from __future__ import annotations

import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanodistill.errors import CorruptFileError, DiskFullError, FolderError, NewerVersionError
from nanodistill.journal import (
    Attempt,
    Call,
    Journal,
    StoredResponse,
    UsageTotals,
    Validated,
    commit_counter_of,
    open_journal,
    read_journal,
)
from nanodistill.types import Completion, Usage, tagged_hash


def key(n: int) -> str:
    return tagged_hash("test", n)


def call(n: int, text: str = "", **attempt: object) -> Call:
    completion = Completion(text or f"answer {n}", "stop", Usage(10, 5, 2, 1), "thought", "m", 0.5)
    made = Attempt(
        at=float(n), stage="generate", model="m", key=key(n), cause="first", outcome="answered",
        usage=completion.usage, cost_usd=0.25, latency=0.5,
    )  # fmt: skip
    return Call(made, StoredResponse(key(n), "generate", completion))


def failed(n: int) -> Call:
    return Call(Attempt(float(n), "generate", "m", key(n), "retry", "failed", "timeout"))


def refusal(n: int) -> Call:
    made = Attempt(float(n), "generate", "m", key(n), "first", "row_failed", "refusal", 200)
    return Call(
        made, StoredResponse(key(n), "generate", failure="refusal", message="I can't do that.")
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "journal.sqlite"


def test_what_is_committed_is_read_back_in_another_session(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1, "Ünïcode 漢字 \ud83d half"), refusal(2), failed(3)])
    with open_journal(path) as journal:
        found = journal.responses([key(1), key(2), key(3)])
        assert found == {
            key(1): call(1, "Ünïcode 漢字 \ud83d half").response,
            key(2): refusal(2).response,
        }
        assert [attempt.outcome for attempt in journal.attempts()] == [
            "answered", "row_failed", "failed",
        ]  # fmt: skip


def test_states_tell_old_from_new_and_remarks(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
    with open_journal(path) as journal:
        journal.commit([call(2), refusal(3), Validated(key(2), by=7)])
        states = journal.states(map(key, (1, 2, 3, 4)))
    assert {k: (s.was_there, s.failure, s.finish, s.whole_by) for k, s in states.items()} == {
        key(1): (True, None, "stop", 0),
        key(2): (False, None, "stop", 7),
        key(3): (False, "refusal", None, 0),
    }


def test_a_response_is_never_replaced(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1, "first")])
        journal.commit([call(1, "second")])
        response = journal.responses([key(1)])[key(1)]
    assert response.completion is not None
    assert response.completion.text == "first"


def test_sums_by_stage_and_over_all(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1), call(2), refusal(3), failed(4)])
        sums = journal.sums()
    assert sums["generate"] == UsageTotals(
        calls=4, answered=2, failed=2, retries=1, usage=Usage(20, 10, 4, 2), cost_usd=0.5,
        seconds=1.0,
    )  # fmt: skip
    assert sum(sums.values(), UsageTotals()) == sums["generate"]


def test_an_unknown_price_is_no_price(path: Path) -> None:
    unpriced = Attempt(0.0, "generate", "m", key(2), "first", "answered", usage=Usage(1, 1))
    with open_journal(path) as journal:
        journal.commit([call(1), Call(unpriced)])
        sums = journal.sums()["generate"]
    assert (sums.cost_usd, sums.unpriced, sums.known_cost) == (0.25, 1, None)


def test_notes_go_with_the_next_commit(path: Path) -> None:
    with open_journal(path) as journal:
        journal.keep_note("form", "json_schema")
        assert journal.note("form") == "json_schema"
        journal.commit([call(1)])
        journal.keep_note("form", "text")
    with read_journal(path) as journal:
        assert journal.note("form") == "text"
        assert journal.note("other") is None


def test_files_are_their_owners_alone(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
        files = list(path.parent.iterdir())
        assert {file.name for file in files} >= {
            path.name,
            f"{path.name}-wal",
            commit_counter_of(path).name,
        }
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_it_is_read_while_it_is_written(path: Path) -> None:
    with open_journal(path) as writer:
        writer.commit([call(1)])
        with read_journal(path) as reader:
            writer.commit([call(2)])
            assert set(reader.responses([key(1), key(2)])) == {key(1), key(2)}
            with pytest.raises(FolderError, match="opened for reading"):
                reader.commit([call(3)])


def test_there_is_none_to_read(path: Path) -> None:
    with pytest.raises(FolderError, match="no journal"), read_journal(path):
        pass


def test_a_commit_is_synced(path: Path) -> None:
    with open_journal(path) as journal:
        assert journal._writer is not None
        (mode,) = journal._writer.execute("PRAGMA synchronous").fetchone()
        (kind,) = journal._writer.execute("PRAGMA journal_mode").fetchone()
    assert (mode, kind) == (2, "wal")


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    with open_journal(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE notes SET value = '99' WHERE name = 'format'")
    connection.close()
    with pytest.raises(NewerVersionError, match="format 99"), open_journal(path):
        pass


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"\0" * 8192])
def test_another_file_is_no_journal(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="damaged"), open_journal(path):
        pass
    assert path.read_bytes() == content


def test_another_database_is_no_journal(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(CorruptFileError, match="not a journal of ours"), open_journal(path):
        pass


def test_a_full_disk_loses_nothing_that_was_committed(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
        assert journal._writer is not None
        (pages,) = journal._writer.execute("PRAGMA page_count").fetchone()
        journal._writer.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.raises(DiskFullError, match="no room left"):
            journal.commit([call(2, "long " * 10_000), call(3)])
        assert set(journal.responses(map(key, (1, 2, 3)))) == {key(1)}
        journal._writer.execute("PRAGMA max_page_count = 1000000").fetchall()
        journal.commit([call(3)])
    with open_journal(path) as journal:
        assert set(journal.responses(map(key, (1, 2, 3)))) == {key(1), key(3)}


def test_a_lost_journal_beside_its_seal_is_damaged(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
    path.unlink()
    with pytest.raises(CorruptFileError, match="0 responses and 0 attempts, while 1 and 1"):  # noqa: SIM117
        with open_journal(path):
            pass
    commit_counter_of(path).unlink()
    with open_journal(path) as journal:
        assert journal.responses([key(1)]) == {}


def test_an_empty_file_is_no_journal(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CorruptFileError, match="it is empty"), open_journal(path):
        pass
    with pytest.raises(CorruptFileError, match="it is empty"), read_journal(path):
        pass


def test_a_torn_seal_is_damage(path: Path) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
    commit_counter_of(path).write_bytes(b"0000")
    with pytest.raises(CorruptFileError, match="seal"), open_journal(path):
        pass


def crashed_copy(journal: Journal, folder: Path) -> Path:
    """The files of a running journal as a crash leaves them."""
    shutil.copytree(journal.path.parent, folder)
    (folder / f"{journal.path.name}-shm").unlink()
    return folder / journal.path.name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    long=st.booleans(),
    checkpoint=st.integers(0, 6),
    which=st.sampled_from(["-wal", "", "-seal"]),
    cut=st.floats(0, 1),
    garbage=st.binary(max_size=40),
)
@example(batches=[1], long=True, checkpoint=0, which="", cut=0.875, garbage=b"")
@example(batches=[1], long=True, checkpoint=0, which="", cut=0.875, garbage=b"\x80")
def test_no_cut_goes_unnoticed(
    batches: list[int], long: bool, checkpoint: int, which: str, cut: float, garbage: bytes
) -> None:
    """However a file is cut, whatever its end: all that was acknowledged is there, or damage."""
    with tempfile.TemporaryDirectory() as folder:
        acknowledged = set()
        with open_journal(Path(folder) / "run" / "journal.sqlite") as journal:
            for number, size in enumerate(batches):
                keys = [number * 10 + n for n in range(size)]
                text = "word " * 2000 if long else ""
                journal.commit([call(n, text) for n in keys])
                acknowledged |= set(map(key, keys))
                if number == checkpoint:
                    assert journal._writer is not None
                    journal._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            copy = crashed_copy(journal, Path(folder) / "copy")
        torn = copy.with_name(copy.name + which)
        content = torn.read_bytes()
        torn.write_bytes(content[: int(len(content) * cut)] + garbage)
        try:
            with open_journal(copy) as journal:
                assert set(journal.responses(acknowledged)) == acknowledged
                journal.commit([call(1000)])
        except CorruptFileError:
            assert cut < 1 or garbage


@settings(max_examples=20, deadline=None)
@given(cut=st.floats(0, 1))
def test_an_unacknowledged_tail_is_dropped(cut: float) -> None:
    """A crash in the middle of a commit: cut anywhere after the acknowledged records."""
    with tempfile.TemporaryDirectory() as folder:
        with open_journal(Path(folder) / "run" / "journal.sqlite") as journal:
            journal.commit([call(1), call(2)])
            seal = commit_counter_of(journal.path).read_bytes()
            safe = journal.path.with_name("journal.sqlite-wal").stat().st_size
            journal.commit([call(3, "long " * 5000)])
            copy = crashed_copy(journal, Path(folder) / "copy")
        commit_counter_of(copy).write_bytes(seal)
        wal = copy.with_name("journal.sqlite-wal")
        content = wal.read_bytes()
        wal.write_bytes(content[: safe + int((len(content) - safe) * cut)])
        with open_journal(copy) as journal:
            assert set(journal.responses([key(1), key(2)])) == {key(1), key(2)}


@pytest.mark.parametrize("shared_memory", ["none", "empty", "stale"])
def test_what_a_crash_left_can_be_read(path: Path, tmp_path: Path, shared_memory: str) -> None:
    with open_journal(path) as journal:
        journal.commit([call(1)])
        copy = crashed_copy(journal, tmp_path / "copy")
        stale = path.with_name(f"{path.name}-shm").read_bytes()
    if shared_memory != "none":
        content = b"" if shared_memory == "empty" else bytes(len(stale))
        copy.with_name(f"{copy.name}-shm").write_bytes(content)
    with read_journal(copy) as journal:
        assert set(journal.responses([key(1)])) == {key(1)}


def test_an_answer_takes_the_place_of_a_failure_that_said_nothing_of_the_request(
    path: Path,
) -> None:
    """Earlier releases kept a server's refusal as a response."""
    refused, answered = refusal(2).response, call(2).response
    assert refused is not None
    lost = Call(refusal(1).attempt, StoredResponse(key(1), "generate", failure="bad_request"))
    with open_journal(path) as journal:
        journal.commit([lost, refusal(2)])
    with open_journal(path) as journal:
        journal.commit([call(1), call(2), call(1, "again")])
    with read_journal(path) as journal:
        found = journal.responses([key(1), key(2)])
        assert found == {key(1): call(1).response, key(2): refused}
        assert answered not in found.values()
        assert journal.states([key(1)])[key(1)].finish == "stop"
