"""What the journal already knows of requests, and which are still to be asked.

Follows each request's chain (`response_validation`) from response to response. Blocking: the engine
calls it in a thread, for some hundred requests at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from nanodistill.engine.response_validation import (
    VALIDATION_VERSION,
    Answer,
    Exchange,
    Failure,
    is_repair,
    next_step,
    with_double_room,
)
from nanodistill.journal import ASKED_AGAIN, CallState, Cause, Journal, StoredResponse, Validated
from nanodistill.types import Request

BATCH = 256


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that is still to be asked, on behalf of `root`: the same one, or what led to it."""

    root: Request
    request: Request
    key: str
    cause: Cause

    @property
    def is_root(self) -> bool:
        return self.request is self.root


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """Why a request has no response in this session, though it was asked often enough."""

    kind: str
    message: str


@dataclass(slots=True)
class LookupResult:
    """What the journal says of some requests.

    How many are done, how many of those were when it was opened, and what is open.
    """

    done: int = 0
    reused: int = 0
    open: list[PendingRequest] = field(default_factory=list)
    whole: list[Validated] = field(default_factory=list)


class ResponseIndex:
    """Reads chains from a journal. `lost` is shared with the engine, which adds to it."""

    def __init__(self, journal: Journal, lost: Mapping[str, FailedRequest]) -> None:
        self._journal = journal
        self._lost = lost

    def find(self, requests: Sequence[Request]) -> LookupResult:
        """Sort `requests` into done and open, reading texts only where it takes that to tell."""
        keyed = [(request.key, request) for request in requests]
        states = self._journal.states(key for key, _ in keyed)
        found = LookupResult()
        unsure: list[tuple[str, Request, bool]] = []
        for key, request in keyed:
            state = states.get(key)
            if state is not None and state.failure in ASKED_AGAIN:
                state = None
            if state is None and key not in self._lost:
                found.open.append(PendingRequest(request, request, key, "first"))
                continue
            was_there = state is not None and state.was_there
            if state is None or _is_done(request, state):
                found.done += 1
                found.reused += was_there
            else:
                unsure.append((key, request, was_there))
        self._look_into(unsure, found)
        return found

    def end(self, request: Request) -> Answer | Failure | PendingRequest:
        """The end of one chain."""
        return self._walk(request.key, request, {})

    def results(self, requests: Iterable[Request]) -> Iterator[Answer | Failure]:
        """Each request's answer or failure, in order.

        Raises:
            LookupError: a request has not been settled.
        """
        for batch in in_batches(requests):
            keyed = [(request.key, request) for request in batch]
            known = self._journal.responses(key for key, _ in keyed)
            for key, request in keyed:
                match self._walk(key, request, known):
                    case PendingRequest():
                        raise LookupError(f"a {request.stage} request was never settled")
                    case outcome:
                        yield outcome

    def _look_into(self, unsure: Sequence[tuple[str, Request, bool]], found: LookupResult) -> None:
        known = self._journal.responses(key for key, _, _ in unsure)
        for key, request, was_there in unsure:
            end = self._walk(key, request, known)
            if isinstance(end, PendingRequest):
                found.open.append(end)
                continue
            found.done += 1
            found.reused += was_there
            if isinstance(end, Answer) and end.keys == (key,):
                found.whole.append(Validated(key, VALIDATION_VERSION))

    def _walk(
        self, key: str, root: Request, known: Mapping[str, StoredResponse]
    ) -> Answer | Failure | PendingRequest:
        """The end of the chain of `root`: its outcome, or the request that is open."""
        chain: list[Exchange] = []
        request = root
        while (response := self._response(key, known)) is not None:
            if response.completion is None:
                keys = (*(link.key for link in chain), key)
                return Failure(root, response.failure or "", response.message, keys)
            chain.append(
                Exchange(request, key, response.completion, response.whole_by == VALIDATION_VERSION)
            )
            step = next_step(chain)
            if not isinstance(step, Request):
                return step
            request, key = self._as_asked(step, chain[-1])
        if (lost := self._lost.get(key)) is not None:
            return Failure(root, lost.kind, lost.message, (*(link.key for link in chain), key))
        return PendingRequest(root, request, key, _cause(request, chain))

    def _as_asked(self, step: Request, cut: Exchange) -> tuple[Request, str]:
        """The next request of a chain; where the journal has what was asked for it before, that."""
        if cut.completion.finish_reason == "length" and not is_repair(step):
            before = with_double_room(cut.request)
            if before is not None and self._answers(before.key):
                return before, before.key
        return step, step.key

    def _answers(self, key: str) -> bool:
        """Whether the journal holds a whole completion under `key`."""
        found = self._journal.responses([key]).get(key)
        return found is not None and (
            found.completion is not None and found.completion.finish_reason != "length"
        )

    def _response(self, key: str, known: Mapping[str, StoredResponse]) -> StoredResponse | None:
        response = known.get(key) or self._journal.responses([key]).get(key)
        return None if response is None or response.failure in ASKED_AGAIN else response


def in_batches(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """`requests`, some hundred at a time, pulled when they are needed."""
    rest = iter(requests)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _is_done(request: Request, state: CallState) -> bool:
    """Whether the state alone tells that the chain ends with the first response."""
    if state.failure is not None:
        return True
    ended = state.finish in ("stop", "tool_calls")
    return ended and (request.schema is None or state.whole_by == VALIDATION_VERSION)


def _cause(request: Request, chain: Sequence[Exchange]) -> Cause:
    if not chain:
        return "first"
    return "repair" if is_repair(request) else "longer"
