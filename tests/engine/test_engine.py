"""The engine on a real event loop, with threads and a journal on the disk."""

from __future__ import annotations

import gc
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from providers.opened import KEY

from engine.running import requests_for, running, told
from nanodistill.engine.response_validation import REPAIR_SYSTEM, Answer, Failure
from nanodistill.engine.stop_signal import SIGNALS, StopSignal
from nanodistill.errors import (
    BudgetExceededError,
    ConfigError,
    DiskFullError,
    FatalProviderError,
    RequestRejectedError,
    RunInterruptedError,
    TeacherUnavailableError,
    TransientError,
)
from nanodistill.events import Event, Progress
from nanodistill.journal import open_journal, read_journal
from nanodistill.providers.base import Reply
from nanodistill.types import Completion, Request, Usage

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}
TEXTS = [f"text {n}" for n in range(60)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Asked:
    """A teacher function that counts what it is asked, and answers `answer(text, nth time)`."""

    def __init__(self, answer: Any = None) -> None:
        self.counts: Counter[str] = Counter()
        self._answer = answer or (lambda text, _: text.upper())

    async def __call__(self, request: Request) -> Any:
        text = request.messages[-1]["content"]
        self.counts[text] += 1
        await anyio.lowlevel.checkpoint()
        given = self._answer(text, self.counts[text])
        if isinstance(given, BaseException):
            raise given
        return given

    @property
    def calls(self) -> int:
        return self.counts.total()


async def test_outcomes_come_in_plan_order_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    asked = Asked()
    async with running(tmp_path, asked) as teacher:
        requests = requests_for(teacher, TEXTS)
        await teacher.complete_all(reversed(requests))
        await teacher.complete_all(iter(requests))
        assert told(teacher.results(requests)) == [text.upper() for text in TEXTS]
    assert asked.calls == len(TEXTS)


async def test_another_session_goes_on_from_the_journal(tmp_path: Path) -> None:
    first, second = Asked(), Asked()
    async with running(tmp_path, first) as teacher:
        await teacher.complete_all(requests_for(teacher, TEXTS[:40]))
        assert (teacher.account.made, teacher.account.reused) == (40, 0)
    async with running(tmp_path, second) as teacher:
        requests = requests_for(teacher, TEXTS)
        survey = await teacher.survey(requests)
        assert (survey.reused, survey.to_ask, second.calls) == (40, 20, 0)
        await teacher.complete_all(requests)
        assert told(teacher.results(requests)) == [text.upper() for text in TEXTS]
        assert (teacher.account.made, teacher.account.reused) == (20, 40)
    assert second.calls == 20


async def test_what_was_never_settled_has_no_outcome(tmp_path: Path) -> None:
    async with running(tmp_path, Asked()) as teacher:
        with pytest.raises(LookupError, match="never settled"):
            list(teacher.results(requests_for(teacher, ["a"])))


async def test_equal_requests_are_asked_once_and_ordinals_tell_them_apart(tmp_path: Path) -> None:
    asked = Asked(lambda text, nth: f"{text} {nth}")
    async with running(tmp_path, asked) as teacher:
        same = requests_for(teacher, ["x"] * 5)
        other = requests_for(teacher, ["x"], ordinal=1)
        await teacher.complete_all([*same, *other])
        assert len(set(told(teacher.results(same)))) == 1
        assert asked.calls == 2


async def test_malformed_answers_are_repaired_once(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.messages[0]["content"] == REPAIR_SYSTEM:
            return '{"label": "a"}' if "mendable" in request.messages[-1]["content"] else "no"
        return request.messages[-1]["content"]

    texts = ['{"label": "b"}', "mendable", "hopeless"]
    for session in range(2):
        async with running(tmp_path, answer) as teacher:
            requests = requests_for(teacher, texts, schema=SCHEMA)
            await teacher.complete_all(requests)
            whole, mended, lost = teacher.results(requests)
            assert isinstance(whole, Answer)
            assert (whole.data, len(whole.keys)) == ({"label": "b"}, 1)
            assert isinstance(mended, Answer)
            assert (mended.data, len(mended.keys)) == ({"label": "a"}, 2)
            assert isinstance(lost, Failure)
            assert (lost.kind, len(lost.keys)) == ("malformed", 2)
            assert teacher.account.made == (5 if session == 0 else 0)
            assert teacher.account.repaired == (2 if session == 0 else 0)
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].repairs == 2


async def test_a_malformed_answer_is_repaired_in_the_next_session(tmp_path: Path) -> None:
    async with running(tmp_path, ["no JSON"], max_calls=1) as teacher:
        with pytest.raises(BudgetExceededError):
            await teacher.complete_all(requests_for(teacher, ["x"], schema=SCHEMA))
    async with running(tmp_path, ['{"label": "a"}']) as teacher:
        requests = requests_for(teacher, ["x"], schema=SCHEMA)
        assert (await teacher.survey(requests)).to_ask == 1
        await teacher.complete_all(requests)
        (answer,) = teacher.results(requests)
        assert isinstance(answer, Answer)
        assert (answer.data, len(answer.keys)) == ({"label": "a"}, 2)
        assert (teacher.account.made, teacher.account.repaired) == (1, 1)


async def test_one_repair_serves_all_who_need_the_same(tmp_path: Path) -> None:
    repairs = 0

    async def answer(request: Request) -> str:
        nonlocal repairs
        await anyio.sleep(0.01)
        if request.messages[0]["content"] == REPAIR_SYSTEM:
            repairs += 1
            return '{"label": "a"}'
        return "the same broken text"

    async with running(tmp_path, answer) as teacher:
        requests = requests_for(teacher, TEXTS, schema=SCHEMA)
        await teacher.complete_all(requests)
        assert {type(outcome) for outcome in teacher.results(requests)} == {Answer}
    assert repairs == 1


async def test_truncated_answers_are_asked_with_more_room(tmp_path: Path) -> None:
    def answer(request: Request) -> Completion:
        limit = request.params["max_tokens"]
        long = limit < 150 or "endless" in request.messages[-1]["content"]
        return Completion("word " * limit, "length" if long else "stop", Usage(5, limit))

    async with running(tmp_path, answer) as teacher:
        requests = requests_for(teacher, ["long", "endless"], params={"max_tokens": 100})
        await teacher.complete_all(requests)
        whole, cut = teacher.results(requests)
        assert isinstance(whole, Answer)
        assert whole.completion.usage.completion_tokens == 200
        assert isinstance(cut, Failure)
        assert cut.kind == "truncated"


async def test_a_refusal_is_final_and_a_transient_failure_is_not(tmp_path: Path) -> None:
    def answer(text: str, _: int) -> Any:
        if text == "forbidden":
            return RequestRejectedError("refusal", "I can't help with that.")
        return TransientError("server_error", "boom", status=500) if text == "unlucky" else text

    texts = [*TEXTS, "forbidden", "unlucky"]
    first = Asked(answer)
    async with running(tmp_path, first, max_retries=0) as teacher:
        requests = requests_for(teacher, texts)
        await teacher.complete_all(requests)
        await teacher.complete_all(requests)
        assert told(teacher.results(requests))[-2:] == ["<refusal>", "<server_error>"]
    assert first.counts["unlucky"] == first.counts["forbidden"] == 1
    second = Asked()
    async with running(tmp_path, second, max_retries=0) as teacher:
        await teacher.complete_all(requests_for(teacher, texts))
        assert told(teacher.results(requests))[-2:] == ["<refusal>", "UNLUCKY"]
    assert second.counts == {"unlucky": 1}


async def test_a_bad_key_costs_one_call(tmp_path: Path) -> None:
    asked = Asked(lambda *_: FatalProviderError("bad_key", "the API key is not valid", status=401))
    async with running(tmp_path, asked) as teacher:
        with pytest.raises(TeacherUnavailableError, match="the API key is not valid") as stopped:
            await teacher.complete_all(requests_for(teacher, TEXTS))
    assert asked.calls == 1
    assert stopped.value.exit_code == 3
    assert stopped.value.next_step is not None


async def test_max_calls_is_exact_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    asked = Asked()
    for most in (25, 40):
        async with running(tmp_path, asked, max_calls=most) as teacher:
            with pytest.raises(BudgetExceededError, match=f"max_calls is {most}"):
                await teacher.complete_all(requests_for(teacher, TEXTS))
        assert asked.calls == most
    assert set(asked.counts.values()) == {1}


async def test_max_cost_is_never_passed(tmp_path: Path) -> None:
    spent = 0.0

    async def answer(request: Request) -> Completion:
        nonlocal spent
        await anyio.sleep(0.002)
        usage = Usage(20, 10 + 15 * (len(request.messages[-1]["content"]) % 7))
        spent += usage.prompt_tokens * 1e-6 + usage.completion_tokens * 2e-6
        return Completion("x", "stop", usage, cost_usd=None)

    price = {"input": 1.0, "output": 2.0}
    async with running(tmp_path, answer, max_cost_usd=0.02, teacher_price=price) as teacher:
        texts = ("text " * (n % 11) + str(n) for n in range(10_000))
        with pytest.raises(BudgetExceededError, match=r"max_cost_usd is \$0.02"):
            await teacher.complete_all(
                teacher.request("g", [{"role": "user", "content": t}], params={"max_tokens": 100})
                for t in texts
            )
        assert teacher.account.made > 50
    assert 0.019 < spent <= 0.02


async def test_an_answer_without_usage_counts_as_estimated(tmp_path: Path) -> None:
    """A server that does not say what it bills can't make a limit void."""
    async with running(tmp_path, lambda text: text, max_tokens_total=5000) as teacher:
        with pytest.raises(BudgetExceededError, match="max_tokens_total is 5,000"):
            await teacher.complete_all(
                requests_for(teacher, map(str, range(10_000)), params={"max_tokens": 50})
            )
        assert 50 <= teacher.account.made <= 100


async def test_answers_are_priced_by_the_users_own_prices(tmp_path: Path) -> None:
    answer = Completion("x", "stop", Usage(1000, 100))
    price = {"input": 1.0, "output": 10.0}
    async with running(tmp_path, lambda text: answer, teacher_price=price) as teacher:
        requests = requests_for(teacher, ["a", "b"])
        assert (await teacher.survey(requests)).cost_usd is not None
        await teacher.complete_all(requests)
        assert teacher.account.known_cost == pytest.approx(0.004)
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].known_cost == pytest.approx(0.004)


