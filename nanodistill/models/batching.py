"""Continuous batching over mlx_lm's BatchGenerator, without threads or waiting.

Requests join and leave between steps; a step computes one token for each
request in the batch. New ones join in groups: a prompt processed alone uses
the processor three times worse than eight together, and holds the others up
each time. So when there are more waiting than there are free places, they wait
until a quarter of the batch is free.

What one request brings along (its logits processors) can fail that request
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from nanodistill.models.prefixes import Prefixes
from nanodistill.models.sampling import Sampling, make_processors, make_sampler
from nanodistill.models.text import TextOfTokens, UntilStop

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, GenerationBatch

    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generated:
    """A finished answer.

    `tokens` are those drawn, without a token that ends generation; `text` is
    theirs up to a stop text. `completion_tokens` counts all that were drawn.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Step:
    """What one step brought to one request: text, and at the end the answer or what failed."""

    request: int
    text: str = ""
    finished: Generated | None = None
    failed: Exception | None = None


class Answer:
    """A request on its way: its tokens, and the text that they have become."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, loaded: LoadedModel) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.failure: Exception | None = None
        self._ends = loaded.tokenizer.eos_token_ids
        self._decoder = TextOfTokens(loaded.tokenizer)
        self._until = UntilStop(sampling.stop)
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._drawn = 0

    def add(self, token: int, reason: FinishReason | None) -> tuple[str, Generated | None]:
        """Take one more token; the new text, and the whole answer if this was the last."""
        self._drawn += 1
        text = ""
        if token not in self._ends:
            self._tokens.append(token)
            text = self._until.add(self._decoder.add(token))
        if reason is not None and not self._until.stopped:
            text += self._until.add(self._decoder.rest())
            if not self._until.stopped:
                text += self._until.rest()
        self._text.append(text)
        if reason is None and not self._until.stopped:
            return text, None
        return text, self._finished("stop" if self._until.stopped else reason or "stop")

    def _finished(self, reason: FinishReason) -> Generated:
        return Generated(
            "".join(self._text), tuple(self._tokens), len(self.prompt), self._drawn, reason
        )


class Batch:
    """The requests of one model. Used by one thread, which also closes it."""

    def __init__(self, loaded: LoadedModel, *, max_batch: int) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._waiting: dict[int, tuple[Answer, Sequence[Processor]]] = {}
        self._running: dict[int, Answer] = {}
        self._request_of: dict[int, int] = {}
        self._generator = self._new_generator()
        self._prefixes = Prefixes(loaded.model)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(
        self,
        request: int,
        prompt: Sequence[int],
        sampling: Sampling,
        processors: Sequence[Processor] = (),
    ) -> None:
        """`request` is the caller's number for it, used in steps and to remove it."""
        self._waiting[request] = (Answer(prompt, sampling, self._loaded), processors)

    def remove(self, request: int) -> None:
        """Forget a request, if it is still there. Its place is free for the next step."""
        self._waiting.pop(request, None)
        if request in self._running:
            uid = next(uid for uid, r in self._request_of.items() if r == request)
            self._leave(uid, gone=False)

    def step(self) -> list[Step]:
        """Compute the next token of each request in the batch."""
        self._admit()
        _, responses = self._generator.next()
        return [self._take(response) for response in responses] + self._failures()

    def clear(self) -> None:
        """Forget all requests, whatever state an exception has left them in."""
        self.close()
        self._waiting.clear()
        self._running.clear()
        self._request_of.clear()
        self._generator = self._new_generator()

    def close(self) -> None:
        import mlx.core as mx

        mx.synchronize(self._generator.stream)
        self._generator.close()

    def _new_generator(self) -> BatchGenerator:
        from mlx_lm.generate import BatchGenerator

        return BatchGenerator(
            self._loaded.model,
            stop_tokens=[[token] for token in self._loaded.tokenizer.eos_token_ids],
            completion_batch_size=self._max_batch,
            prefill_batch_size=self._max_batch,
        )

    def _admit(self) -> None:
        free = self._max_batch - len(self._running)
        group = max(1, self._max_batch // 4)
        if free < min(len(self._waiting), group):
            return
        for request in list(self._waiting)[:free]:
            answer, processors = self._waiting.pop(request)
            self._running[request] = answer
            self._request_of[self._insert(answer, processors)] = request

    def _insert(self, answer: Answer, processors: Sequence[Processor]) -> int:
        import mlx.core as mx

        own = [_guarded(processor, answer) for processor in processors]
        with mx.stream(self._generator.stream):
            caches, read = self._prefixes.of(answer.prompt)
        (uid,) = self._generator.insert(
            [answer.prompt[read:]],
            [answer.sampling.max_tokens],
            caches=None if caches is None else [caches],
            all_tokens=[answer.prompt[:read]],
            samplers=[make_sampler(answer.sampling)],
            logits_processors=[make_processors(answer.sampling, own)],
        )
        return int(uid)

    def _take(self, response: GenerationBatch.Response) -> Step:
        request = self._request_of[response.uid]
        reason = cast("FinishReason | None", response.finish_reason)
        text, finished = self._running[request].add(response.token, reason)
        if finished is not None:
            self._leave(response.uid, gone=reason is not None)
        return Step(request, text, finished)

    def _failures(self) -> list[Step]:
        failed = [
            (uid, request, failure)
            for uid, request in self._request_of.items()
            if (failure := self._running[request].failure) is not None
        ]
        for uid, _, _ in failed:
            self._leave(uid, gone=False)
        return [Step(request, failed=failure) for _, request, failure in failed]

    def _leave(self, uid: int, *, gone: bool) -> None:
        """Forget a running request; `gone` if the generator has forgotten it by itself."""
        del self._running[self._request_of.pop(uid)]
        if not gone:
            self._generator.remove([uid])


def _guarded(processor: Processor, answer: Answer) -> Processor:
    """`processor`, but what it raises becomes the failure of its own request."""

    def guarded(tokens: mx.array, logits: mx.array) -> mx.array:
        if answer.failure is not None:
            return logits
        try:
            return processor(tokens, logits)
        except Exception as error:  # noqa: BLE001 - a stranger's code; told to whoever waits
            answer.failure = error
            return logits

    return guarded
