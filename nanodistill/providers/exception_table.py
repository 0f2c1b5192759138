"""Which kind of failure a provider's words, its status and a library's exception stand for.

The provider's own words go before its status, which is often less exact: a 400 may be about the
key, the credit, the model, a parameter, the length, the content, or this row alone.

Exception classes are named by library and name, so that nothing has to be imported to read the
table; a class that is not in it is judged by its nearest base that is. A test walks the libraries'
error classes and fails on one that is in neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What the provider's words say more exactly than its status. The first that is found counts.
WORDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            "quota",
            r"insufficient[_ ](quota|credit|balance|funds)|billing_hard_limit|billing_not_active"
            r"|credit balance is too low|exceeded_current_quota_error|payment required"
            r"|out of (credits?|quota)|no credits|requires more credits"
            r"|budget[_ ](has been )?exceeded|spend(ing)? (limit|cap)|API usage limits?"
            r"|account[^.]{0,40}(overdue|arrears|good standing)",
        ),
        (
            "context_length",
            r"context_length_exceeded|maximum context length|context window|context limit"
            r"|context size|prompt is too long|input is too long|too many (input )?tokens"
            r"|maximum number of (input )?tokens|longer than the model's"
            r"|reduce the length|request too large|request_too_large|exceeds? the model's max",
        ),
        (
            "content_filter",
            r"content[_ ]filter|content[_ ]policy|responsibleai|safety system|usage policy"
            r"|usage policies|content management policy|moderation|flagged|data_inspection_failed",
        ),
    )
)
NOT_BY_WORDS = (("content_filter", 429), ("content_filter", 401))
# What is used up for longer than a minute, by the names that providers have for it.
LONG_SPAN = re.compile(
    r"per[-_ ]?(day|week|month)|(?-i:\b[RT]PD\b)|\b(daily|weekly|monthly)\b"
    r"|(for|of|this|the) (day|week|month)\b|\b24[- ]?h(ours?|rs?)?\b|\b1[- ]day\b|/ ?day\b",
    re.IGNORECASE,
)
A_MINUTE = re.compile(r"per[-_ ]?min(ute)?|(?-i:\b[RT]PM\b)|/ ?min\b", re.IGNORECASE)
OF_THE_ACCOUNT = re.compile(
    r"(account|organi[sz]ation|project|key|user)\b[^.]{0,40}\b(flagged|suspended|deactivated)", re.I
)
# The model's own output did not fit the form it was asked for; another try may.
MALFORMED = re.compile(r"json_validate_failed|tool_use_failed|failed to (generate|call)", re.I)
FORMAT = re.compile(
    r"response_format|response format|json_schema|json schema|json_object|json mode"
    r"|structured[ _]outputs?|output_config|output_format|tool_choice|tool use|tool call"
    r"|function call|\btools\b|guided|grammar",
    re.IGNORECASE,
)
UNKNOWN_MODEL = re.compile(
    r"model_not_found|invalid model|unknown model|provider not provided"
    r"|no models? (is |are )?loaded|model (is |has been )?(not |un)loaded|failed to load model"
    r"|deployment[^.]{0,80}not (found|exist)"
    r"|model[^.]{0,80}(not found|not exist|not supported"
    r"|not available|is not a valid)",
    re.IGNORECASE,
)
BAD_KEY = re.compile(
    r"api[_ ]key[_ ](not[_ ]valid|invalid)|(invalid|incorrect)[_ ]api[_ ]key|api key (has )?expired"
    r"|authentication[_ ](error|failed)|no[_ ](connected[_ ]db|db[_ ]connection)|unauthorized"
    r"|invalid (access )?token|token (has )?expired",
    re.I,
)
BAD_PARAMETER = re.compile(
    r"unsupported[_ ](parameter|value)|unknown[_ ]parameter|unrecognized (request argument|field)"
    r"|extra (inputs|fields) (are )?not permitted|does not support parameters?",
    re.IGNORECASE,
)
BUSY = re.compile(r"overload|over capacity|at capacity|too busy|no available (server|worker)", re.I)
UNREADABLE = re.compile(
    r"Empty or invalid response from LLM endpoint\. Received: (?P<body>.*)", re.DOTALL
)
RETRY_AFTER = re.compile(r"retry-after(-ms)?", re.IGNORECASE)
TRY_LATER = re.compile(r"rate[_ -]?limit|too many requests", re.IGNORECASE)
OF_THE_ROW = ("messages", "input", "prompt", "contents", "user")


@dataclass(frozen=True)
class ErrorDetails:
    """What a provider said when it did not answer."""

    status: int | None
    text: str
    headers: Mapping[str, str]
    param: str = ""

    @classmethod
    def of_text(cls, status: int | None, text: str, headers: Mapping[str, str]) -> ErrorDetails:
        """From a body as it came: JSON of one of several shapes, HTML or anything else."""
        try:
            body = json.loads(text)
        except ValueError:
            return cls(status, text, headers)
        return cls.of_body(status, body, headers)

    @classmethod
    def of_body(cls, status: int | None, body: Any, headers: Mapping[str, str]) -> ErrorDetails:
        """From a parsed body: OpenAI's, Anthropic's, Google's or a bare message."""
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        error = body.get("error", body) if isinstance(body, Mapping) else body
        if not isinstance(error, Mapping):
            return cls(status, as_text(error), headers)
        told = error.get("message") or error.get("detail") or error.get("msg") or error
        marks = [as_text(error[name]) for name in ("code", "type", "status") if error.get(name)]
        more = " ".join(as_text(error[name]) for name in ("metadata", "details") if error.get(name))
        text = (
            as_text(told) + "".join(f" [{mark}]" for mark in marks) + (f" {more}" if more else "")
        )
        return cls(status, text, headers, param=as_text(error.get("param") or ""))


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def kind_of_http(evidence: ErrorDetails) -> str:
    """The kind of an HTTP answer that is no completion."""
    status, text = evidence.status or 0, evidence.text
    if status in (400, 401, 403) and OF_THE_ACCOUNT.search(text):
        return "forbidden"
    if status in (403, 429) and LONG_SPAN.search(text) and not A_MINUTE.search(text):
        return "used_up"
    for kind, pattern in WORDS:
        if pattern.search(text) and status < 500 and (kind, status) not in NOT_BY_WORDS:
            return kind
    if status in (400, 404, 405, 415, 422, 501) and FORMAT.search(text + evidence.param):
        return "bad_body" if MALFORMED.search(text) else "format"
    if status == 429 or (status < 500 and TRY_LATER.search(text)):
        return "rate_limit"
    if status in (400, 404, 422):
        return kind_of_client_error(evidence)
    if status in STATUS_KINDS:
        return STATUS_KINDS[status]
    if status >= 500 or status == 200:
        asks_to_wait = status == 503 and any(map(RETRY_AFTER.fullmatch, evidence.headers))
        return "overloaded" if asks_to_wait or BUSY.search(text) else "server_error"
    return "bad_request" if status >= 400 else "address"


