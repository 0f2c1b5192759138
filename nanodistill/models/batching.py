"""Continuous batching over mlx_lm's BatchGenerator, without threads or waiting.

Requests join and leave between steps; a step computes one token for each request in
the batch (`SequenceBatch`). Prompts are admitted in groups: processing one prompt
alone uses the processor three times worse than eight together, and holds the others
up each time. So when more requests wait than places are free, they wait until a
quarter of the batch is free. A request's own logits processors can fail that request
alone.

Tokens become text as they arrive (`StreamingDetokenizer`), and a stop sequence ends a
text wherever tokens are cut (`StopSequenceFilter`).

The prompts of a run start with the same instruction, often the same examples, and
processing them for every request is most of a local teacher's work. `PrefixCache` keeps
the key-value caches of such prefixes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from nanodistill.models.sampling import Sampling, make_processors, make_sampler

if TYPE_CHECKING:
    import mlx.core as mx
    from mlx.nn.layers.base import Module
    from mlx_lm.generate import BatchGenerator, GenerationBatch

    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor

INCOMPLETE = "\ufffd"  # what a tokenizer writes for the first tokens of a character

# Choices, not measurements, made for the prompts of one run, which come in a few kinds
# (generation, answers, judging):
KEPT = 4  # caches kept; each takes the memory of its tokens. Fewer evict a kind still in use
RECENT = 16  # prompts compared with; kinds take turns, so each must be seen SHARED_BY times in here
SHARED_BY = 3  # recent prompts that must share a prefix; with 2, any coincidence is cached
MIN_SAVED = 32  # tokens that a longer prefix must save; below that its own pass costs as much
PREFILL_STEP = 512  # tokens of a prefix processed at a time, which bounds memory
# Requests are admitted when this share of the batch is free.
ADMIT_SHARE = 4

Tokens = tuple[int, ...]
Caches = list[Any]
FinishReason = Literal["stop", "length"]


class Decoder(Protocol):
    """The part of a tokenizer that is used here."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...


