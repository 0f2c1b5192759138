"""The end of a thread that has used MLX.

Answers from a loaded model to requests that come and go.

A worker thread owns the batch; requests from any task of any event loop join it
as they come. Cancelling the task that waits frees the request's place at the
next token. Whatever fails in the worker is raised in every task that waits for
it, and the worker goes on with a new batch; a closed generator answers nobody,
and says so.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from nanodistill.models.batching import Generated, GenerationStep, SequenceBatch
from nanodistill.models.generation import Prompt, prompt_tokens, within_context
from nanodistill.models.sampling import Sampling

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream

    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor


def release_streams() -> None:
    """The last thing that a thread of ours does with MLX; it can't use it afterwards.

    MLX gives each thread streams of its own, with threads behind them. Left to the
    thread's end they are taken down while Python believes it to be over: when the
    interpreter ends at the same moment the process aborts ("terminate called without
    an active exception").
    """
    if "mlx.core" not in sys.modules:
        return
    import mlx.core as mx

    mx.synchronize()
    mx.clear_streams()


class GenerationError(RuntimeError):
    """An answer could not be computed. The cause is what was raised, in MLX or in a logits
    processor of the request."""


class GeneratorClosedError(GenerationError):
    """The generator was closed before this request had its answer."""


@dataclass(frozen=True)
class _AddRequest:
    request: int
    tokens: list[int]
    sampling: Sampling
    processors: Sequence[Processor]
    tell: Callable[[GenerationStep], None]


@dataclass(frozen=True)
class _CancelRequest:
    request: int


class _Close:
    pass


class _Mailbox:
    """Messages for the worker. Once it is shut, nothing joins that nobody would answer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_AddRequest | _CancelRequest | _Close] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._shut = False

    def put(self, message: _AddRequest | _CancelRequest) -> None:
        with self._lock:
            if not self._shut:
                self._queue.put(message)
            elif isinstance(message, _AddRequest):
                raise GeneratorClosedError("this generator is closed")

    def shut(self) -> None:
        with self._lock:
            self._shut = True
            self._queue.put(_Close())

    def get(self) -> _AddRequest | _CancelRequest | _Close:
        return self._queue.get()

    def empty(self) -> bool:
        return self._queue.empty()


class Generator:
    """Continuous batching as a service. Close it, or use it as an async context manager."""

    def __init__(self, loaded: LoadedModel, *, max_batch: int) -> None:
        self.loaded = loaded
        self._inbox = _Mailbox()
        self._numbers = itertools.count()
        self._open: set[int] = set()
        self._thread = threading.Thread(
            target=_Worker(loaded, max_batch, self._inbox).run,
            name=f"generate {loaded.source.name}",
            daemon=True,
        )
        self._thread.start()
        # A daemon thread inside MLX while the interpreter goes down would crash it.
        self._end = weakref.finalize(self, _end, self._inbox, self._thread)

    @property
    def open_requests(self) -> int:
        """How many are being answered or wait for a place."""
        return len(self._open)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> Generated:
        """The whole answer. Raises GenerationFailed."""
        async with aclosing(self._steps(prompt, sampling, processors, whole=True)) as steps:
            async for step in steps:
                if step.finished is not None:
                    return step.finished
        raise AssertionError("the worker's last word is an answer or a failure")

    async def stream(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> AsyncGenerator[GenerationStep]:
        """Pieces of text as they come; the last has the whole answer as `finished`. Leave it
        with `contextlib.aclosing` round it, which frees its place."""
        async with aclosing(self._steps(prompt, sampling, processors, whole=False)) as steps:
            async for step in steps:
                yield step

    def close(self) -> None:
        """End the worker, after the step it is in. Whoever waits gets GeneratorClosed."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    async def _steps(
        self, prompt: Prompt, sampling: Sampling, processors: Sequence[Processor], *, whole: bool
    ) -> AsyncGenerator[GenerationStep]:
        """What the worker tells of one request, the end alone if `whole`."""
        tokens = prompt_tokens(self.loaded, prompt)
        sampling = within_context(self.loaded, tokens, sampling)
        request = next(self._numbers)
        send, receive = anyio.create_memory_object_stream[GenerationStep](float("inf"))
        self._open.add(request)
        with send, receive:
            try:
                self._inbox.put(
                    _AddRequest(request, tokens, sampling, processors, _teller(send, whole))
                )
                async for step in receive:
                    if step.failed is not None:
                        raise _failure(step.failed)
                    yield step
                    if step.finished is not None:
                        return
            finally:
                self._open.remove(request)
                self._inbox.put(_CancelRequest(request))


def _failure(error: Exception) -> GenerationError:
    """An exception of its own for each task that waits: a shared one would mix tracebacks."""
    if isinstance(error, GeneratorClosedError):
        return GeneratorClosedError(*error.args)
    failure = GenerationError(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _end(inbox: _Mailbox, thread: threading.Thread) -> None:
    inbox.shut()
    thread.join()


def _teller(
    send: MemoryObjectSendStream[GenerationStep], whole: bool
) -> Callable[[GenerationStep], None]:
    """What the worker calls to pass a step to the event loop that is running now."""
    schedule = _scheduler()

    def deliver(step: GenerationStep) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            send.send_nowait(step)

    def tell(step: GenerationStep) -> None:
        last = step.finished is not None or step.failed is not None
        if last or (step.text and not whole):
            # The loop may have ended with the request still running: nobody waits any more.
            with suppress(RuntimeError):
                schedule(deliver, step)

    return tell


def _scheduler() -> Callable[..., object]:
    """How another thread runs a function in the event loop of this task."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        from trio.lowlevel import current_trio_token

        return current_trio_token().run_sync_soon


class _Worker:
    """The thread that owns the batch."""

    def __init__(self, loaded: LoadedModel, max_batch: int, inbox: _Mailbox) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._inbox = inbox
        self._tell: dict[int, Callable[[GenerationStep], None]] = {}

    def run(self) -> None:
        end: Exception = GeneratorClosedError(
            "the generator was closed before the answer was there"
        )
        try:
            self._serve(SequenceBatch(self._loaded, max_batch=self._max_batch))
        except Exception as error:  # noqa: BLE001 - raised in every task that waits
            end = error
        self._inbox.shut()
        while not isinstance(message := self._inbox.get(), _Close):
            if isinstance(message, _AddRequest):
                self._tell[message.request] = message.tell
        release_streams()
        self._fail_all(end)

    def _serve(self, batch: SequenceBatch) -> None:
        while self._take_messages(batch):
            try:
                steps = batch.step()
            except Exception as error:  # noqa: BLE001 - raised in every task that waits
                self._fail_all(error)
                batch.clear()
            else:
                self._pass_on(steps)
        batch.close()

    def _take_messages(self, batch: SequenceBatch) -> bool:
        """Let requests in and out, waiting for one if there is nothing to do. False: close."""
        while not len(batch) or not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, _Close):
                return False
            if isinstance(message, _CancelRequest):
                self._tell.pop(message.request, None)
                batch.remove(message.request)
            else:
                self._tell[message.request] = message.tell
                batch.add(message.request, message.tokens, message.sampling, message.processors)
        return True

    def _pass_on(self, steps: Sequence[GenerationStep]) -> None:
        for step in steps:
            self._tell[step.request](step)
            if step.finished is not None or step.failed is not None:
                del self._tell[step.request]

    def _fail_all(self, error: Exception) -> None:
        for request, tell in self._tell.items():
            tell(GenerationStep(request, failed=error))
        self._tell.clear()
