"""What becomes of a call that brought no answer: the one table.

Every foreign error (LiteLLM's, the OpenAI client's, instructor's, aiohttp's, httpx's, the
operating system's, a body that is no JSON, an error inside a 200) is brought to one of the kinds
below, and each kind has one fate. The same kinds come out of both transports, because the
evidence is the same: HTTP status, the provider's own words and headers, wherever in the chain of
exceptions a library has put them. What a library makes of them is used only where it is all
there is.

`FOREIGN` names classes by library and name, so that nothing has to be imported to read it; a
class that is not in it is judged by its nearest base that is. A test walks the libraries' error
classes and fails on one that is in neither. An error outside the table is a bug, and is let
through as one.
"""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanodistill.errors import CallError, RowFailed, RunStopped, Transient
from nanodistill.records import Usage
from nanodistill.redaction import Redactor
from nanodistill.teacher.headers import wait_asked

LONGEST_QUOTE = 300


class Fate(NamedTuple):
    """What a kind means: for the run, and in words."""

    error: type[CallError]
    words: str


KINDS: Mapping[str, Fate] = {
    "rate_limit": Fate(Transient, "the provider asks for fewer calls"),
    "overloaded": Fate(Transient, "the provider is overloaded"),
    "timeout": Fate(Transient, "no answer in time"),
    "connection": Fate(Transient, "the connection failed"),
    "server_error": Fate(Transient, "the provider had an error"),
    "bad_body": Fate(Transient, "the answer can't be read"),
    "empty": Fate(Transient, "the answer is empty"),
    "format": Fate(Transient, "the provider does not take this form of structured output"),
    "bad_request": Fate(RowFailed, "the provider does not take this request"),
    "context_length": Fate(RowFailed, "the request is too long for the model"),
    "content_filter": Fate(RowFailed, "the provider's content filter stepped in"),
    "refusal": Fate(RowFailed, "the model refused to answer"),
    "auth": Fate(RunStopped, "the provider refuses the API key"),
    "forbidden": Fate(RunStopped, "the provider forbids this"),
    "quota": Fate(RunStopped, "the account has no credit left"),
    "not_found": Fate(RunStopped, "the provider does not know this model or address"),
    "parameter": Fate(RunStopped, "the provider does not take a parameter of this run"),
    "certificate": Fate(RunStopped, "the server's certificate is not trusted"),
    "proxy": Fate(RunStopped, "the proxy refuses the connection"),
    "address": Fate(RunStopped, "the base URL can't be used"),
    "disk_full": Fate(RunStopped, "no room is left on the disk"),
    "setup": Fate(RunStopped, "the provider's library can't make this call"),
}

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

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

