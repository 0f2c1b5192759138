"""Answers from a loaded model: `generate_batch` for a list of prompts, `Generator` for a service.

`generate_batch` and `generate_each` need no thread. A `Generator` has a worker thread
that owns the batch; requests from any task of any event loop join it as they come.
Cancelling the waiting task frees the request's place at the next token. Whatever fails
in the worker is raised in every task that waits, and the worker continues with a new
batch. A closed generator raises `GeneratorClosedError`.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Generator as SyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import anyio

from nanodistill.errors import InputError, ModelError
from nanodistill.models.batching import Generated, GenerationStep, SequenceBatch
from nanodistill.models.sampling import Sampling

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream

    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor

Message = Mapping[str, Any]
Prompt = Sequence[int] | Sequence[Message]
"""Tokens, or messages with role and content for the model's chat template."""


class PromptTooLongError(InputError):
    """A prompt that leaves no room for an answer in the model's context, both in tokens."""

    def __init__(self, model: str, tokens: int, limit: int) -> None:
        super().__init__(
            f"The prompt has {tokens} tokens; the context of {model} is {limit}, answer included"
        )
        self.tokens = tokens
        self.limit = limit


class GenerationError(RuntimeError):
    """An answer could not be computed. The cause is what MLX or a logits processor raised."""


class GeneratorClosedError(GenerationError):
    """The generator was closed before this request had its answer."""


def prompt_tokens(loaded: LoadedModel, prompt: Prompt) -> list[int]:
    """Tokenize `prompt`. If its last message is the assistant's, generation continues it.

    Raises:
        InputError: it is empty, or the chat template rejects it.
        PromptTooLongError: it fills the model's context.
        ModelError: the model has no chat template.
    """
    if prompt and isinstance(prompt[0], Mapping):
        tokens = _apply_template(loaded, prompt)
    else:
        tokens = list(cast("Sequence[int]", prompt))
    limit = loaded.config.get("max_position_embeddings")
    if not tokens:
        raise InputError("the prompt is empty")
    if limit is not None and len(tokens) >= limit:
        raise PromptTooLongError(loaded.source.name, len(tokens), limit)
    return tokens


def _apply_template(loaded: LoadedModel, messages: Sequence[Any]) -> list[int]:
    from jinja2 import TemplateError

    if not loaded.tokenizer.has_chat_template:
        raise ModelError(
            f"{loaded.source.name} is a base model: it has no chat template for messages",
            next_step="Choose an instruct or chat model.",
        )
    continues = messages[-1]["role"] == "assistant"
    try:
        return loaded.chat.tokens(
            messages, add_generation_prompt=not continues, continue_final_message=continues
        )
    except (TemplateError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"The chat template of {loaded.source.name} rejects these messages: {error}"
        ) from error


def within_context(loaded: LoadedModel, tokens: Sequence[int], sampling: Sampling) -> Sampling:
    """`sampling` with `max_tokens` limited to what is left of the context."""
    limit = loaded.config.get("max_position_embeddings")
    room = sampling.max_tokens if limit is None else limit - len(tokens)
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))


