"""LiteLLM and instructor, imported late, once and quietly.

LiteLLM takes three to five seconds to import, fetches its price table from the network unless
told otherwise before, prints banners and logs on its own. Whoever needs it asks here.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

SWITCHES = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_DISABLE_BUG_REPORT_LINK")
LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "instructor")


@cache
def load_litellm() -> Any:
    """LiteLLM with prices from its own files, no telemetry, no retries and nothing printed."""
    with _environment(dict.fromkeys(SWITCHES, "True")), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        litellm.ModelResponse()  # its schema is made at first use, with warnings
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.num_retries = 0
    _silence()  # where this is inside a `quiet`: LiteLLM sets levels itself
    return litellm


@cache
def load_instructor() -> Any:
    load_litellm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import instructor
    return instructor


class _Silence:
    """How many `quiet` are open, and what the loggers were before the first."""

    depth = 0
    before: ClassVar[dict[str, tuple[bool, int]]] = {}


@contextmanager
def quiet() -> Iterator[None]:
    """No word of the libraries' own inside: at DEBUG they log headers and what providers answer.

    The host program's loggers are as they were afterwards, httpx's and openai's among them.
    """
    with _LOCK:
        if _Silence.depth == 0:
            _Silence.before = {
                name: (logger.disabled, logger.level)
                for name in LOGGERS
                if (logger := logging.getLogger(name))
            }
        _Silence.depth += 1
        _silence()
    try:
        yield
    finally:
        with _LOCK:
            _Silence.depth -= 1
            if _Silence.depth == 0:
                for name, (disabled, level) in _Silence.before.items():
                    logger = logging.getLogger(name)
                    logger.disabled = disabled
                    logger.setLevel(level)


def _silence() -> None:
    if _Silence.depth == 0:
        return
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.disabled = True
        logger.setLevel(logging.CRITICAL + 1)  # for the loggers below it


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set inside, and afterwards as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_LOCK = threading.RLock()
