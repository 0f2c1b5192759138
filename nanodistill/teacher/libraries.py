"""LiteLLM and instructor, imported late, once and quietly.

LiteLLM takes three to five seconds to import, fetches its price table from the network unless
told otherwise before, prints banners and logs on its own. Whoever needs it asks here.
"""

from __future__ import annotations

import logging
import os
import warnings
from functools import cache
from typing import Any

SWITCHES = ("LITELLM_LOCAL_MODEL_COST_MAP", "LITELLM_DISABLE_BUG_REPORT_LINK")


LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "instructor")


@cache
def load_litellm() -> Any:
    """LiteLLM with prices from its own files, no telemetry, no retries and nothing printed."""
    os.environ.update(dict.fromkeys(SWITCHES, "True"))
    silence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        litellm.ModelResponse()  # its schema is made at first use, with warnings
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.num_retries = 0
    silence()  # again: it sets levels itself
    return litellm


@cache
def load_instructor() -> Any:
    load_litellm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import instructor
    return instructor


def silence() -> None:
    """No word of the libraries' own: at DEBUG they log headers and what providers answer."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.disabled = True
        logger.setLevel(logging.CRITICAL + 1)  # for the loggers below it
