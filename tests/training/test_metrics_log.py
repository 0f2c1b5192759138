"""What a running training reports, to listeners and to trackio."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nanodistill.events import Event, Notice, Progress
from nanodistill.training.metrics_log import (
    MetricsReader,
    MetricsWriter,
    ProgressFollower,
    ProgressSnapshot,
    Record,
    progress_snapshot,
    read_records,
    truncate_after,
)

TRAINED: Record = {
    "kind": "train", "update": 3, "total": 9, "loss": 1.5, "smoothed": 1.6, "learning_rate": 0.1,
    "tokens_per_second": 50.0, "memory_gb": 1.25, "seconds_left": 12.0,
}  # fmt: skip
VALIDATED: Record = {
    "kind": "valid", "update": 3, "total": 9, "loss": 1.25, "score": 0.5, "best": True,
    "seconds": 1.0,
}  # fmt: skip

FAKE_TRACKIO = """
import json, pathlib
log_to = pathlib.Path(__file__).with_name("calls.jsonl")
def note(called, /, *args, **kwargs):
    with log_to.open("a") as file:
        file.write(json.dumps([called, args, kwargs]) + "\\n")
def init(**kwargs): note("init", **kwargs)
def log(*args, **kwargs): note("log", *args, **kwargs)
def finish(): note("finish")
"""


def events_of(*records: Record) -> list[Event]:
    events: list[Event] = []
    with ProgressFollower(events.append, None, "project", "run") as follower:
        for record in records:
            follower(record)
    return events


def test_records_become_events() -> None:
    assert events_of(VALIDATED, TRAINED) == [
        Notice("after update 3: validation loss 1.2500, score 50.0%, best so far"),
        Progress(
            "train", 3, 9, "updates", 12.0,
            {"loss": 1.5, "smoothed": 1.6, "valid": 1.25, "learning rate": 0.1, "tokens/s": 50.0,
             "memory GiB": 1.25},
        ),
    ]  # fmt: skip
    assert events_of({"kind": "said", "update": 1, "text": "paused", "level": "warning"}) == [
        Notice("paused", "warning")
    ]
    assert events_of(TRAINED | {"kind": "tick"}) == events_of(TRAINED)
    assert events_of({"kind": "checkpoint", "update": 1, "path": "x"}) == []


def test_metrics_go_to_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text(FAKE_TRACKIO)
    monkeypatch.syspath_prepend(str(tmp_path))
    with ProgressFollower(lambda event: None, "trackio", "mine", "abc") as follower:
        follower(TRAINED)
        follower(VALIDATED)
    del sys.modules["trackio"]
    lines = (tmp_path / "calls.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    assert calls[0] == ["init", [], {"project": "mine", "name": "abc", "resume": "allow"}]
    assert calls[1][1][0]["train/loss"] == 1.5
    assert calls[2][1:] == [
        [{"valid/loss": 1.25, "valid/score": 0.5, "valid/best": True, "valid/seconds": 1.0}],
        {"step": 3},
    ]
    assert calls[3] == ["finish", [], {}]


def write(path: Path, pid: int, *updates: int) -> None:
    writer = MetricsWriter(path)
    writer.write("started", updates[0] if updates else 0, pid=pid)
    for update in updates:
        writer.write("train", update, loss=float(update))
    writer.close()


def test_a_reader_hands_out_one_childs_records_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path, pid=2)
    assert reader.new_records() == []
    write(path, 1, 1, 2, 3)
    assert reader.new_records() == [], "another child's"
    truncate_after(path, 2)
    write(path, 2, 3)
    assert [r["update"] for r in reader.new_records()] == [3]
    assert reader.new_records() == []
    write(path, 2, 4)
    assert [r["update"] for r in reader.new_records()] == [4]


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 2, 1)
    reader = MetricsReader(path, pid=2)
    assert len(reader.new_records()) == 1
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "upda')
        file.flush()
        assert reader.new_records() == []
        file.write(b'te": 2}\n')
        file.flush()
        assert [r["update"] for r in reader.new_records()] == [2]


def test_what_a_crash_lost_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 1, 2, 3)
    with path.open("ab") as file:
        file.write(b'{"kind": "tr')
    truncate_after(path, 2)
    assert [r["update"] for r in read_records(path) if r["kind"] == "train"] == [1, 2]


def test_how_far_a_run_is_can_be_seen_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 1, 2)
    found = progress_snapshot(path)
    assert (found.update, found.loss, found.valid) == (2, 2.0, None)
    assert progress_snapshot(tmp_path / "none.jsonl") == ProgressSnapshot(0, None, None, None, None)
