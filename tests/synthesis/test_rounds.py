"""Rounds that overlap: what is asked when, and that nothing depends on it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from nanodistill.errors import TooFewRowsError
from nanodistill.journal import read_journal
from nanodistill.providers.base import Reply
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import plan
from nanodistill.types import Request
from synthesis.runs import Notices, config_in, run
from synthesis.writer import SEEDS, Writer

LARGE = {"augment_factor": 50, "thinking_format": "none", "max_concurrency": 4}
PRICE = {"input": 1.0, "output": 2.0}


class Held:
    """A writer that keeps the first call of the first round until one of the third was asked."""

    endpoint = "python"

    def __init__(self) -> None:
        self.writer = Writer()
        self._answers = ScriptedProvider(self.writer)
        self._third_begun = anyio.Event()
        self.kept = 0

    async def complete(self, request: Request) -> Reply:
        said = request.messages[-1]["content"]
        if "written already" in said:
            self._third_begun.set()
        if self.kept == 0 and request.stage == "generate":
            self.kept = 1
            with anyio.move_on_after(0.5):
                await self._third_begun.wait()
            self.kept = 2 if self._third_begun.is_set() else 1
        return await self._answers.complete(request)

    async def aclose(self) -> None:
        """Nothing to close."""


class Slow(Held):
    """A writer whose answers take so long, the same call always the same time."""

    async def complete(self, request: Request) -> Reply:
        await anyio.sleep(int(request.key[:2], 16) / 25_000)
        return await self._answers.complete(request)


def test_the_next_round_is_asked_while_this_one_waits_and_the_one_after_is_not(
    tmp_path: Path,
) -> None:
    """The first round's slowest answer holds up the third round, and the second one not."""
    held = Held()
    result = run(config_in(tmp_path, **LARGE), held)
    generate = [r for r in held.writer.asked if r.stage == "generate"]
    told = ["written already" in r.messages[-1]["content"] for r in generate]
    assert held.kept == 1
    assert result.kept == 600
    assert told.index(True) == 56


def test_rounds_that_overlap_give_the_same_rows_whatever_comes_first(tmp_path: Path) -> None:
    fields = LARGE | {"augment_factor": 40, "thinking_format": "xml"}
    seen = set()
    for at_once in (1, 3, 40):
        config = config_in(tmp_path / str(at_once), **(fields | {"max_concurrency": at_once}))
        provider = Slow() if at_once > 1 else Writer()
        result = run(config, provider)
        assert result.dataset is not None
        seen.add(result.dataset.fingerprint)
    assert len(seen) == 1


def test_what_was_asked_ahead_is_read_also_where_rounds_bring_nothing_new(tmp_path: Path) -> None:
    teacher = Writer(repeats=0.99)
    with pytest.raises(TooFewRowsError):
        run(config_in(tmp_path, **LARGE, min_rows=300), teacher)
    with read_journal(tmp_path / "run" / "journal.sqlite") as journal:
        sums = journal.sums()
    unread = Writer(repeats=0.99)
    result = run(config_in(tmp_path, **LARGE, min_rows=1), unread)
    assert result.stopped_because == "saturated"
    assert not unread.asked
    assert result.calls["reused"] == sum(
        sums[stage].answered for stage in ("blind", "generate", "check")
    )
    assert result.requested == len(SEEDS) + 3 * 128


@pytest.mark.parametrize("temperature", [0.7, 0.0])
def test_it_says_what_all_rows_take_before_it_asks(tmp_path: Path, temperature: float) -> None:
    """At temperature 0 the seeds were answered in the same words by the blind check."""
    heard = Notices()
    fields = {"augment_factor": 50, "teacher_price": PRICE, "temperature": temperature}
    run(config_in(tmp_path, **fields), Writer(), on_event=heard)
    (said,) = [text for text in heard.texts if text.startswith("First round")]
    assert said.startswith("First round of generation: 28 to ask, about $0.0")
    assert "All rows: about 717 calls, about $1." in said


def test_plan_counts_what_was_asked_ahead(tmp_path: Path) -> None:
    """A run that ended in its first two rounds: both rounds' answers are known to the plan."""

    async def known(config: object) -> tuple[int, int]:
        estimate = await plan(config, provider=ScriptedProvider(Writer()))  # type: ignore[arg-type]
        generate = {stage.stage: stage for stage in estimate.stages}["generate"]
        return generate.reused, generate.fewest

    config = config_in(tmp_path, **LARGE)
    before = anyio.run(known, config)
    with pytest.raises(Exception, match="max_calls"):
        run(config_in(tmp_path, **LARGE, max_calls=42), Writer())
    after = anyio.run(known, config)
    assert before == (0, 118)
    with read_journal(tmp_path / "run" / "journal.sqlite") as journal:
        there = journal.sums()["generate"].answered
    assert after[0] == there
    assert after[1] == pytest.approx(118 - there, abs=3)


def test_a_larger_augment_factor_asks_for_the_new_rows_alone(tmp_path: Path) -> None:
    fields = LARGE | {"augment_factor": 90}
    first = run(config_in(tmp_path, **fields), Writer())
    more = Writer()
    second = run(config_in(tmp_path, **(fields | {"augment_factor": 110})), more)
    generate = [request for request in more.asked if request.stage == "generate"]
    assert (first.kept, second.kept) == (1080, 1320)
    assert len(generate) < 80