async def test_a_dollar_limit_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set teacher_price"):
        async with running(tmp_path, Asked(), max_cost_usd=1.0):
            pass


class Gate:
    """A teacher that answers when it is told to."""

    endpoint = "gate"

    def __init__(self) -> None:
        self.started = 0
        self.open = anyio.Event()
        self.all_started = anyio.Event()
        self.wanted = 0

    async def complete(self, request: Request) -> Reply:
        self.started += 1
        if self.started > 1:
            if self.started == self.wanted:
                self.all_started.set()
            await self.open.wait()
        return Reply(Completion("done", "stop", Usage()))

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_interrupting_lets_calls_in_flight_come_back(tmp_path: Path) -> None:
    gate, stop = Gate(), StopSignal()
    gate.wanted = 6

    async def interrupt() -> None:
        await gate.all_started.wait()
        stop.request()
        await anyio.sleep(0.05)
        gate.open.set()

    async with (
        running(tmp_path, gate, stop=stop, max_concurrency=5) as teacher,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(interrupt)
        with pytest.raises(RunInterruptedError) as interrupted:
            await teacher.complete_all(requests_for(teacher, TEXTS))
    assert interrupted.value.exit_code == 130
    assert gate.started == 6
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].answered == 6


async def test_interrupting_twice_leaves_now(tmp_path: Path) -> None:
    gate, stop = Gate(), StopSignal()
    gate.wanted = 6

    async def interrupt() -> None:
        await gate.all_started.wait()
        stop.request()
        stop.request()

    async with (
        running(tmp_path, gate, stop=stop, max_concurrency=5) as teacher,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(interrupt)
        with anyio.fail_after(5), pytest.raises(RunInterruptedError):
            await teacher.complete_all(requests_for(teacher, TEXTS))
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].answered == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_mean_stop(number: signal.Signals) -> None:
    stop = StopSignal()
    as_found = signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = [signal.getsignal(each) for each in SIGNALS]
    async with stop.on_signals():
        os.kill(os.getpid(), number)
        with anyio.fail_after(5):
            await stop.requested()
        assert not stop.is_leaving
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with anyio.fail_after(5):
            await stop.leaving()
    after = [signal.getsignal(each) for each in SIGNALS]
    signal.signal(signal.SIGTERM, as_found)
    assert after == before