class StreamingDetokenizer:
    """The text of a growing list of tokens, a piece at a time.

    A character may need several tokens, and a tokenizer may write a token differently at the
    start of a text and inside it. So a token's text is what it adds to the text of the tokens
    just before it, once that ends in a complete character. Special tokens have no text.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context = 0
        self._written = 0

    def add(self, token: int) -> str:
        """The text that can be written now; empty while a character is incomplete."""
        self._tokens.append(token)
        text = self._new_text()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._context, self._written = self._written, len(self._tokens)
        return text

    def rest(self) -> str:
        """The remaining text when no token will follow, complete or not."""
        text = self._new_text()
        self._context = self._written = len(self._tokens)
        return text

    def _new_text(self) -> str:
        before = self._decode(self._tokens[self._context : self._written])
        return self._decode(self._tokens[self._context :])[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class StopSequenceFilter:
    """Passes text on up to the first stop sequence, holding back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held_back = ""
        self.stopped = False

    def add(self, text: str) -> str:
        text = self._held_back + text
        matches = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            self.stopped = True
            self._held_back = ""
            return text[: min(matches)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held_back = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """The text held back, when none will follow."""
        text, self._held_back = self._held_back, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` start `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class PrefixCache:
    """Prefixes of prompts with their key-value caches, for one thread.

    A prefix that several recent prompts share is processed by itself, and later prompts start
    from there. Only for models whose layers all keep plain keys and values.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._caches: OrderedDict[Tokens, Caches] = OrderedDict()
        self._recent: deque[Tokens] = deque(maxlen=RECENT)
        self._supported = all(_is_plain_and_empty(cache) for cache in _new_caches(model))

    def lookup(self, prompt: Sequence[int]) -> tuple[Caches | None, int]:
        """The caches of the longest known prefix of `prompt`, and its length in tokens.

        At least one token of the prompt remains to be processed. The caches must not be
        written to.
        """
        if not self._supported:
            return None, 0
        tokens = tuple(prompt)
        known = (k for k in self._caches if len(k) < len(tokens) and tokens[: len(k)] == k)
        prefix = max(known, key=len, default=())
        common = sorted((_common_tokens(tokens, other) for other in self._recent), reverse=True)
        shared = common[SHARED_BY - 1] if len(common) >= SHARED_BY else 0
        shared = min(shared, len(tokens) - 1)
        self._recent.append(tokens)
        if shared >= len(prefix) + MIN_SAVED:
            prefix = tokens[:shared]
            self._process(prefix)
        if not prefix:
            return None, 0
        self._caches.move_to_end(prefix)
        return self._caches[prefix], len(prefix)

    def _process(self, tokens: Tokens) -> None:
        import mlx.core as mx

        caches = _new_caches(self._model)
        for start in range(0, len(tokens), PREFILL_STEP):
            self._model(mx.array([tokens[start : start + PREFILL_STEP]]), cache=caches)
            mx.eval([cache.state for cache in caches])
        self._caches[tokens] = caches
        if len(self._caches) > KEPT:
            self._caches.popitem(last=False)


def _common_tokens(a: Tokens, b: Tokens) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _new_caches(model: Module) -> Caches:
    from mlx_lm.models.cache import make_prompt_cache

    caches: Caches = make_prompt_cache(model)
    return caches


def _is_plain_and_empty(cache: Any) -> bool:
    """A cache that is filled from the start is another library's prefix cache."""
    from mlx_lm.models.cache import KVCache

    return type(cache) is KVCache and cache.empty()


@dataclass(frozen=True)
class Generated:
    """A finished answer.

    Attributes:
        text: up to a stop sequence.
        tokens: the sampled tokens, without one that ends generation.
        prompt_tokens: tokens of the prompt.
        completion_tokens: all tokens that were sampled.
        finish_reason: "stop", or "length" at `max_tokens`.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class GenerationStep:
    """One step of one request: new text, and at the end the answer or the failure."""

    request: int
    text: str = ""
    finished: Generated | None = None
    failed: Exception | None = None


class SequenceState:
    """A request in progress: its tokens, and the text they have become."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, loaded: LoadedModel) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.failure: Exception | None = None
        self._eos = loaded.tokenizer.eos_token_ids
        self._detokenizer = StreamingDetokenizer(loaded.tokenizer)
        self._filter = StopSequenceFilter(sampling.stop)
        self._tokens: list[int] = []
        self._text: list[str] = []
        self._sampled = 0

    def add(self, token: int, reason: FinishReason | None) -> tuple[str, Generated | None]:
        """Add a token; the new text, and the answer if this was the last.

        Args:
            reason: why generation ends with this token, if it does.
        """
        self._sampled += 1
        text = ""
        if token not in self._eos:
            self._tokens.append(token)
            text = self._filter.add(self._detokenizer.add(token))
        if reason is not None and not self._filter.stopped:
            text += self._filter.add(self._detokenizer.rest())
            if not self._filter.stopped:
                text += self._filter.rest()
        self._text.append(text)
        if self._filter.stopped:
            reason = "stop"
        if reason is None:
            return text, None
        generated = Generated(
            "".join(self._text), tuple(self._tokens), len(self.prompt), self._sampled, reason
        )
        return text, generated


class SequenceBatch:
    """The requests of one model. Used by one thread, which also closes it.

    Args:
        max_batch: requests that are computed together.
    """

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
        """Queue a request. `request` is the caller's number for it, used in steps and `remove`."""
        self._waiting[request] = (SequenceState(prompt, sampling, self._loaded), processors)

    def remove(self, request: int) -> None:
        """Drop a request if it is still here. Its place is free for the next step."""
        self._waiting.pop(request, None)
        if request in self._running:
            uid = next(uid for uid, r in self._request_of.items() if r == request)
            self._forget(uid)
            self._generator.remove([uid])

    def step(self) -> list[GenerationStep]:
        """Compute the next token of each request in the batch."""
        self._admit()
        _, responses = self._generator.next()
        return [self._add_token(response) for response in responses] + self._remove_failed()

    def clear(self) -> None:
        """Drop all requests, whatever state an exception has left them in."""
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
        group = max(1, self._max_batch // ADMIT_SHARE)
        if free < min(len(self._waiting), group):
            return
        for request in list(self._waiting)[:free]:
            state, processors = self._waiting.pop(request)
            self._running[request] = state
            self._request_of[self._insert(state, processors)] = request

    def _insert(self, state: SequenceState, processors: Sequence[Processor]) -> int:
        import mlx.core as mx

        guarded = [_guarded(processor, state) for processor in processors]
        with mx.stream(self._generator.stream):
            caches, cached = self._prefixes.lookup(state.prompt)
        (uid,) = self._generator.insert(
            [state.prompt[cached:]],
            [state.sampling.max_tokens],
            caches=None if caches is None else [caches],
            all_tokens=[state.prompt[:cached]],
            samplers=[make_sampler(state.sampling)],
            logits_processors=[make_processors(state.sampling, guarded)],
        )
        return int(uid)

    def _add_token(self, response: GenerationBatch.Response) -> GenerationStep:
        request = self._request_of[response.uid]
        reason = cast("FinishReason | None", response.finish_reason)
        text, finished = self._running[request].add(response.token, reason)
        if finished is not None:
            self._forget(response.uid)
            if reason is None:  # ended by a stop sequence, which the generator doesn't know
                self._generator.remove([response.uid])
        return GenerationStep(request, text, finished)

    def _remove_failed(self) -> list[GenerationStep]:
        failed = [
            (uid, request, failure)
            for uid, request in self._request_of.items()
            if (failure := self._running[request].failure) is not None
        ]
        for uid, _, _ in failed:
            self._forget(uid)
            self._generator.remove([uid])
        return [GenerationStep(request, failed=failure) for _, request, failure in failed]

    def _forget(self, uid: int) -> None:
        del self._running[self._request_of.pop(uid)]


def _guarded(processor: Processor, state: SequenceState) -> Processor:
    """`processor`, with what it raises as the failure of its own request."""

    def guarded(tokens: mx.array, logits: mx.array) -> mx.array:
        if state.failure is not None:
            return logits
        try:
            return processor(tokens, logits)
        except Exception as error:  # noqa: BLE001 - foreign code; raised in the task that waits
            state.failure = error
            return logits

    return guarded
