"""Keeping keys and tokens out of everything that is written or shown, except data.

`redacted` blanks the values of a settings table whose names say that they are secret. `Redactor`
knows the secrets themselves (those the user passed and those in the environment) and removes them
from any text, also when a provider echoes them in an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "[redacted]"
SECRET_NAME = re.compile(
    r"(api[_-]?keys?|access[_-]?keys?|token|secrets?|passwords?|passwd|authorization"
    r"|credentials?|cookies?)\Z",
    re.IGNORECASE,
)
SHORTEST_SECRET = 8


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable by this name holds a secret (`max_tokens` does not)."""
    return bool(SECRET_NAME.search(name))


def redacted(value: Any) -> Any:
    """`value` with the values of secret names inside its tables blanked."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if is_secret_name(str(key)) and item else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def secrets_in(value: Any) -> set[str]:
    """The texts under secret names inside `value`'s tables."""
    if isinstance(value, Mapping):
        found = {
            secret
            for key, item in value.items()
            if isinstance(item, str) and is_secret_name(str(key))
            for secret in (item, item.strip())  # keys are sent without white space at their ends
        }
        return found.union(*(secrets_in(item) for item in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(secrets_in(item) for item in value))
    return set()


class Redactor:
    """Takes known secrets out of texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    @classmethod
    def of(cls, settings: Any, environment: Mapping[str, str] = os.environ) -> Redactor:
        """A redactor for the secrets in `settings` and in the environment."""
        return cls(secrets_in(settings) | secrets_in(dict(environment)))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(HIDDEN, text) if self._pattern else text
