from __future__ import annotations

from providers.opened import request

from nanodistill.engine.call_queue import Batch, CallQueue
from nanodistill.engine.response_index import PendingRequest


def item(text: str) -> PendingRequest:
    wanted = request(text)
    return PendingRequest(wanted, wanted, wanted.key, "first")


def test_first_come_first_served_and_what_is_due_before_that() -> None:
    queue = CallQueue()
    for text in "abc":
        assert queue.accept(item(text), Batch())
    assert queue.next(0.0)
    queue.put_off(queue.take("openai/any"), until=5.0)
    queue.again(queue.take("openai/any"))
    assert queue.next_due() == 5.0
    assert [next_text(queue, at) for at in (1.0, 6.0, 6.0)] == ["c", "a", "b"]
    assert queue.next(6.0) == []


def next_text(queue: CallQueue, now: float) -> str:
    assert queue.next(now)
    return queue.take("openai/any").request.messages[-1]["content"]


def test_the_same_call_waits_for_the_one_under_way() -> None:
    queue = CallQueue()
    queue.accept(item("a"), Batch())
    queue.next(0.0)
    work = queue.take("openai/any")
    assert queue.accept(item("a"), Batch())
    assert queue.next(0.0) == []
    assert [want.open.key for want in queue.free(work)] == [item("a").key]


def test_what_was_freed_while_the_journal_was_looked_into_is_not_queued() -> None:
    """The look may have missed an answer that came in the meantime; asking would buy it twice."""
    queue = CallQueue()
    queue.accept(item("a"), Batch())
    queue.next(0.0)
    work = queue.take("openai/any")
    with queue.looking():
        assert queue.free(work) == []
        assert not queue.accept(item("a"), Batch())
        assert queue.accept(item("b"), Batch())
    with queue.looking():
        assert queue.accept(item("a"), Batch())


def test_a_repeated_call_is_a_retry() -> None:
    queue = CallQueue()
    queue.accept(item("a"), Batch())
    causes = []
    for _ in range(2):
        queue.next(0.0)
        work = queue.take("openai/any")
        causes.append(work.cause)
        queue.again(work)
    assert causes == ["first", "retry"]
