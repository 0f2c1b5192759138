from __future__ import annotations

import errno
import inspect
import ssl
import traceback
from collections.abc import Iterator
from types import ModuleType

import aiohttp.client_exceptions
import aiohttp.http_exceptions
import httpx
import pytest

from nanodistill.errors import CallError, FatalProviderError, RequestRejectedError, TransientError
from nanodistill.providers.error_classifier import KINDS, LONGEST_QUOTE, ErrorClassifier
from nanodistill.providers.exception_table import FOREIGN, ErrorDetails, kind_of_class, kind_of_http
from nanodistill.providers.lazy_imports import load_instructor, load_litellm
from nanodistill.secrets import HIDDEN, Redactor

FAULTS = ErrorClassifier(Redactor(["sk-canary-0123456789abcdef"]))

# Errors of libraries that can't come out of a chat completion.
OUT_OF_PLACE = {
    "WSMessageTypeError",  # web sockets
    "InvalidWebhookSignatureError",  # OpenAI's web hooks
}


def errors_in(module: ModuleType) -> Iterator[type[BaseException]]:
    for name in dir(module):
        found = getattr(module, name, None)
        if inspect.isclass(found) and issubclass(found, BaseException):
            own = found.__module__.partition(".")[0] == module.__name__.partition(".")[0]
            if own and found.__name__ not in OUT_OF_PLACE:
                yield found


def modules() -> Iterator[ModuleType]:
    load_instructor()
    import instructor.core.exceptions
    import openai

    yield load_litellm().exceptions
    yield openai
    yield instructor.core.exceptions
    yield aiohttp.client_exceptions
    yield aiohttp.http_exceptions
    yield httpx


def test_the_table_is_total() -> None:
    unmapped, seen = set(), 0
    for module in modules():
        for error in errors_in(module):
            seen += 1
            if kind_of_class(error) is None:
                unmapped.add(f"{error.__module__}.{error.__qualname__}")
    assert seen > 120
    assert unmapped == set()


def test_every_error_of_litellm_is_named_itself() -> None:
    """A new class under a mapped base would be judged by the base unnoticed."""
    names = {f"litellm.{error.__qualname__}" for error in errors_in(load_litellm().exceptions)}
    assert names - set(FOREIGN) == set()


def test_every_kind_of_the_table_has_a_fate() -> None:
    assert set(FOREIGN.values()) <= set(KINDS)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, "auth"),
        (400, {"error": {"message": "API key not valid.", "status": "INVALID"}}, "auth"),
        (403, {"error": {"message": "Country not supported"}}, "forbidden"),
        (402, {"error": {"message": "Insufficient Balance"}}, "quota"),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, "quota"),
        (429, {"error": {"message": "x", "type": "insufficient_quota"}}, "quota"),
        (400, {"type": "error", "error": {"message": "Your credit balance is too low"}}, "quota"),
        (404, {"error": {"message": "The model `x` does not exist"}}, "not_found"),
        (400, {"error": {"message": "x", "code": "model_not_found"}}, "not_found"),
        (400, {"error": {"message": "Model Not Exist"}}, "not_found"),
        (400, {"message": "Invalid model: mistral-huge", "type": "invalid_model"}, "not_found"),
        (429, {"error": {"message": "Rate limit reached", "code": "rate_limit"}}, "rate_limit"),
        (429, {"error": {"message": "quota exceeded", "status": "RESOURCE_EXHAUSTED"}},
         "rate_limit"),
        (429, {"error": {"message": "Request too large for gpt-4o: Limit 30000"}},
         "context_length"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
         "overloaded"),
        (503, {"error": {"message": "The model is overloaded"}}, "overloaded"),
        (503, {"error": {"message": "no"}}, "server_error"),
        (500, {"error": {"message": "insufficient_quota of the upstream"}}, "server_error"),
        (504, "upstream timed out", "timeout"),
        (408, {}, "timeout"),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, "context_length"),
        (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000"}},
         "context_length"),
        (413, {"error": {"message": "Request Entity Too Large"}}, "context_length"),
        (400, {"error": {"message": "x", "code": "content_filter"}}, "content_filter"),
        (403, {"error": {"message": "Your input was flagged", "code": 403}}, "content_filter"),
        (400, {"error": {"message": "bad", "param": "temperature"}}, "parameter"),
        (400, {"error": {"message": "Unsupported parameter: 'seed'"}}, "parameter"),
        (422, {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]},
         "parameter"),
        (400, {"error": {"message": "bad", "param": "messages.[0].content"}}, "bad_request"),
        (400, {"error": {"message": "who knows"}}, "bad_request"),
        (400, {"error": {"message": "no", "param": "response_format"}}, "format"),
        (400, {"error": {"message": "json_schema is not supported"}}, "format"),
        (404, {"error": {"message": "No endpoints found that support tool use"}}, "format"),
        (400, {"error": {"message": "Failed to generate JSON", "code": "json_validate_failed",
                         "param": "response_format"}}, "bad_body"),
        (400, {"error": {"message": "Authentication Error, No connected db.",
                         "type": "no_db_connection"}}, "auth"),
        (400, {"error": "No models loaded. Please load a model first."}, "not_found"),
        (400, {"error": {"message": "The API deployment mine does not exist"}}, "not_found"),
        (403, {"error": {"message": "Your account was flagged and suspended"}}, "forbidden"),
        (400, {"error": {"message": "Budget has been exceeded! Current cost: 5"}}, "quota"),
        (400, {"error": {"message": "You have reached your specified API usage limits."}},
         "quota"),
        (429, {"error": {"message": "tokens per day (TPD): Limit 500000, Used 500000"}},
         "used_up"),
        (429, {"error": {"message": "Rate limit exceeded: free-models-per-day"}}, "used_up"),
        (429, {"error": {"message": "Limit 3 requests per min, 200 per day on another tier"}},
         "rate_limit"),
        (429, {"error": {"message": "no", "details": [{"quotaId": "PerMinutePerProject"}]}},
         "rate_limit"),
        (302, "", "address"),
    ],
)  # fmt: skip
def test_http_answers(status: int, body: object, kind: str) -> None:
    assert kind_of_http(ErrorDetails.of_body(status, body, {})) == kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "connection"),
        (BrokenPipeError(), "connection"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (ssl.SSLCertVerificationError("self-signed certificate"), "certificate"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.ConnectError("no"), "connection"),
        (httpx.InvalidURL("no"), "address"),
        (httpx.ProxyError("407 Proxy Authentication Required"), "proxy"),
        (httpx.ProxyError("502 Bad Gateway"), "connection"),
        (aiohttp.ServerDisconnectedError(), "connection"),
        (aiohttp.ClientPayloadError("cut"), "bad_body"),
        (aiohttp.InvalidURL("x"), "address"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "bad_body"),
    ],
)
def test_errors_of_the_system(error: BaseException, kind: str) -> None:
    fault = FAULTS.of_exception(error)
    assert fault is not None
    assert fault.kind == kind


