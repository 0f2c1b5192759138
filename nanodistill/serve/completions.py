"""From a request to an answer, whole or as a stream of pieces.

An answer that must be of a schema and can't be held to it while it is drawn (or
not to all of it) is checked when it is whole and drawn again, with other random
numbers, up to `ATTEMPTS` times; it is streamed only then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from nanodistill.errors import InputError
from nanodistill.models.generation import PromptTooLongError
from nanodistill.models.generator import GenerationError, GeneratorClosedError
from nanodistill.models.sampling import Sampling
from nanodistill.serve.guided_decoding import (
    ANY_OBJECT,
    Grammar,
    GrammarLost,
    Grammars,
    InvalidSchemaError,
    check_schema,
    problem_apart,
)
from nanodistill.serve.protocol import APIError, ChatRequest, Usage
from nanodistill.serve.reasoning_parser import Piece, parser_for
from nanodistill.types import FinishReason, Message

if TYPE_CHECKING:
    from nanodistill.models.batching import Generated, GenerationStep
    from nanodistill.models.generation import Prompt
    from nanodistill.models.loading import LoadedModel
    from nanodistill.models.sampling import Processor
    from nanodistill.serve.served_model import ServedModel

ATTEMPTS = 3
RETRY_TEMPERATURE = 0.7
WHOLE_CONTEXT = 1 << 20
"""More tokens than a context has where it ends; a model that names no end gets this one."""
COMPILERS = 2
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How an answer ended."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True)
class CompletionRequest:
    """A request made ready: what the model gets, and what answer is wanted."""

    messages: list[Message]
    sampling: Sampling
    schema: Mapping[str, Any] | None
    grammar: Grammar | None

    @property
    def needs_check(self) -> bool:
        return self.schema is not None and (self.grammar is None or not self.grammar.complete)

    def again(self, attempt: int) -> Sampling:
        """Sampling of a further attempt: not the same answer once more."""
        seed = None if self.sampling.seed is None else self.sampling.seed + attempt
        warmth = max(self.sampling.temperature, RETRY_TEMPERATURE)
        return replace(self.sampling, temperature=warmth, seed=seed)


class Generates(Protocol):
    """What is asked of `models.generator.Generator` here."""

    @property
    def loaded(self) -> LoadedModel: ...

    async def generate(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> Generated: ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, processors: Sequence[Processor] = ()
    ) -> AsyncGenerator[GenerationStep]: ...


class Completions:
    """Answers requests with one model."""

    def __init__(
        self, choice: ServedModel, generator: Generates, *, schema_seconds: float = 10.0
    ) -> None:
        self._choice = choice
        self._schema_seconds = schema_seconds
        self._compilers = anyio.CapacityLimiter(COMPILERS)
        self._generator = generator
        self._grammars = Grammars(generator.loaded)
        self._own = self._grammar(choice.schema) if choice.schema is not None else None

    async def prepare(self, request: ChatRequest) -> CompletionRequest:
        """Raises Refused for what can't be followed."""
        messages = request.conversation(self._choice.instruction, self._choice.form)
        if mark := self._generator.loaded.chat.forged_turn(messages):
            raise APIError(
                400,
                f"A user's message holds {mark!r}, which the chat template of {self._choice.name} "
                "writes in plain text where a turn begins; take it out, or write it differently.",
                param="messages",
                code="forged_turn",
            )
        schema, grammar = await self._wanted(request)
        return CompletionRequest(
            messages=messages,
            sampling=Sampling(
                max_tokens=request.limit or self._usual_limit(schema),
                temperature=request.warmth,
                top_p=request.top_p or 1.0,
                top_k=request.top_k or 0,
                min_p=request.min_p or 0.0,
                repetition_penalty=request.repetition_penalty or 1.0,
                stop=request.stops,
                seed=request.seed,
            ),
            schema=schema,
            grammar=grammar,
        )

    async def pieces(self, ask: CompletionRequest) -> AsyncGenerator[Piece | Ended]:
        """The answer as it comes; the last is how it ended.

        Raises:
            Refused: the prompt is too long, or no attempt gave an answer of the schema.
        """
        try:
            if ask.needs_check:
                pieces, ended = await self._checked(ask)
                for piece in pieces:
                    yield piece
                yield ended
                return
            splitter = parser_for(self._choice.form)
            stream = self._generator.stream(
                ask.messages, ask.sampling, processors=await self._processors(ask)
            )
            async with aclosing(stream) as steps:
                async for step in steps:
                    for piece in splitter.add(step.text):
                        yield piece
                    if step.finished is not None:
                        for piece in splitter.end():
                            yield piece
                        yield _ended(step.finished)
        except PromptTooLongError as long:
            code = "context_length_exceeded"
            said = (
                f"The prompt has {long.tokens} tokens, and {self._choice.name} reads "
                f"{long.limit} with its answer."
            )
            raise APIError(400, said, param="messages", code=code) from long
        except InputError as refused:
            said = f"{self._choice.name} takes no such messages: {refused.__cause__ or refused}"
            raise APIError(400, self._without_paths(said), param="messages") from refused
        except GeneratorClosedError as closed:
            raise APIError(503, "The server is shutting down.", retry_after=5) from closed
        except GenerationError as failed:
            if not isinstance(failed.__cause__, GrammarLost):
                raise
            said = f"The schema can't be followed to its end: {failed.__cause__}"
            raise APIError(400, said, param="response_format") from failed

    def _without_paths(self, said: str) -> str:
        """What is told to a client names the model, not where it lies."""
        for path in (self._choice.model, self._choice.adapter, self._generator.loaded.source.name):
            if path is not None:
                said = said.replace(str(path), self._choice.name)
        return said

    async def _checked(self, ask: CompletionRequest) -> tuple[list[Piece], Ended]:
        """The first answer that is of the schema. One that was cut off is given as it is."""
        schema = ask.schema or ANY_OBJECT
        drawn, wrong = 0, ""
        for attempt in range(ATTEMPTS):
            sampling = ask.again(attempt) if attempt else ask.sampling
            answer = await self._generator.generate(
                ask.messages, sampling, processors=await self._processors(ask)
            )
            drawn += answer.completion_tokens
            splitter = parser_for(self._choice.form)
            pieces = [*splitter.add(answer.text), *splitter.end()]
            content = "".join(piece.text for piece in pieces if piece.kind == "content")
            wrong = await self._problem(content, schema) or ""
            if not wrong or answer.finish_reason == "length":
                usage = Usage(answer.prompt_tokens, drawn)
                return pieces, Ended(answer.finish_reason, usage)
        raise APIError(
            500,
            f"The model gave no answer of the schema in {ATTEMPTS} attempts: {wrong}",
            code="schema_not_met",
        )

    async def _problem(self, content: str, schema: Mapping[str, Any]) -> str | None:
        try:
            return await problem_apart(content, schema, self._schema_seconds)
        except InvalidSchemaError as bad:
            raise APIError(400, str(bad), param="response_format") from bad

    def _usual_limit(self, schema: Mapping[str, Any] | None) -> int:
        """Tokens of an answer to a request that has no limit. JSON that is cut is none: it may
        fill the context."""
        return self._choice.max_new_tokens if schema is None else WHOLE_CONTEXT

    async def _processors(self, ask: CompletionRequest) -> list[Any]:
        if ask.grammar is None:
            return []
        return [await self._compiled(self._grammars.constraint, ask.grammar)]

    async def _compiled(self, work: Callable[[A], T], given: A) -> T:
        """Work on a client's schema: in a thread, few at a time, and not for long."""
        try:
            with anyio.fail_after(self._schema_seconds):
                return await anyio.to_thread.run_sync(
                    work, given, abandon_on_cancel=True, limiter=self._compilers
                )
        except TimeoutError as late:
            raise APIError(
                400,
                f"The schema was not understood in {self._schema_seconds:g} s.",
                param="response_format",
            ) from late

    async def _wanted(
        self, request: ChatRequest
    ) -> tuple[Mapping[str, Any] | None, Grammar | None]:
        """The schema of the answer: the request's own, else the run's."""
        asked = request.response_format
        if asked is None:
            return self._choice.schema, self._own
        if asked.type == "text":
            return None, None
        schema = asked.json_schema.held if asked.json_schema else ANY_OBJECT
        try:
            return schema, await self._compiled(self._grammar, schema)
        except InvalidSchemaError as bad:
            raise APIError(400, str(bad), param="response_format") from bad

    def _grammar(self, schema: Mapping[str, Any]) -> Grammar | None:
        check_schema(schema)
        return self._grammars.grammar(schema, self._choice.form)


def _ended(answer: Generated) -> Ended:
    return Ended(answer.finish_reason, Usage(answer.prompt_tokens, answer.completion_tokens))