async def test_after_a_stop_nothing_is_settled_any_more(tmp_path: Path) -> None:
    stop, asked = StopSignal(), Asked()
    stop.request()
    async with running(tmp_path, asked, stop=stop) as teacher:
        with pytest.raises(RunInterruptedError):
            await teacher.complete_all(requests_for(teacher, TEXTS))
    assert asked.calls == 0


async def test_a_bug_ends_the_run_and_keeps_what_arrived(tmp_path: Path) -> None:
    class Buggy:
        endpoint = "buggy"
        calls = 0

        async def complete(self, request: Request) -> Reply:
            self.calls += 1
            if self.calls == 10:
                raise ZeroDivisionError
            return Reply(Completion("fine", "stop", Usage()))

        async def aclose(self) -> None:
            """Nothing to close."""

    async with running(tmp_path, Buggy(), max_concurrency=1) as teacher:
        with pytest.raises(ZeroDivisionError):
            await teacher.complete_all(requests_for(teacher, TEXTS))
    with read_journal(tmp_path / "journal.sqlite") as journal:
        assert journal.sums()["generate"].answered == 9


async def test_an_error_in_the_plan_comes_out_as_it_is(tmp_path: Path) -> None:
    async with running(tmp_path, Asked()) as teacher:

        def broken() -> Iterator[Request]:
            yield from requests_for(teacher, TEXTS[:3])
            raise KeyError("plan")

        with pytest.raises(KeyError, match="plan"):
            await teacher.complete_all(broken())


