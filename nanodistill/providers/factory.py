"""The provider that a configuration asks for."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.events import Listener, Notice, ignore
from nanodistill.providers.base import Provider, Reply
from nanodistill.providers.error_classifier import ErrorClassifier
from nanodistill.providers.lazy_imports import load_litellm
from nanodistill.providers.litellm import LiteLLMProvider, TransportConfig, without_retries
from nanodistill.providers.local_mlx import close_mlx_provider, register_mlx_provider
from nanodistill.providers.model_resolution import MLX, Resolved, resolve
from nanodistill.providers.openai_compatible import OpenAICompatibleProvider
from nanodistill.providers.prices import price_of
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.providers.request_params import is_transport
from nanodistill.providers.response_parser import ResponseParser
from nanodistill.providers.structured_output import ModeCache, StructuredOutput, first_forms
from nanodistill.providers.teacher_validation import (
    PYTHON,
    check_teacher,
    lacks_key,
    load_teacher_function,
)
from nanodistill.secrets import Redactor
from nanodistill.types import Request

NO_KEY = "no-key-needed"
UNHURRIED = 3600.0


def forget(line: str) -> None:
    """For runs without a memory."""


def open_provider(
    config: DistillationConfig,
    *,
    remembered: str | None = None,
    remember: Callable[[str], None] = forget,
    on_event: Listener = ignore,
) -> Provider:
    """The provider of `config.teacher`, with its settings checked and nothing sent yet.

    Args:
        remembered: what `remember` was last told in this run, so that a resumed run starts
            with the form of structured output that worked. Another teacher's is ignored.
        remember: is told a line of text when one form was left for another.

    Raises:
        ConfigError: the teacher can't be used; see `check_teacher`.
    """
    if config.teacher.startswith(PYTHON):
        return ScriptedProvider(
            load_teacher_function(config.teacher),
            endpoint=config.teacher,
            timeout=config.timeout_seconds,
        )
    check_teacher(config)
    if config.teacher.startswith(MLX):
        register_mlx_provider(on_event)
    resolved = resolved_teacher(config)
    redactor = Redactor.of([config.litellm_kwargs, resolved.secrets])
    faults = ErrorClassifier(redactor, resolved.shown_base if resolved.speaks_openai else None)
    memory = ModeCache(f"{resolved.endpoint} {resolved.model}", remember, notifier(on_event))
    structured = StructuredOutput(
        steps=memory.resumed(remembered, first_forms(resolved, config.structured_output)),
        faults=faults,
        instructor_kwargs=config.instructor_kwargs,
        on_step=memory.stepped,
        parameters=memory.parameters,
    )
    way = TransportConfig(
        model=resolved.model,
        endpoint=resolved.endpoint,
        settings=travel_settings(resolved, config.litellm_kwargs),
        timeout=_timeout(config),
        structured=structured,
        reader=ResponseParser(faults, price_of(config.teacher, config.teacher_price)),
    )
    trusted = ssl_context(way.settings)
    through_litellm = LiteLLMProvider(
        way, on_close=close_mlx_provider if resolved.provider == "mlx" else None
    )
    if config.transport == "auto" and may_go_directly(resolved, way.settings):
        return OpenAICompatibleProvider(way, through_litellm, trusted)
    return through_litellm


@dataclass(frozen=True)
class Unasked:
    """A provider of a run that is only planned: it has a name and answers nothing."""

    endpoint: str

    async def complete(self, request: Request) -> Reply:
        raise NotImplementedError(f"a plan has asked {self.endpoint} a {request.stage} request")

    async def aclose(self) -> None:
        """Nothing to close."""


def planned_provider(config: DistillationConfig) -> Provider:
    """The provider of `config.teacher` for a plan, which needs neither key nor network.

    Raises:
        ConfigError: the teacher can't be used; see `check_teacher`.
    """
    check_teacher(config, needs_key=False)
    if config.teacher.startswith(PYTHON):
        return Unasked(config.teacher)
    return Unasked(resolved_teacher(config).endpoint)


def may_go_directly(resolved: Resolved, settings: Mapping[str, Any]) -> bool:
    """Whether the direct transport is worth a try: it finds out itself what is equivalent."""
    speaks = resolved.speaks_openai or resolved.provider == "mistral"
    return speaks and resolved.provider not in NOT_DIRECT and not LITELLMS_OWN & set(settings)


NOT_DIRECT = frozenset({"azure_ai", "chatgpt", "clarifai", "github_copilot", "ragflow"})
LITELLMS_OWN = frozenset({"client", "metadata", "shared_session", "use_litellm_proxy"})


def ssl_context(settings: Mapping[str, Any]) -> ssl.SSLContext | bool:
    """The certificates to trust, the same for both transports; False trusts all.

    They are LiteLLM's: `ssl_verify`, SSL_VERIFY, SSL_CERT_FILE, or else certifi's list.
    LiteLLM leaves REQUESTS_CA_BUNDLE aside, so we hand it over.
    """
    litellm = load_litellm()
    from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle and not {"SSL_CERT_FILE", "SSL_VERIFY"} & set(os.environ):
        litellm.ssl_verify = bundle
    found = get_ssl_configuration(settings.get("ssl_verify"))
    return found if isinstance(found, ssl.SSLContext) else bool(found)


def resolved_teacher(config: DistillationConfig) -> Resolved:
    if not config.teacher.startswith(MLX):
        return resolve(config.teacher, config.litellm_kwargs)
    return Resolved(config.teacher, "mlx", config.teacher.removeprefix(MLX), None, None)


def notifier(on_event: Listener) -> Callable[[str], None]:
    return lambda text: on_event(Notice(text, "warning"))


def travel_settings(resolved: Resolved, given: Mapping[str, Any]) -> dict[str, Any]:
    """What says how a call travels; a server of one's own that wants no key gets a placeholder."""
    settings = {name: value for name, value in given.items() if is_transport(name)}
    if resolved.base and not resolved.key and lacks_key(resolved):
        settings.setdefault("api_key", NO_KEY)
    return without_retries(settings, resolved.provider)


def _timeout(config: DistillationConfig) -> float:
    """Seconds for one attempt. A model in this process does not hang, it is slow: unless the
    user set a limit, what it has begun to write is worth waiting for on a busy machine."""
    if config.teacher.startswith(MLX) and "timeout_seconds" not in config.model_fields_set:
        return float(config.litellm_kwargs.get("timeout", UNHURRIED))
    return float(config.litellm_kwargs.get("timeout", config.timeout_seconds))
