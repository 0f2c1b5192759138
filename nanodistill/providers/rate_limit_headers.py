"""What response headers say of limits: how long to wait, how much is left.

Providers say it in many ways. The wait: `Retry-After` in seconds or as an HTTP
date, `retry-after-ms`, and the reset times of spent limits. Limits: OpenAI's
`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, with or without a window
at the end (`-minute`, `-day`), and Anthropic's `anthropic-ratelimit-{requests,
tokens}-{limit,remaining,reset}`. Reset times come as seconds ("59.7"), spans
("6m0s", "120ms"), moments (RFC 3339) or Unix times in seconds or milliseconds.

All of them are read and the longest wait is taken, but the reset of a limit
that still has room is not a wait.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from nanodistill.providers.base import RateHints

LONGEST_ASKED_WAIT = 600.0
LONGEST_WAIT = 40 * 24 * 3600.0
NUMBER = r"(\d+(?:\.\d+)?)"
JUST_NUMBER = re.compile(r"\s*-?\d+(?:\.\d+)?\s*")
SPAN = re.compile(rf"(?:{NUMBER}d)?(?:{NUMBER}h)?(?:{NUMBER}m(?!s))?(?:{NUMBER}s)?(?:{NUMBER}ms)?")
SPAN_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
WINDOW_MINUTES = {"": 1.0, "minute": 1.0, "second": 1 / 60}
OPENAI_LIMIT = re.compile(
    r"x-ratelimit-(?P<field>limit|remaining|reset)"
    r"(?:-(?P<what>requests|req|tokens))?(?:-(?P<window>second|minute|hour|day|month))?"
)
ANTHROPIC_LIMIT = re.compile(
    r"anthropic-ratelimit-(?P<what>requests|tokens|input-tokens|output-tokens)"
    r"-(?P<field>limit|remaining|reset)(?P<window>)"
)
WAIT_IN_TEXT = re.compile(
    r"(?:try again|retry) (?:in|after) (?P<span>[\dhdms.]+)"
    r"(?: ?(?P<unit>seconds?|minutes?|milliseconds?|hours?|days?))?"
    r"|\"retryDelay\": ?\"(?P<delay>[\dms.]+)\"",
    re.IGNORECASE,
)
COUNTED = {
    None: "requests",
    "req": "requests",
    "requests": "requests",
    "tokens": "tokens",
    "input-tokens": "input tokens",
    "output-tokens": "output tokens",
}
UNIT_SECONDS = {
    "second": 1.0,
    "minute": 60.0,
    "millisecond": 0.001,
    "hour": 3600.0,
    "day": 86400.0,
}

Clock = Callable[[], float]


@dataclass
class Limit:
    """One limit as headers tell it: `reset` in seconds from now."""

    limit: float | None = None
    remaining: int | None = None
    reset: float | None = None

    @property
    def may_be_spent(self) -> bool:
        return self.remaining is None or self.remaining <= 0


def wait_asked(
    headers: Mapping[str, str], text: str = "", clock: Clock = time.time
) -> float | None:
    """Seconds that a refusal asks to wait, by its headers and its words, or None."""
    waits = [
        *retry_afters(headers, clock),
        *(
            limit.reset
            for (_, window), limit in limits_in(headers, clock).items()
            if limit.may_be_spent and (window in WINDOW_MINUTES or limit.remaining is not None)
        ),
        *waits_in_text(text),
    ]
    sensible = [max(0.0, wait) for wait in waits if wait is not None and wait <= LONGEST_WAIT]
    return max(sensible, default=None)


def retry_afters(headers: Mapping[str, str], clock: Clock) -> Iterator[float | None]:
    for name, value in headers.items():
        match normalize_name(name):
            case "retry-after":
                yield seconds_in(value, clock)
            case "retry-after-ms":
                wait = seconds_in(value, clock)
                yield None if wait is None else wait / 1000


def waits_in_text(text: str) -> Iterator[float | None]:
    for found in WAIT_IN_TEXT.finditer(text):
        span = (found["span"] or found["delay"]).rstrip(".")
        wait = plain_seconds(span)
        unit = UNIT_SECONDS[found["unit"].lower().rstrip("s")] if found["unit"] else 1.0
        yield None if wait is None else wait * unit


def parse_rate_limits(headers: Mapping[str, str], clock: Clock = time.time) -> RateHints | None:
    """The limits that the headers of an answer tell, or None where they tell none."""
    limits = limits_in(headers, clock)
    if not limits:
        return None
    requests = [limit for (what, _), limit in limits.items() if what == "requests"]
    tokens = [limit for (what, _), limit in limits.items() if what == "tokens"]
    spent = [limit.reset for limit in limits.values() if limit.remaining == 0]
    return RateHints(
        requests_per_minute=min_known(limit.limit for limit in requests),
        tokens_per_minute=min_known(limit.limit for limit in tokens),
        remaining_requests=min_known(limit.remaining for limit in requests),
        remaining_tokens=min_known(limit.remaining for limit in tokens),
        resets_in=max((wait for wait in spent if wait is not None), default=None),
    )


def limits_in(headers: Mapping[str, str], clock: Clock) -> dict[tuple[str, str], Limit]:
    """The limits told, by what they count and their window."""
    limits: dict[tuple[str, str], Limit] = {}
    for name, value in headers.items():
        if "ratelimit" not in name and "RateLimit" not in name:
            continue
        name = normalize_name(name)
        found = OPENAI_LIMIT.fullmatch(name) or ANTHROPIC_LIMIT.fullmatch(name)
        if found is None:
            continue
        what, window = COUNTED[found["what"]], found["window"] or ""
        limit = limits.setdefault((what, window), Limit())
        match found["field"]:
            case "limit" if window in WINDOW_MINUTES and (number := plain_number(value)):
                limit.limit = number / WINDOW_MINUTES[window]
            case "remaining":
                number = plain_number(value)
                limit.remaining = None if number is None else int(number)
            case "reset":
                limit.reset = seconds_in(value, clock)
    return limits


def seconds_in(value: str, clock: Clock) -> float | None:
    """Seconds from now that a header's value means, negative for the past, None for no time."""
    value = value.strip()
    number = plain_seconds(value)
    if number is not None:
        if number > 1e11:
            return number / 1000 - clock()
        return number - clock() if number > 1e8 else number
    moment = moment_in(value)
    return None if moment is None else moment.timestamp() - clock()


def plain_seconds(value: str) -> float | None:
    """A bare number or a span like 6m0s, in seconds."""
    number = plain_number(value)
    if number is not None or not value.strip():
        return number
    parts = SPAN.fullmatch(value.strip())
    if not parts:
        return None
    pairs = zip(parts.groups(), SPAN_SECONDS, strict=True)
    return sum(float(part) * unit for part, unit in pairs if part)


def plain_number(value: str) -> float | None:
    return float(value) if JUST_NUMBER.fullmatch(value) else None


def moment_in(value: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(value)
        except ValueError:
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def normalize_name(name: str) -> str:
    """A header's name in lower case, without the mark that LiteLLM puts before it."""
    return name.lower().removeprefix("llm_provider-")


Number = TypeVar("Number", int, float)


def min_known(values: Iterable[Number | None]) -> Number | None:
    return min((value for value in values if value is not None), default=None)