# What the provider's words say more exactly than its status. The first that is found counts.
WORDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (
            "quota",
            r"insufficient[_ ](quota|credit|balance|funds)|billing_hard_limit|billing_not_active"
            r"|credit balance is too low|exceeded_current_quota_error|payment required"
            r"|out of credits|requires more credits",
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
    r"|model[^.]{0,80}(not found|not exist|not supported"
    r"|not available|is not a valid)",
    re.IGNORECASE,
)
BAD_KEY = re.compile(
    r"api[_ ]key[_ ](not[_ ]valid|invalid)|(invalid|incorrect)[_ ]api[_ ]key", re.I
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
TRY_LATER = re.compile(r"rate[_ -]?limit|too many requests", re.IGNORECASE)
OF_THE_ROW = ("messages", "input", "prompt", "contents", "user")


@dataclass(frozen=True)
class Evidence:
    """What a provider said when it did not answer."""

    status: int | None
    text: str
    headers: Mapping[str, str]
    param: str = ""

    @classmethod
    def of_text(cls, status: int | None, text: str, headers: Mapping[str, str]) -> Evidence:
        """From a body as it came: JSON of one of several shapes, HTML or anything else."""
        try:
            body = json.loads(text)
        except ValueError:
            return cls(status, text, headers)
        return cls.of_body(status, body, headers)

    @classmethod
    def of_body(cls, status: int | None, body: Any, headers: Mapping[str, str]) -> Evidence:
        """From a parsed body: OpenAI's, Anthropic's, Google's or a bare message."""
        if isinstance(body, list) and len(body) == 1:
            body = body[0]
        error = body.get("error", body) if isinstance(body, Mapping) else body
        if not isinstance(error, Mapping):
            return cls(status, as_text(error), headers)
        told = error.get("message") or error.get("detail") or error.get("msg") or error
        marks = [as_text(error[name]) for name in ("code", "type", "status") if error.get(name)]
        more = as_text(error["metadata"]) if error.get("metadata") else ""
        text = (
            as_text(told) + "".join(f" [{mark}]" for mark in marks) + (f" {more}" if more else "")
        )
        return cls(status, text, headers, param=as_text(error.get("param") or ""))


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def kind_of_http(evidence: Evidence) -> str:
    """The kind of an HTTP answer that is no completion."""
    status, text = evidence.status or 0, evidence.text
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
        return "overloaded" if BUSY.search(text) else "server_error"
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


def kind_of_client_error(evidence: Evidence) -> str:
    """What a 400, 404 or 422 is about: the key, the model, a parameter or this row."""
    text, param = evidence.text, evidence.param
    if BAD_KEY.search(text):
        return "auth"
    if evidence.status == 404 or param == "model" or UNKNOWN_MODEL.search(text):
        return "not_found"
    if BAD_PARAMETER.search(text) or (param and not param.startswith(OF_THE_ROW)):
        return "parameter"
    return "bad_request"


class Faults:
    """Turns what went wrong into a `CallError`, with no secret in its message."""

    def __init__(self, redactor: Redactor) -> None:
        self._redact = redactor

    def make(
        self,
        kind: str,
        told: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        usage: Usage | None = None,
    ) -> CallError:
        """The error of a kind; `told` is what the provider or library said."""
        fate = KINDS[kind]
        code = f" (HTTP {status})" if status and status != 200 else ""
        quoted = self.quote(told)
        message = f"{fate.words}{code}: {quoted}" if quoted else f"{fate.words}{code}"
        if fate.error is not Transient:
            return fate.error(kind, message, status=status, usage=usage)
        wait = wait_asked(headers or {}, told)
        return Transient(kind, message, status=status, usage=usage, retry_after=wait)

    def of_http(self, evidence: Evidence) -> CallError:
        """For an HTTP answer that is no completion."""
        kind = kind_of_http(evidence)
        return self.make(kind, evidence.text, status=evidence.status, headers=evidence.headers)

    @contextmanager
    def border(self, seconds: float | None = None) -> Iterator[None]:
        """Nothing foreign passes: what is raised inside comes out as a `CallError`.

        `seconds` is the timeout that an attempt inside has.

        The foreign error is named in a note and not kept as the cause, because its own text may
        hold a key that a provider echoed.
        """
        try:
            yield
        except Exception as error:
            fault = self.of_exception(error)
            if fault is None:
                raise
            if fault.kind == "timeout" and seconds is not None:
                fault = self.make("timeout", f"none within {seconds:g} s", status=fault.status)
            if fault is not error:
                names = " from ".join(type(link).__qualname__ for link in chain_of(error))
                fault.add_note(f"Raised as {names}.")
            raise fault from None

    def of_exception(self, error: BaseException) -> CallError | None:
        """For what a library raised; None where the table does not know it: a bug."""
        chain = list(chain_of(error))
        for link in chain:
            if isinstance(link, CallError):
                return link
            if isinstance(link, OSError) and link.errno in NO_ROOM:
                return self.make("disk_full", str(link))
            if isinstance(link, ssl.SSLCertVerificationError):
                return self.make("certificate", str(link))
        if answer := next((found for link in chain if (found := answer_in(link))), None):
            return self.of_http(answer)
        if root := root_of(chain):
            return self.make(*root)
        if judged := next((found for link in chain if (found := judgement_in(link))), None):
            if unreadable := UNREADABLE.search(judged.text):
                return self.make("bad_body", unreadable["body"])
            return self.of_http(judged)
        return self._by_class(error)

    def quote(self, told: str) -> str:
        """A provider's words: without secrets, on one line, HTML as its title, cut to a length."""
        words = self._redact(told)
        if title := re.search(r"<title>(.*?)</title>", words, re.IGNORECASE | re.DOTALL):
            words = f"an HTML page: {title[1]}"
        elif re.match(r"\s*<(!doctype|html|body|head)", words, re.IGNORECASE):
            words = "an HTML page"
        words = " ".join(words.split())
        return words if len(words) <= LONGEST_QUOTE else words[: LONGEST_QUOTE - 1] + "…"

    def _by_class(self, error: BaseException) -> CallError | None:
        kind = kind_of_class(type(error))
        if kind in ("bad_request", "parameter"):
            told = kind_of_http(Evidence(400, str(error), {}))
            kind = kind if told == "bad_request" else told
        return self.make(kind, str(error)) if kind else None


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