def test_a_bug_is_no_fault() -> None:
    assert FAULTS.of_exception(ZeroDivisionError()) is None
    with pytest.raises(ZeroDivisionError), FAULTS.translate_errors():
        raise ZeroDivisionError


def test_fates() -> None:
    assert isinstance(FAULTS.make("rate_limit", "x"), TransientError)
    assert isinstance(FAULTS.make("refusal", "x"), RequestRejectedError)
    assert isinstance(FAULTS.make("auth", "x"), FatalProviderError)


def test_the_wait_of_a_refusal_goes_with_it() -> None:
    fault = FAULTS.of_http(ErrorDetails.of_text(429, "slow down", {"Retry-After": "4"}))
    assert isinstance(fault, TransientError)
    assert (fault.retry_after, fault.is_refusal, fault.status) == (4, True, 429)


def test_a_503_that_says_when_to_come_back_is_a_refusal() -> None:
    fault = FAULTS.of_http(ErrorDetails.of_text(503, "no", {"Retry-After": "4"}))
    assert isinstance(fault, TransientError)
    assert (fault.kind, fault.retry_after) == ("overloaded", 4)


def test_the_wait_in_googles_details() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]
    body = [{"error": {"code": 429, "message": "quota", "status": "X", "details": details}}]
    fault = FAULTS.of_http(ErrorDetails.of_body(429, body, {}))
    assert isinstance(fault, TransientError)
    assert (fault.kind, fault.retry_after) == ("rate_limit", 34)


def test_quotes_are_short_and_hold_no_secret() -> None:
    page = f"<html><head><title>502 Bad\nGateway</title></head>{'<p>x</p>' * 900}</html>"
    fault = FAULTS.of_http(ErrorDetails.of_text(502, page, {}))
    assert fault.message == "the provider had an error (HTTP 502): an HTML page: 502 Bad Gateway"
    key = "Incorrect API key provided: sk-canary-0123456789abcdef" + " x" * 900
    fault = FAULTS.of_http(ErrorDetails.of_text(401, key, {}))
    assert HIDDEN in fault.message
    assert len(fault.message) < LONGEST_QUOTE + 100


def test_what_crosses_the_border_has_no_foreign_text_in_its_traceback() -> None:
    def cross() -> None:
        with FAULTS.translate_errors():
            raise ConnectionError("sent sk-canary-0123456789abcdef")

    with pytest.raises(CallError) as caught:
        cross()
    shown = "".join(traceback.format_exception(caught.value))
    assert "canary" not in shown
    assert "Raised as ConnectionError." in shown
