"""A local model as a LiteLLM provider: `mlx/smollm2-135m`, `mlx/path/to/folder`, `mlx/owner/name`.

What follows the first slash is a model's name as `models/resolve.py` reads it. A model is loaded at
the first call and once per process; its calls share one continuous batch, so more calls under way
give more tokens a second. Cancelling a call, or its timeout, frees its place.

A parameter that this provider doesn't know is refused, never ignored. Only LiteLLM's exceptions
leave this module, so the engine judges a local teacher by the same table as all others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from nanodistill.errors import InputError, ModelError, NanoDistillError
from nanodistill.events import Listener, ignore
from nanodistill.models.generation import (
    GenerationError,
    Generator,
    PromptTooLongError,
    release_streams,
)
from nanodistill.models.sampling import Sampling
from nanodistill.providers.lazy_imports import load_litellm

if TYPE_CHECKING:
    from types import ModuleType

    from nanodistill.models.batching import Generated

PROVIDER = "mlx"
MAX_BATCH = 32
"""More requests than this wait for a place. Beyond it a CPU gains nothing any more."""

SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "max_tokens"}
)
TRANSPORT = frozenset({"max_retries"})
"""What LiteLLM passes on for clients of the network."""
NO_LIMIT = 1 << 20
"""The context is the limit then."""


class UnsupportedParameterError(InputError):
    """A parameter that local generation does not have."""


LITELLMS: Mapping[type[Exception], str] = {
    PromptTooLongError: "ContextWindowExceededError",
    UnsupportedParameterError: "UnsupportedParamsError",
    ModelError: "NotFoundError",
    InputError: "BadRequestError",
    NanoDistillError: "NotFoundError",
    ValueError: "BadRequestError",
    TypeError: "BadRequestError",
    TimeoutError: "Timeout",
    GenerationError: "InternalServerError",
}
"""What LiteLLM calls what can go wrong here; the first kind that fits counts."""


@dataclass(frozen=True)
class LocalCall:
    """One call, read from what LiteLLM hands over."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling: Sampling
    timeout: float | None