def generate_each(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    max_batch: int,
) -> SyncGenerator[tuple[int, Generated]]:
    """Yield answers with the indices of their prompts, as they finish.

    Long prompts go first, so that those processed together have similar lengths.
    """
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    tokens = [prompt_tokens(loaded, prompt) for prompt in prompts]
    batch = SequenceBatch(loaded, max_batch=max_batch)
    try:
        for i in sorted(range(len(tokens)), key=lambda i: -len(tokens[i])):
            batch.add(i, tokens[i], within_context(loaded, tokens[i], samplings[i]))
        while len(batch):
            for step in batch.step():
                if step.finished is not None:
                    yield step.request, step.finished
    finally:
        batch.close()


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    max_batch: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Generated]:
    """Answer every prompt; the answers are in the order of the prompts.

    Args:
        sampling: one for all prompts, or one for each.
        max_batch: prompts computed together.
        on_progress: called as `on_progress(done, total)` after each answer.

    Example:
        >>> loaded = load_model("smollm2-135m")
        >>> messages = [{"role": "user", "content": "Name a colour."}]
        >>> generate_batch(loaded, [messages], Sampling(max_tokens=16), max_batch=8)[0].text
    """
    answers: dict[int, Generated] = {}
    for i, generated in generate_each(loaded, prompts, sampling, max_batch=max_batch):
        answers[i] = generated
        if on_progress is not None:
            on_progress(len(answers), len(prompts))
    return [answers[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class _AddRequest:
    request: int
    tokens: list[int]
    sampling: Sampling
    processors: Sequence[Processor]
    send: Callable[[GenerationStep], None]


@dataclass(frozen=True)
class _CancelRequest:
    request: int


class _Close:
    pass


class _Mailbox:
    """Messages to the worker. Once closed it accepts no request that nobody would answer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_AddRequest | _CancelRequest | _Close] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, message: _AddRequest | _CancelRequest) -> None:
        with self._lock:
            if not self._closed:
                self._queue.put(message)
            elif isinstance(message, _AddRequest):
                raise GeneratorClosedError("this generator is closed")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._queue.put(_Close())

    def get(self) -> _AddRequest | _CancelRequest | _Close:
        return self._queue.get()

    def empty(self) -> bool:
        return self._queue.empty()


class Generator:
    """Continuous batching as a service. Close it, or use it as an async context manager.

    Example:
        >>> async with Generator(loaded, max_batch=8) as generator:
        ...     answer = await generator.generate(messages, Sampling(max_tokens=64))
    """

    def __init__(self, loaded: LoadedModel, *, max_batch: int) -> None:
        self.loaded = loaded
        self._mailbox = _Mailbox()
        self._numbers = itertools.count()
        self._open: set[int] = set()
        self._thread = threading.Thread(
            target=_Worker(loaded, max_batch, self._mailbox).run,
            name=f"generate {loaded.source.name}",
            daemon=True,
        )
        self._thread.start()
        # A daemon thread inside MLX crashes the interpreter as it shuts down.
        self._close = weakref.finalize(self, _close_and_join, self._mailbox, self._thread)

    @property
    def open_requests(self) -> int:
        """Requests being answered or waiting for a place."""
        return len(self._open)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> Generated:
        """The complete answer.

        Args:
            processors: change the logits of this request before each token.

        Raises:
            InputError: see `prompt_tokens`.
            GenerationError: it could not be computed.
        """
        async with aclosing(self._steps(prompt, sampling, processors, last_only=True)) as steps:
            async for step in steps:
                if step.finished is not None:
                    return step.finished
        raise AssertionError("the worker ends every request with an answer or a failure")

    async def stream(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> AsyncGenerator[GenerationStep]:
        """Yield pieces of text as they are generated; the last has the answer as `finished`.

        Wrap it in `contextlib.aclosing`, so that leaving early frees the request's place.
        """
        async with aclosing(self._steps(prompt, sampling, processors, last_only=False)) as steps:
            async for step in steps:
                yield step

    def close(self) -> None:
        """End the worker after its current step. Waiting tasks get GeneratorClosedError."""
        self._close()

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
        self,
        prompt: Prompt,
        sampling: Sampling,
        processors: Sequence[Processor],
        *,
        last_only: bool,
    ) -> AsyncGenerator[GenerationStep]:
        """The steps of one request that have text or end it, or only the last."""
        tokens = prompt_tokens(self.loaded, prompt)
        sampling = within_context(self.loaded, tokens, sampling)
        request = next(self._numbers)
        send, receive = anyio.create_memory_object_stream[GenerationStep](float("inf"))
        self._open.add(request)
        with send, receive:
            try:
                sender = _sender(send, last_only=last_only)
                self._mailbox.put(_AddRequest(request, tokens, sampling, processors, sender))
                async for step in receive:
                    if isinstance(step.failed, GeneratorClosedError):
                        # A new exception for each task: a shared one would mix tracebacks.
                        raise GeneratorClosedError(*step.failed.args)
                    if step.failed is not None:
                        message = f"{type(step.failed).__name__}: {step.failed}"
                        raise GenerationError(message) from step.failed
                    yield step
                    if step.finished is not None:
                        return
            finally:
                self._open.remove(request)
                self._mailbox.put(_CancelRequest(request))


def _close_and_join(mailbox: _Mailbox, thread: threading.Thread) -> None:
    mailbox.close()
    thread.join()


def _sender(
    stream: MemoryObjectSendStream[GenerationStep], *, last_only: bool
) -> Callable[[GenerationStep], None]:
    """A function that passes a step from the worker to the event loop running now."""
    schedule: Callable[..., object]
    try:
        schedule = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:  # no asyncio loop: this is trio
        from trio.lowlevel import current_trio_token

        schedule = current_trio_token().run_sync_soon

    def deliver(step: GenerationStep) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            stream.send_nowait(step)

    def send(step: GenerationStep) -> None:
        last = step.finished is not None or step.failed is not None
        if last or (step.text and not last_only):
            # RuntimeError: the loop ended with the request still running, so nobody waits.
            with suppress(RuntimeError):
                schedule(deliver, step)

    return send


class _Worker:
    """The thread that owns the batch."""

    def __init__(self, loaded: LoadedModel, max_batch: int, mailbox: _Mailbox) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._mailbox = mailbox
        self._send: dict[int, Callable[[GenerationStep], None]] = {}

    def run(self) -> None:
        end: Exception = GeneratorClosedError("the generator was closed before it had an answer")
        try:
            self._generate(SequenceBatch(self._loaded, max_batch=self._max_batch))
        except Exception as error:  # noqa: BLE001 - raised in every task that waits
            end = error
        self._mailbox.close()
        while not isinstance(message := self._mailbox.get(), _Close):
            if isinstance(message, _AddRequest):
                self._send[message.request] = message.send
        release_streams()
        self._fail_all(end)

    def _generate(self, batch: SequenceBatch) -> None:
        while self._handle_messages(batch):
            try:
                steps = batch.step()
            except Exception as error:  # noqa: BLE001 - raised in every task that waits
                self._fail_all(error)
                batch.clear()
                continue
            for step in steps:
                self._send[step.request](step)
                if step.finished is not None or step.failed is not None:
                    del self._send[step.request]
        batch.close()

    def _handle_messages(self, batch: SequenceBatch) -> bool:
        """Add and cancel requests, waiting for one if the batch is empty. False: close."""
        while not len(batch) or not self._mailbox.empty():
            message = self._mailbox.get()
            if isinstance(message, _Close):
                return False
            if isinstance(message, _CancelRequest):
                self._send.pop(message.request, None)
                batch.remove(message.request)
            else:
                self._send[message.request] = message.send
                batch.add(message.request, message.tokens, message.sampling, message.processors)
        return True

    def _fail_all(self, error: Exception) -> None:
        for request, send in self._send.items():
            send(GenerationStep(request, failed=error))
        self._send.clear()


def release_streams() -> None:
    """Free this thread's MLX streams. The thread can't use MLX afterwards.

    MLX gives each thread streams of its own, with threads behind them. Left to the thread's end
    they are destroyed when Python believes it is over; if the interpreter ends at that moment,
    the process aborts ("terminate called without an active exception").
    """
    if "mlx.core" not in sys.modules:
        return
    import mlx.core as mx

    mx.synchronize()
    mx.clear_streams()
