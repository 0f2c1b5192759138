"""From a request to an answer, whole or as a stream of pieces.

An answer whose schema no grammar can hold, or not wholly, is checked when it is
complete and sampled again, up to `ATTEMPTS` times; it is streamed only then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from nanodistill.errors import InputError
from nanodistill.models.generation import GenerationError, GeneratorClosedError, PromptTooLongError
from nanodistill.models.sampling import Sampling
from nanodistill.serve.guided_decoding import (
    ANY_OBJECT,
    Grammar,
    GrammarError,
    Grammars,
    InvalidSchemaError,
    check_schema,
    schema_violation_isolated,
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

# Whole answers that one request can cost. More make an error rarer and slower.
ATTEMPTS = 3
# Later attempts need randomness, for greedy decoding would repeat the answer. Near 0 attempts are
# too much alike; well above 1 a small model writes nonsense.
RETRY_TEMPERATURE = 0.7
# Tokens; more than any context. An answer that must be JSON may fill the context, because cut
# JSON is no answer.
NO_LIMIT = 1 << 20
# Threads that compile schemas, so that clients can't take all cores from the model.
COMPILER_THREADS = 2
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How an answer ended."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True)
class CompletionRequest:
    """A prepared request: what the model gets, and what its answer must follow."""

    messages: list[Message]
    sampling: Sampling
    schema: Mapping[str, Any] | None
    grammar: Grammar | None

    @property
    def needs_check(self) -> bool:
        return self.schema is not None and (self.grammar is None or not self.grammar.complete)

    def sampling_of(self, attempt: int) -> Sampling:
        """How to sample attempt 0, 1, …: later ones at random, and with other seeds."""
        if attempt == 0:
            return self.sampling
        seed = None if self.sampling.seed is None else self.sampling.seed + attempt
        temperature = max(self.sampling.temperature, RETRY_TEMPERATURE)
        return replace(self.sampling, temperature=temperature, seed=seed)


class Generates(Protocol):
    """What is used of `models.generator.Generator`."""

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
        self, model: ServedModel, generator: Generates, *, schema_seconds: float = 10.0
    ) -> None:
        self._model = model
        self._schema_seconds = schema_seconds
        self._compilers = anyio.CapacityLimiter(COMPILER_THREADS)
        self._generator = generator
        self._grammars = Grammars(generator.loaded)
        self._own_grammar = self._grammar(model.schema) if model.schema is not None else None

    async def prepare(self, request: ChatRequest) -> CompletionRequest:
        """Compile what a request asks for.

        Raises:
            APIError: a message or the schema can't be used.
        """
        messages = request.conversation(self._model.instruction, self._model.thinking_format)
        if mark := self._generator.loaded.chat.forged_turn(messages):
            raise APIError(
                400,
                f"A user's message contains {mark!r}, with which the chat template of "
                f"{self._model.name} begins a turn. Remove or rephrase it.",
                param="messages",
                code="forged_turn",
            )
        # The request's own schema, else the run's.
        response_format = request.response_format
        schema: Mapping[str, Any] | None = None
        grammar: Grammar | None = None
        if response_format is None:
            schema, grammar = self._model.schema, self._own_grammar
        elif response_format.type != "text":
            named = response_format.json_schema
            schema = named.definition if named else ANY_OBJECT
            try:
                grammar = await self._compile(self._grammar, schema)
            except InvalidSchemaError as error:
                raise APIError(400, str(error), param="response_format") from error
        default_limit = self._model.max_new_tokens if schema is None else NO_LIMIT
        return CompletionRequest(
            messages=messages,
            sampling=Sampling(
                max_tokens=request.token_limit or default_limit,
                temperature=request.effective_temperature,
                top_p=request.top_p or 1.0,
                top_k=request.top_k or 0,
                min_p=request.min_p or 0.0,
                repetition_penalty=request.repetition_penalty or 1.0,
                stop=tuple(text for text in request.stop or [] if text),
                seed=request.seed,
            ),
            schema=schema,
            grammar=grammar,
        )

    async def pieces(self, request: CompletionRequest) -> AsyncGenerator[Piece | Ended]:
        """The answer as it arrives; the last item says how it ended.

        Raises:
            APIError: the prompt is too long, or no attempt followed the schema.
        """
        try:
            if request.needs_check:
                pieces, ended = await self._checked(request)
                for piece in pieces:
                    yield piece
                yield ended
                return
            parser = parser_for(self._model.thinking_format)
            stream = self._generator.stream(
                request.messages, request.sampling, processors=await self._processors(request)
            )
            async with aclosing(stream) as steps:
                async for step in steps:
                    for piece in parser.add(step.text):
                        yield piece
                    if step.finished is not None:
                        for piece in parser.end():
                            yield piece
                        done = step.finished
                        usage = Usage(done.prompt_tokens, done.completion_tokens)
                        yield Ended(done.finish_reason, usage)
        except PromptTooLongError as error:
            raise APIError(
                400,
                f"The prompt has {error.tokens} tokens; {self._model.name} takes at most "
                f"{error.limit} with its answer.",
                param="messages",
                code="context_length_exceeded",
            ) from error
        except InputError as error:
            reason = f"{self._model.name} can't take these messages: {error.__cause__ or error}"
            raise APIError(400, self._without_paths(reason), param="messages") from error
        except GeneratorClosedError as error:
            raise APIError(503, "The server is shutting down.", retry_after=5) from error
        except GenerationError as error:
            if not isinstance(error.__cause__, GrammarError):
                raise
            reason = f"The schema can't be followed to its end: {error.__cause__}"
            raise APIError(400, reason, param="response_format") from error

    async def _checked(self, request: CompletionRequest) -> tuple[list[Piece], Ended]:
        """The first answer that follows the schema, or one that was cut off, unchecked."""
        schema = request.schema or ANY_OBJECT
        completion_tokens, violation = 0, ""
        for attempt in range(ATTEMPTS):
            answer = await self._generator.generate(
                request.messages,
                request.sampling_of(attempt),
                processors=await self._processors(request),
            )
            completion_tokens += answer.completion_tokens
            parser = parser_for(self._model.thinking_format)
            pieces = [*parser.add(answer.text), *parser.end()]
            content = "".join(piece.text for piece in pieces if piece.kind == "content")
            try:
                violation = (
                    await schema_violation_isolated(content, schema, self._schema_seconds) or ""
                )
            except InvalidSchemaError as error:
                raise APIError(400, str(error), param="response_format") from error
            if not violation or answer.finish_reason == "length":
                usage = Usage(answer.prompt_tokens, completion_tokens)
                return pieces, Ended(answer.finish_reason, usage)
        raise APIError(
            500,
            f"No answer followed the schema in {ATTEMPTS} attempts: {violation}",
            code="schema_not_met",
        )

    def _without_paths(self, message: str) -> str:
        """A client learns the model's name, not its path."""
        for path in (self._model.model, self._model.adapter, self._generator.loaded.source.name):
            if path is not None:
                message = message.replace(str(path), self._model.name)
        return message

    async def _processors(self, request: CompletionRequest) -> list[Any]:
        if request.grammar is None:
            return []
        return [await self._compile(self._grammars.processor, request.grammar)]

    async def _compile(self, work: Callable[[A], T], argument: A) -> T:
        """Work on a client's schema: in a thread, few at a time, and not for long."""
        try:
            with anyio.fail_after(self._schema_seconds):
                return await anyio.to_thread.run_sync(
                    work, argument, abandon_on_cancel=True, limiter=self._compilers
                )
        except TimeoutError as error:
            raise APIError(
                400,
                f"Compiling the schema takes over {self._schema_seconds:g} s.",
                param="response_format",
            ) from error

    def _grammar(self, schema: Mapping[str, Any]) -> Grammar | None:
        check_schema(schema)
        return self._grammars.grammar(schema, self._model.thinking_format)
