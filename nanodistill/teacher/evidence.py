"""What a provider said when it did not answer, and what kind of fault that is.

The provider's own words go before its status, which is often less exact: a 400 may be about the
key, the credit, the model, a parameter, the length, the content, or this row alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
        more = " ".join(as_text(error[name]) for name in ("metadata", "details") if error.get(name))
        text = (
            as_text(told) + "".join(f" [{mark}]" for mark in marks) + (f" {more}" if more else "")
        )
        return cls(status, text, headers, param=as_text(error.get("param") or ""))


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def kind_of_http(evidence: Evidence) -> str:
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
