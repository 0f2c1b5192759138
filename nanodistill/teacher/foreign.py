"""The errors of the libraries below us: which kind each is, and what evidence it carries.

Classes are named by library and name, so that nothing has to be imported to read the table; a
class that is not in it is judged by its nearest base that is. A test walks the libraries' error
classes and fails on one that is in neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nanodistill.teacher.evidence import Evidence

FOREIGN: Mapping[str, str] = {
    "litellm.AuthenticationError": "auth",
    "litellm.PermissionDeniedError": "forbidden",
    "litellm.NotFoundError": "not_found",
    "litellm.LiteLLMUnknownProvider": "not_found",
    "litellm.ModelNotMappedError": "not_found",
    "litellm.BadRequestError": "bad_request",
    "litellm.InvalidRequestError": "bad_request",
    "litellm.RejectedRequestError": "content_filter",
    "litellm.UnprocessableEntityError": "bad_request",
    "litellm.ImageFetchError": "bad_request",
    "litellm.VectorStoreSearchError": "bad_request",
    "litellm.UnsupportedParamsError": "parameter",
    "litellm.ContextWindowExceededError": "context_length",
    "litellm.ContentPolicyViolationError": "content_filter",
    "litellm.GuardrailRaisedException": "content_filter",
    "litellm.GuardrailInterventionNormalStringError": "content_filter",
    "litellm.BlockedPiiEntityError": "content_filter",
    "litellm.ModifyResponseException": "content_filter",
    "litellm.SensitiveDataRouteException": "content_filter",
    "litellm.Timeout": "timeout",
    "litellm.RateLimitError": "rate_limit",
    "litellm.ServiceUnavailableError": "overloaded",
    "litellm.MidStreamFallbackError": "server_error",
    "litellm.BadGatewayError": "server_error",
    "litellm.InternalServerError": "server_error",
    "litellm.APIError": "server_error",
    "litellm.MockException": "server_error",
    "litellm.APIConnectionError": "connection",
    "litellm.APIResponseValidationError": "bad_body",
    "litellm.JSONSchemaValidationError": "bad_body",
    "litellm.OpenAIError": "server_error",
    "litellm.BudgetExceededError": "quota",
    "litellm.BaseLLMException": "server_error",
    "openai.OpenAIError": "server_error",
    "openai.APIError": "server_error",
    "openai.APIStatusError": "server_error",
    "openai.APIConnectionError": "connection",
    "openai.APITimeoutError": "timeout",
    "openai.APIResponseValidationError": "bad_body",
    "openai.BadRequestError": "bad_request",
    "openai.UnprocessableEntityError": "bad_request",
    "openai.AuthenticationError": "auth",
    "openai.PermissionDeniedError": "forbidden",
    "openai.NotFoundError": "not_found",
    "openai.ConflictError": "server_error",
    "openai.RateLimitError": "rate_limit",
    "openai.InternalServerError": "server_error",
    "openai.LengthFinishReasonError": "bad_body",
    "openai.ContentFilterFinishReasonError": "content_filter",
    "instructor.InstructorError": "bad_body",
    "instructor.IncompleteOutputException": "bad_body",
    "instructor.InstructorRetryException": "bad_body",
    "instructor.ValidationError": "bad_body",
    "instructor.ResponseParsingError": "bad_body",
    "instructor.AsyncValidationError": "bad_body",
    "instructor.FailedAttempt": "bad_body",
    "instructor.ProviderError": "server_error",
    "instructor.ConfigurationError": "setup",
    "instructor.ModeError": "setup",
    "instructor.ClientError": "setup",
    "instructor.MultimodalError": "setup",
    "aiohttp.ClientError": "connection",
    "aiohttp.ClientResponseError": "bad_body",
    "aiohttp.ClientPayloadError": "bad_body",
    "aiohttp.ContentTypeError": "bad_body",
    "aiohttp.InvalidURL": "address",
    "aiohttp.NonHttpUrlClientError": "address",
    "aiohttp.TooManyRedirects": "address",
    "aiohttp.ClientHttpProxyError": "proxy",
    "aiohttp.ClientConnectorCertificateError": "certificate",
    "aiohttp.ClientConnectorSSLError": "connection",
    "aiohttp.ServerFingerprintMismatch": "certificate",
    "aiohttp.ServerTimeoutError": "timeout",
    "aiohttp.HttpProcessingError": "bad_body",
    "httpx.HTTPError": "connection",
    "httpx.TimeoutException": "timeout",
    "httpx.ProxyError": "proxy",
    "httpx.UnsupportedProtocol": "address",
    "httpx.InvalidURL": "address",
    "httpx.TooManyRedirects": "address",
    "httpx.DecodingError": "bad_body",
    "httpx.RemoteProtocolError": "bad_body",
    "httpx.HTTPStatusError": "server_error",
    "httpx.StreamError": "bad_body",
    "httpx.CookieConflict": "setup",
    "builtins.TimeoutError": "timeout",
    "builtins.OSError": "connection",
    "builtins.EOFError": "connection",
    "builtins.UnicodeError": "bad_body",
    "json.JSONDecodeError": "bad_body",
    "ssl.SSLError": "connection",
    "ssl.SSLCertVerificationError": "certificate",
}


def kind_of_class(error: type[BaseException]) -> str | None:
    """The kind of the nearest class in the table, going up the bases."""
    for base in error.__mro__:
        if kind := FOREIGN.get(f"{base.__module__.partition('.')[0]}.{base.__qualname__}"):
            return kind
    return None


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def answer_in(error: BaseException) -> Evidence | None:
    """The HTTP answer that a foreign error carries, where there was one.

    The OpenAI client keeps the response; LiteLLM's errors for other providers keep status,
    headers and text. Those that LiteLLM made of something else have no headers.
    """
    held: Mapping[str, Any] = vars(error)
    module = type(error).__module__
    if module == "litellm.exceptions":
        return None
    if module.startswith("litellm."):
        headers, status = held.get("headers"), held.get("status_code")
        if not headers or not isinstance(status, int) or status == 200:
            return None
        return evidence_of(status, held.get("body"), str(held.get("message", "")), headers)
    response = held.get("response")
    if response is None or not module.startswith(("openai", "httpx")):
        return None
    told = str(held.get("message") or error)
    return evidence_of(response.status_code, held.get("body"), told, response.headers)


def evidence_of(status: int, body: Any, text: str, headers: Mapping[str, str]) -> Evidence:
    if isinstance(body, Mapping):
        return Evidence.of_body(status, body, headers)
    return Evidence.of_text(status, body if isinstance(body, str) else text, headers)


def root_of(chain: list[BaseException]) -> tuple[str, str] | None:
    """Kind and words of the transport's own error at the root of a chain, where there is one.

    LiteLLM says of an answer that it can't read that the connection failed; at the root is
    then what its code stumbled over.
    """
    for link in reversed(chain):
        if type(link).__module__.startswith("litellm"):
            continue
        kind = kind_of_class(type(link))
        if kind == "proxy" and not REFUSED_BY_PROXY.search(str(link)):
            kind = "connection"
        if kind in ROOTS:
            return kind, str(link)
        if isinstance(link, LookupError | AttributeError | TypeError) and link is not chain[0]:
            return "bad_body", ""
    return None


REFUSED_BY_PROXY = re.compile(r"\b(403|407)\b")
ROOTS = ("timeout", "connection", "bad_body", "address", "proxy", "certificate")


def judgement_in(error: BaseException) -> Evidence | None:
    """What LiteLLM made of an error inside a 200: a status and the words, without headers."""
    held: Mapping[str, Any] = vars(error)
    status = held.get("status_code")
    if not type(error).__module__.startswith("litellm.llms.") or not isinstance(status, int):
        return None
    return evidence_of(status, held.get("body"), str(held.get("message", "")), {})