class LocalModels:
    """The models loaded in this process, each with the batch that answers its calls."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._lock = threading.Lock()
        self._generators: dict[str, Future[Generator]] = {}

    async def answer(self, call: LocalCall) -> Generated:
        """Raises ModelError, InputError, GenerationFailed, TimeoutError."""
        loading = asyncio.wrap_future(self._loading(call.model))
        # Shielded: the others who wait for the same model are not to be cancelled with this one.
        generator = await asyncio.shield(loading)
        with anyio.move_on_after(call.timeout):
            return await generator.generate(call.messages, call.sampling)
        raise TimeoutError(f"no answer within {call.timeout:g} s")

    @property
    def open_calls(self) -> int:
        with self._lock:
            loaded = [f for f in self._generators.values() if f.done() and not f.exception()]
        return sum(future.result().open_requests for future in loaded)

    def close(self) -> None:
        """End all generation; the next call loads its model anew."""
        with self._lock:
            futures = list(self._generators.values())
            self._generators.clear()
        for future in futures:
            # A model that failed to load has nothing to close; its callers were told.
            with suppress(ModelError, InputError):
                future.result().close()

    def _loading(self, name: str) -> Future[Generator]:
        with self._lock:
            future = self._generators.get(name)
            if future is None or (future.done() and future.exception() is not None):
                future = self._generators[name] = Future()
                future.set_running_or_notify_cancel()
                threading.Thread(target=self._load, args=(name, future), daemon=True).start()
            return future

    def _load(self, name: str, future: Future[Generator]) -> None:
        from nanodistill.models.loading import load_model

        try:
            loaded = load_model(name, on_event=self.listener)
            release_streams()
            future.set_result(Generator(loaded, max_batch=MAX_BATCH))
        except Exception as error:  # noqa: BLE001 - raised in every call that waits for the model
            release_streams()
            future.set_exception(error)


LOCAL_MODELS = LocalModels(ignore)
_registered = threading.Lock()


def register_mlx_provider(listener: Listener | None = None) -> None:
    """Make `mlx/…` a model that LiteLLM knows. Any number of times; `listener`, where given,
    hears of fetching and loading from now on."""
    if listener is not None:
        LOCAL_MODELS.listener = listener
    litellm = load_litellm()
    with _registered:
        if not any(entry["provider"] == PROVIDER for entry in litellm.custom_provider_map):
            handler = _handler(litellm, LOCAL_MODELS)
            litellm.custom_provider_map.append({"provider": PROVIDER, "custom_handler": handler})
            litellm.utils.custom_llm_setup()


def close_mlx_provider() -> None:
    """Free the models. Waits for the step that is being computed."""
    LOCAL_MODELS.close()


def _handler(litellm: ModuleType, models: LocalModels) -> Any:
    """The object that LiteLLM calls. Its base class comes from LiteLLM, hence defined here."""

    class MlxProvider(litellm.CustomLLM):  # type: ignore[name-defined, misc]
        async def acompletion(self, **given: Any) -> Any:
            with _as_litellm_error(litellm, given["model"]):
                generated = await models.answer(_read(given))
            return _response(litellm, given["model_response"], given["model"], generated)

        def completion(self, **given: Any) -> Any:
            from anyio.from_thread import start_blocking_portal

            with start_blocking_portal() as portal:
                return portal.call(lambda: self.acompletion(**given))

    return MlxProvider()


def _read(given: Mapping[str, Any]) -> LocalCall:
    parameters = dict(given["optional_params"])
    parameters |= parameters.pop("extra_body", None) or {}
    parameters = {name: value for name, value in parameters.items() if value is not None}
    _drop_neutral(parameters)
    unknown = sorted(parameters.keys() - SAMPLING - TRANSPORT)
    if unknown:
        raise UnsupportedParameterError(
            f"a local model does not take {', '.join(unknown)}; "
            f"it takes {', '.join(sorted(SAMPLING))}"
        )
    wishes: dict[str, Any] = {"max_tokens": NO_LIMIT, "temperature": 1.0, "stop": ()} | parameters
    stop = wishes.pop("stop")
    known = {name: wishes[name] for name in wishes.keys() & SAMPLING}
    sampling = Sampling(stop=(stop,) if isinstance(stop, str) else tuple(stop), **known)
    messages = [_message(message) for message in given["messages"]]
    timeout = given.get("timeout")
    return LocalCall(
        given["model"], messages, sampling, None if timeout is None else float(timeout)
    )


def _drop_neutral(parameters: dict[str, Any]) -> None:
    """Take out what asks for nothing that generation would not do anyway."""
    neutral: Mapping[str, object] = {
        "n": 1,
        "stream": False,
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "presence_penalty": 0,
    }
    for name, value in neutral.items():
        if parameters.get(name) == value:
            del parameters[name]


def _message(message: Any) -> Mapping[str, str]:
    """Role and text: a chat template gets nothing that it doesn't know."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        kinds = {part.get("type") for part in content}
        if kinds - {"text"}:
            raise UnsupportedParameterError(
                "a local model reads text only: no images, audio or files"
            )
        content = "".join(part["text"] for part in content)
    return {"role": message["role"], "content": content}


@contextmanager
def _as_litellm_error(litellm: ModuleType, model: str) -> Iterator[None]:
    """Raise what LiteLLM would have raised for a provider on the network."""
    try:
        yield
    except tuple(LITELLMS) as error:
        name = next(name for kind, name in LITELLMS.items() if isinstance(error, kind))
        words = {"message": str(error), "model": model, "llm_provider": PROVIDER}
        raise getattr(litellm, name)(**words) from error


def _response(litellm: ModuleType, response: Any, model: str, generated: Generated) -> Any:
    response.model = f"{PROVIDER}/{model}"
    choice = response.choices[0]
    choice.message.content = generated.text
    choice.finish_reason = generated.finish_reason
    response.usage = litellm.Usage(
        prompt_tokens=generated.prompt_tokens,
        completion_tokens=generated.completion_tokens,
        total_tokens=generated.prompt_tokens + generated.completion_tokens,
    )
    return response
