from __future__ import annotations

import pytest

from nanodistill.providers.base import RateHints
from nanodistill.providers.rate_limit_headers import parse_rate_limits, wait_asked

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def clock() -> float:
    return NOW


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "59.7"}, 59.7),
        ({"x-ratelimit-reset-tokens-minute": "12"}, 12),
        ({"x-ratelimit-reset": "1800000042"}, 42),
        ({"X-RateLimit-Reset": "1800000042000"}, 42),
        ({"anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:20Z"}, 20),
        ({"anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:20+00:00"}, 20),
        ({"llm_provider-retry-after": "9"}, 9),
        ({"Retry-After": "3", "x-ratelimit-reset-tokens": "8s"}, 8),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "99999999"}, None),
        ({}, None),
    ],
)
def test_wait_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    wait = wait_asked(headers, clock=clock)
    assert wait == (None if seconds is None else pytest.approx(seconds))


def test_reset_of_a_limit_with_room_is_no_wait() -> None:
    headers = {
        "retry-after": "2",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "50m",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "5s",
    }
    assert wait_asked(headers, clock=clock) == 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Rate limit reached. Please try again in 20s. Visit…", 20),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 450ms.", 0.45),
        ("please retry after 30 seconds", 30),
        ("Please retry after 2 minutes.", 120),
        ("try again in 5 hours", 18_000),
        ("Please retry after 2 days.", 172_800),
        ('{"@type": "RetryInfo", "retryDelay": "34.07s"}', 34.07),
        ("try again in a while", None),
    ],
)
def test_wait_in_words(text: str, seconds: float | None) -> None:
    assert wait_asked({}, text, clock) == (None if seconds is None else pytest.approx(seconds))


def test_hints_of_openai() -> None:
    headers = {
        "Content-Type": "application/json",
        "X-RateLimit-Limit-Requests": "500",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "29000",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-reset-tokens": "2s",
    }
    assert parse_rate_limits(headers, clock) == RateHints(500, 30000, 0, 29000, 0.12)


def test_hints_of_anthropic() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:20Z",
        "anthropic-ratelimit-tokens-limit": "80000",
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:04Z",
    }
    assert parse_rate_limits(headers, clock) == RateHints(50, 80000, 49, 0, 4)


def test_limits_of_other_windows() -> None:
    a_day = {"x-ratelimit-limit-requests-day": "1000", "x-ratelimit-remaining-requests-day": "7"}
    assert parse_rate_limits(a_day, clock) == RateHints(remaining_requests=7)
    a_second = {"x-ratelimit-limit-requests-second": "2"}
    assert parse_rate_limits(a_second, clock) == RateHints(requests_per_minute=120)
    assert parse_rate_limits({"content-type": "text/html"}, clock) is None
