"""What can be found wrong with a teacher before anything is spent.

All problems of a configuration at once: a missing key with the variable that should hold it,
parameters that LiteLLM knows and the model does not take, parameters that nobody knows.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.config.synthesis_fields import LIMIT_NAMES
from nanodistill.errors import CallError, ConfigError, Problem
from nanodistill.plugins import instantiated, load_object
from nanodistill.providers.lazy_imports import load_instructor, load_litellm
from nanodistill.providers.model_resolution import MLX, Resolved, resolve, wrong_access
from nanodistill.providers.python_function import signature_problem
from nanodistill.providers.request_params import is_transport, params_for
from nanodistill.providers.structured_output import MODES, mode_named
from nanodistill.providers.unsupported_params import named_in

PYTHON = "python:"
API_KEY = re.compile(r"[A-Z0-9_]+_API_KEY")
LOCAL = re.compile(r"https?://(localhost|127\.|0\.0\.0\.0|\[::1\]|host\.docker\.internal)")
KEYLESS = frozenset({"ollama", "ollama_chat", "xinference", "oobabooga", "petals"})

# What vLLM, SGLang, llama.cpp, Ollama, TGI and OpenRouter take beyond OpenAI's parameters.
SERVERS_OWN = frozenset(
    {
        "best_of", "chat_template_kwargs", "ignore_eos", "length_penalty", "min_p", "min_tokens",
        "mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_predict", "provider",
        "reasoning",
        "repeat_penalty", "repetition_penalty", "skip_special_tokens", "stop_token_ids", "tfs_z",
        "top_a", "top_k", "transforms", "typical_p", "use_beam_search",
    }
)  # fmt: skip


def check_teacher(config: DistillationConfig, *, needs_key: bool = True) -> None:
    """
    Args:
        needs_key: whether calls will be made, for which a key has to be there.

    Raises:
        ConfigError: with everything that is wrong with the teacher, naming the way out of each.
    """
    if config.teacher.startswith(PYTHON):
        load_teacher_function(config.teacher)
    elif not config.teacher.startswith(MLX):
        resolved = resolve(config.teacher, config.litellm_kwargs)
        problems = [
            *(missing_key(resolved, config.litellm_kwargs) if needs_key else ()),
            *wrong_access(resolved, config.litellm_kwargs),
            *wrong_parameters(resolved, config),
            *wrong_instructor_settings(config.instructor_kwargs),
        ]
        if problems:
            raise ConfigError("The teacher can't be used:", problems)


def load_teacher_function(teacher: str) -> Any:
    """The callable that `python:module:function` names; of a class, an instance.

    Raises:
        ConfigError: there is none, or it can't be asked as a teacher.
    """
    named: object = load_object(teacher.removeprefix(PYTHON), field="teacher")
    found: object = instantiated(named, field="teacher")
    if callable(found):
        what = signature_problem(found)
    elif found is named:
        what = f"'{teacher}' is a {type(found).__name__} and no function"
    else:
        what = f"'{teacher}' is a class without __call__; name a function"
    if what is not None:
        raise ConfigError("The teacher can't be used:", [Problem("teacher", what)])
    return found


def missing_key(resolved: Resolved, given: Mapping[str, Any]) -> Iterator[Problem]:
    """A key that is needed and nowhere to be found. Behind a base URL of one's own none is."""
    if resolved.base or resolved.key or given.get("api_key") or resolved.provider in KEYLESS:
        return
    if lacks_key(resolved) and not has_local_default(resolved):
        names = " or ".join(key_variables(resolved))
        what = (
            f"no API key for {resolved.provider}: set the environment variable {names}, "
            "or api_key in litellm_kwargs"
        )
        yield Problem("teacher", what)


def lacks_key(resolved: Resolved) -> bool:
    """Whether the environment lacks the provider's key, where it goes by one key."""
    told = load_litellm().validate_environment(resolved.model)
    if told["missing_keys"]:
        return all(API_KEY.fullmatch(name) for name in told["missing_keys"])
    return not any(os.environ.get(name) for name in key_variables(resolved)) and (
        resolved.speaks_openai
    )


def key_variables(resolved: Resolved) -> list[str]:
    """The variables that may hold the provider's key, one of which is enough."""
    missing = load_litellm().validate_environment(resolved.model)["missing_keys"]
    usual = f"{resolved.provider.upper().replace('-', '_')}_API_KEY"
    return missing or [usual]


def has_local_default(resolved: Resolved) -> bool:
    _, _, _, base = load_litellm().get_llm_provider(resolved.model)
    return base is not None and bool(LOCAL.match(base))


def wrong_parameters(resolved: Resolved, config: DistillationConfig) -> Iterator[Problem]:
    """Parameters that the model does not take, and parameters that nobody knows."""
    openai_own = set(load_litellm().utils.DEFAULT_CHAT_COMPLETION_PARAM_VALUES)
    for name in config.litellm_kwargs:
        known = name in openai_own or is_transport(name) or name in known_parameters()
        if not known:
            near = nearest(name, known_parameters() | openai_own)
            what = f"LiteLLM knows no such parameter{near}; what is your server's own goes "
            yield Problem(f"litellm_kwargs.{name}", f"{what}into [litellm_kwargs.extra_body]")
    yield from unsupported_params(resolved, config)