async def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    async with running(tmp_path, Asked(lambda text, _: text * 5000)) as teacher:
        writer: sqlite3.Connection = teacher._session.recorder._journal._writer  # type: ignore[assignment]
        writer.execute("PRAGMA max_page_count = 40").fetchall()
        with pytest.raises(DiskFullError, match="no room left"):
            await teacher.complete_all(requests_for(teacher, TEXTS))
        assert teacher.account.made < len(TEXTS) + 1
    with open_journal(tmp_path / "journal.sqlite"):
        """It opens, whole."""


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_keys_reach_no_file_of_the_journal(tmp_path: Path) -> None:
    def answer(text: str, nth: int) -> Any:
        if text == "text 1":
            return RequestRejectedError("bad_request", f"key {KEY} may not do that")
        if nth == 1:
            return TransientError("server_error", f"key {KEY} met an error", status=500)
        return "an answer"

    kwargs = {"api_key": KEY}
    async with running(tmp_path, Asked(answer), litellm_kwargs=kwargs, max_retries=0) as teacher:
        requests = requests_for(teacher, TEXTS[:3])
        await teacher.complete_all(requests)
        assert KEY not in "".join(map(str, teacher.results(requests)))
        assert KEY.encode() not in all_bytes(tmp_path)


async def test_an_answer_is_stored_as_it_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    said = "Restart the postgres server."
    async with running(tmp_path, lambda text: said) as teacher:
        requests = requests_for(teacher, ["a"])
        await teacher.complete_all(requests)
        assert told(teacher.results(requests)) == [said]


