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

PRICES_FROM_DISK = "LITELLM_LOCAL_MODEL_COST_MAP"


@cache
def load_litellm() -> Any:
    """LiteLLM with prices from its own files, no telemetry, no retries and nothing printed."""
    os.environ[PRICES_FROM_DISK] = "True"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        litellm.ModelResponse()  # its schema is made at first use, with warnings
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.num_retries = 0
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        silence(logging.getLogger(name))
    return litellm


@cache
def load_instructor() -> Any:
    load_litellm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import instructor
    silence(logging.getLogger("instructor"))
    return instructor


def silence(logger: logging.Logger) -> None:
    """Our output is ours: handlers that a library has put up are taken down."""
    logger.handlers.clear()
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
