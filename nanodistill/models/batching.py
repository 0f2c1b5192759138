"""Tokens become text as they come, and a stop text ends it wherever tokens are cut.

A character may need several tokens, and a tokenizer may write a token one way
at the start of a text and another way inside it. So a token's text is what it
adds to the text of the tokens just before it, once that ends in a whole
character. Special tokens have no text.

The beginning that many prompts share is read once.

The prompts of a run begin with the same instruction, often the same examples;
reading them again for every request is most of a local teacher's work. Here
the caches of such beginnings are kept: one that three of the last prompts have
shared is read by itself, and later prompts go on from there. Only for models
whose layers all keep plain keys and values.

Continuous batching over mlx_lm's BatchGenerator, without threads or waiting.

Requests join and leave between steps; a step computes one token for each
request in the batch. New ones join in groups: a prompt processed alone uses
the processor three times worse than eight together, and holds the others up
each time. So when there are more waiting than there are free places, they wait
until a quarter of the batch is free.

What one request brings along (its logits processors) can fail that request
alone.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from nanodistill.models.sampling import Sampling, make_processors, make_sampler

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module
if TYPE_CHECKING:
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, GenerationBatch

    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor


INCOMPLETE = "�"


class Decoder(Protocol):
    """What is asked of a tokenizer here."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...


class StreamingDetokenizer:
    """The text of a growing list of tokens, a piece at a time."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0
        self._written = 0

    def add(self, token: int) -> str:
        """What can be written now; empty while a character is not whole."""
        self._tokens.append(token)
        text = self._new()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._context, self._written = self._written, len(self._tokens)
        return text

    def rest(self) -> str:
        """What is left when no token will follow, whole or not."""
        text = self._new()
        self._context = self._written = len(self._tokens)
        return text

    def _new(self) -> str:
        before = self._text(self._tokens[self._context : self._written])
        return self._text(self._tokens[self._context :])[len(before) :]

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class StopSequenceFilter:
    """Lets text through up to the first stop text, keeping back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._kept = ""
        self.stopped = False

    def add(self, text: str) -> str:
        text = self._kept + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._kept = ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What was kept back, when no text will follow."""
        text, self._kept = self._kept, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


KEPT = 4
RECENT = 16
SHARED_BY = 3
WORTH = 32
"""Tokens that a beginning must save to be worth reading by itself."""
READ_AT_ONCE = 512

Tokens = tuple[int, ...]
Caches = list[Any]


class PrefixCache:
    """Beginnings of prompts with what a model keeps of them. For one thread."""

    def __init__(self, model: Module) -> None:
        self._model = model
        self._kept: OrderedDict[Tokens, Caches] = OrderedDict()
        self._recent: deque[Tokens] = deque(maxlen=RECENT)
        self._possible = all(_is_plain_and_empty(cache) for cache in _new_caches(model))

    def of(self, prompt: Sequence[int]) -> tuple[Caches | None, int]:
        """The caches of the longest beginning of `prompt` that is kept, and its length.

        At least one token of the prompt is left to read. The caches must not be written to.
        """
        if not self._possible:
            return None, 0
        tokens = tuple(prompt)
        known = self._longest_kept(tokens)
        shared = self._shared(tokens)
        self._recent.append(tokens)
        if shared >= len(known) + WORTH:
            known = self._read(tokens[:shared])
        if not known:
            return None, 0
        self._kept.move_to_end(known)
        return self._kept[known], len(known)

    def _longest_kept(self, tokens: Tokens) -> Tokens:
        fitting = (k for k in self._kept if len(k) < len(tokens) and tokens[: len(k)] == k)
        return max(fitting, key=len, default=())

    def _shared(self, tokens: Tokens) -> int:
        """How many tokens at the beginning at least `SHARED_BY` of the recent prompts share."""
        lengths = sorted((_common(tokens, other) for other in self._recent), reverse=True)
        most = lengths[SHARED_BY - 1] if len(lengths) >= SHARED_BY else 0
        return min(most, len(tokens) - 1)

    def _read(self, tokens: Tokens) -> Tokens:
        import mlx.core as mx

        caches = _new_caches(self._model)
        for start in range(0, len(tokens), READ_AT_ONCE):
            self._model(mx.array([tokens[start : start + READ_AT_ONCE]]), cache=caches)
            mx.eval([cache.state for cache in caches])
        self._kept[tokens] = caches
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return tokens


def _common(a: Tokens, b: Tokens) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _new_caches(model: Module) -> Caches:
    from mlx_lm.models.cache import make_prompt_cache

    caches: Caches = make_prompt_cache(model)
    return caches


def _is_plain_and_empty(cache: Any) -> bool:
    """A cache that is filled from the start is somebody else's way of doing this."""
    from mlx_lm.models.cache import KVCache

    return type(cache) is KVCache and cache.empty()


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
class GenerationStep:
    """What one step brought to one request: text, and at the end the answer or what failed."""

    request: int
    text: str = ""
    finished: Generated | None = None
    failed: Exception | None = None


class SequenceState:
    """A request on its way: its tokens, and the text that they have become."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, loaded: LoadedModel) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.failure: Exception | None = None
        self._ends = loaded.tokenizer.eos_token_ids
        self._decoder = StreamingDetokenizer(loaded.tokenizer)
        self._until = StopSequenceFilter(sampling.stop)
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


class SequenceBatch:
    """The requests of one model. Used by one thread, which also closes it."""

    def __init__(self, loaded: LoadedModel, *, max_batch: int) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._waiting: dict[int, tuple[SequenceState, Sequence[Processor]]] = {}
        self._running: dict[int, SequenceState] = {}
        self._request_of: dict[int, int] = {}
        self._generator = self._new_generator()
        self._prefixes = PrefixCache(loaded.model)

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
        self._waiting[request] = (SequenceState(prompt, sampling, self._loaded), processors)

    def remove(self, request: int) -> None:
        """Forget a request, if it is still there. Its place is free for the next step."""
        self._waiting.pop(request, None)
        if request in self._running:
            uid = next(uid for uid, r in self._request_of.items() if r == request)
            self._leave(uid, gone=False)

    def step(self) -> list[GenerationStep]:
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

    def _insert(self, answer: SequenceState, processors: Sequence[Processor]) -> int:
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

    def _take(self, response: GenerationBatch.Response) -> GenerationStep:
        request = self._request_of[response.uid]
        reason = cast("FinishReason | None", response.finish_reason)
        text, finished = self._running[request].add(response.token, reason)
        if finished is not None:
            self._leave(response.uid, gone=reason is not None)
        return GenerationStep(request, text, finished)

    def _failures(self) -> list[GenerationStep]:
        failed = [
            (uid, request, failure)
            for uid, request in self._request_of.items()
            if (failure := self._running[request].failure) is not None
        ]
        for uid, _, _ in failed:
            self._leave(uid, gone=False)
        return [GenerationStep(request, failed=failure) for _, request, failure in failed]

    def _leave(self, uid: int, *, gone: bool) -> None:
        """Forget a running request; `gone` if the generator has forgotten it by itself."""
        del self._running[self._request_of.pop(uid)]
        if not gone:
            self._generator.remove([uid])


def _guarded(processor: Processor, answer: SequenceState) -> Processor:
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