async def test_work_is_pulled_as_it_is_needed(tmp_path: Path) -> None:
    asked, pulled = Asked(), 0

    async with running(tmp_path, asked, max_calls=20) as teacher:

        def plan() -> Iterator[Request]:
            nonlocal pulled
            for n in range(1_000_000):
                pulled += 1
                yield from requests_for(teacher, [f"text {n}"])

        with pytest.raises(BudgetExceededError):
            await teacher.complete_all(plan())
    assert pulled <= 1024


def calls_in_memory() -> int:
    return sum(isinstance(each, Request | Completion) for each in gc.get_objects())


async def test_memory_does_not_grow_with_the_work(tmp_path: Path) -> None:
    """However much is planned and done, what is kept of it are some hundred calls.

    In bytes, for 100,000 calls: tests/benchmarks/hundred_thousand.py.
    """
    held = []
    gc.collect()
    before = calls_in_memory()

    async def answer(text: str) -> Completion:
        if int(text) % 500 == 499:
            held.append(calls_in_memory() - before)
        return Completion(text, "stop", Usage(1, 1))

    async with running(tmp_path, answer) as teacher:
        for calls in (1500, 3500):
            await teacher.complete_all(requests_for(teacher, [str(n)])[0] for n in range(calls))
    assert len(held) == 7
    assert max(held) < 2200


async def test_progress_tells_the_figures(tmp_path: Path) -> None:
    events: list[Event] = []
    answer = Completion("x", "stop", Usage(10, 10), cost_usd=0.5)
    async with running(tmp_path, lambda text: answer, on_event=events.append) as teacher:
        await teacher.complete_all(requests_for(teacher, TEXTS, stage="traces"))
    last = events[-1]
    assert isinstance(last, Progress)
    assert (last.stage, last.done, last.total, last.unit) == ("traces", 60, 60, "calls")
    assert {"calls/s", "tokens/s", "in flight", "limit", "refused", "retried"} <= set(last.figures)
    assert last.figures["spent"] == "$30.00"


async def test_the_ledger_keeps_each_attempt(tmp_path: Path) -> None:
    def answer(text: str, nth: int) -> Any:
        if text == "b" and nth == 1:
            return TransientError("server_error", "boom", status=503, retry_after=0.0)
        return Completion(text, "stop", Usage(10, 5, 2, 1), cost_usd=0.01)

    async with running(tmp_path, Asked(answer)) as teacher:
        await teacher.complete_all(requests_for(teacher, ["a", "b"]))
        assert (teacher.account.made, teacher.account.retried) == (3, 1)
        assert teacher.account.known_cost == pytest.approx(0.02)
    with read_journal(tmp_path / "journal.sqlite") as journal:
        attempts = [(a.cause, a.outcome, a.kind, a.status) for a in journal.attempts()]
        assert sorted(attempts, key=str) == [
            ("first", "answered", None, None),
            ("first", "failed", "server_error", 503),
            ("retry", "answered", None, None),
        ]
        assert journal.sums()["generate"].usage == Usage(20, 10, 4, 2)


async def test_an_answer_with_half_a_character_is_kept(tmp_path: Path) -> None:
    half = json.loads('"\\ud83d"')
    async with running(tmp_path, lambda text: Completion(half, "stop", Usage())) as teacher:
        requests = requests_for(teacher, ["a"])
        await teacher.complete_all(requests)
        assert told(teacher.results(requests)) == ["\ufffd"]
