"""An evaluation leaves a report, and stands also where none can be written."""

from __future__ import annotations

from evaluation.conftest import TinyRun
from nanodistill import evaluate
from nanodistill.events import Event, Notice


def test_an_evaluation_leaves_a_report(tiny: TinyRun) -> None:
    evaluate(tiny.config())
    page = tiny.run.report.read_text()
    assert all(row["input"] in page for row in tiny.dataset.rows("test"))
    assert str(tiny.root) not in page


def test_an_evaluation_stands_without_its_report(tiny: TinyRun) -> None:
    events: list[Event] = []
    tiny.run.report.mkdir()
    assert evaluate(tiny.config(), on_event=events.append).n == 6
    (warning,) = [one for one in events if isinstance(one, Notice) and one.level == "warning"]
    assert warning.text.startswith("report.html was not written: ")