STATUS_KINDS: Mapping[int, str] = {
    401: "auth",
    402: "quota",
    403: "forbidden",
    405: "not_found",
    407: "proxy",
    408: "timeout",
    409: "server_error",
    410: "not_found",
    413: "context_length",
    425: "server_error",
    451: "forbidden",
    504: "timeout",
    524: "timeout",
    529: "overloaded",
}


def kind_of_client_error(evidence: ErrorDetails) -> str:
    """What a 400, 404 or 422 is about: the key, the model, a parameter or this row."""
    text, param = evidence.text, evidence.param
    if BAD_KEY.search(text):
        return "auth"
    if evidence.status == 404 or param == "model" or UNKNOWN_MODEL.search(text):
        return "not_found"
    if BAD_PARAMETER.search(text) or (param and not param.startswith(OF_THE_ROW)):
        return "parameter"
    return "bad_request"


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


def http_response(error: BaseException) -> ErrorDetails | None:
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


def evidence_of(status: int, body: Any, text: str, headers: Mapping[str, str]) -> ErrorDetails:
    if isinstance(body, Mapping):
        return ErrorDetails.of_body(status, body, headers)
    return ErrorDetails.of_text(status, body if isinstance(body, str) else text, headers)


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


def litellm_status(error: BaseException) -> ErrorDetails | None:
    """What LiteLLM made of an error inside a 200: a status and the words, without headers."""
    held: Mapping[str, Any] = vars(error)
    status = held.get("status_code")
    if not type(error).__module__.startswith("litellm.llms.") or not isinstance(status, int):
        return None
    return evidence_of(status, held.get("body"), str(held.get("message", "")), {})