def unsupported_params(resolved: Resolved, config: DistillationConfig) -> Iterator[Problem]:
    """What the user chose and LiteLLM itself would refuse to send to this model.

    What the stages set by themselves is left out once it is refused, and no reason to stop.
    """
    litellm = load_litellm()
    openai_own = set(litellm.utils.DEFAULT_CHAT_COMPLETION_PARAM_VALUES)
    sent = chosen(config) | {"drop_params": drops(config.litellm_kwargs)}
    own = {name: value for name, value in sent.items() if name in openai_own}
    taken = litellm.get_supported_openai_params(resolved.bare, resolved.provider) or own
    refused = [name for name in own if name not in {*taken, *NOT_SENT, *allowed_params(sent)}]
    way_out = "leave it out, or set drop_params = true in litellm_kwargs to have it dropped"
    if refused and not own["drop_params"]:
        for name in refused:
            yield Problem(
                config_path(name, config), f"{resolved.model} does not take it; {way_out}"
            )
        return
    try:
        litellm.utils.get_optional_params(
            model=resolved.bare, custom_llm_provider=resolved.provider, **own
        )
    except litellm.exceptions.UnsupportedParamsError as error:
        told = error.message.removeprefix("litellm.UnsupportedParamsError: ").partition(". To ")[0]
        named = named_in(CallError("parameter", told), own)
        where = "litellm_kwargs" if named is None else config_path(named, config)
        yield Problem(where, f"{told}; {way_out}")


def chosen(config: DistillationConfig) -> dict[str, Any]:
    """The parameters that calls send because the user said so.

    A judge (the teacher of a configuration that is made for it) is always asked at 0.
    """
    sent = params_for(config, {}, 0)
    is_judge = config.teacher == config.judge
    if "temperature" not in config.litellm_kwargs and (
        is_judge or "temperature" not in config.model_fields_set
    ):
        del sent["temperature"]
    return sent


NOT_SENT = frozenset(
    {
        "additional_drop_params", "allowed_openai_params", "api_version", "custom_llm_provider",
        "drop_params", "extra_headers", "max_retries", "metadata", "stream", "stream_options",
        "user",
    }
)  # fmt: skip


def allowed_params(sent: Mapping[str, Any]) -> Iterable[str]:
    return sent.get("allowed_openai_params") or ()


def wrong_instructor_settings(given: Mapping[str, Any]) -> Iterator[Problem]:
    """What is not instructor's to be told, or none of its modes."""
    if not given:
        return
    instructor = load_instructor()
    theirs = set(inspect.signature(instructor.AsyncInstructor.create).parameters)
    allowed = (theirs | {"mode"}) - OURS_TO_TELL_INSTRUCTOR
    for name in given:
        if name not in allowed:
            what = f"can't be set; there is {', '.join(sorted(allowed))}"
            yield Problem(f"instructor_kwargs.{name}", what)
    if (mode := mode_named(given.get("mode", MODES[0]))) not in MODES:
        what = f"{mode} can't be used{nearest(mode, MODES)}; there is {', '.join(MODES)}"
        yield Problem("instructor_kwargs.mode", what)


OURS_TO_TELL_INSTRUCTOR = frozenset({"self", "kwargs", "response_model", "messages", "max_retries"})


def config_path(name: str, config: DistillationConfig) -> str:
    if name in config.litellm_kwargs:
        return f"litellm_kwargs.{name}"
    return "max_output_tokens" if name in LIMIT_NAMES else name


def drops(given: Mapping[str, Any]) -> bool:
    return bool(given.get("drop_params") or load_litellm().drop_params)


@cache
def known_parameters() -> frozenset[str]:
    """Every parameter of LiteLLM's own, of a provider that it knows, or of a usual server."""
    litellm = load_litellm()
    call = set(inspect.signature(litellm.acompletion).parameters) - {"kwargs"}
    return frozenset(
        call
        | set(litellm.types.utils.all_litellm_params)
        | LITELLMS
        | SERVERS_OWN
        | providers_own()
    )


LITELLMS = frozenset({"extra_body", "organization", "api_base", "default_headers"})


def providers_own() -> set[str]:
    """Parameters that are fields of one of LiteLLM's provider configurations."""
    litellm = load_litellm()
    names: set[str] = set()
    for provider in litellm.LlmProviders:
        found = litellm.utils.ProviderConfigManager.get_provider_chat_config("model", provider)
        if found is not None:
            names |= set(inspect.signature(type(found).__init__).parameters)
            names |= set(type(found).get_config())
    return names - {"self", "args", "kwargs"}


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f", did you mean '{close[0]}'?" if close else ""
