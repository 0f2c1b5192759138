"""What becomes of a call that brought no answer: the one place that decides.

Every foreign error (of LiteLLM, the OpenAI client, instructor, aiohttp, httpx, the operating
system; a body that is not JSON; an error inside a 200) becomes one of the kinds below, and each
kind has one consequence. Both transports give the same kinds, because the evidence is the same:
HTTP status, the provider's own words, and headers, wherever in the chain of exceptions a library
has put them (`exception_table`). A library's own verdict is used only where it is all there is. An
error outside the table is a bug, and is raised as one.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from nanodistill.config.access import likely_base
from nanodistill.errors import (
    NO_DESCRIPTORS,
    CallError,
    FatalProviderError,
    RequestRejectedError,
    TransientError,
)
from nanodistill.providers.exception_table import (
    UNKNOWN_MODEL,
    UNREADABLE,
    ErrorDetails,
    chain_of,
    http_response,
    kind_of_class,
    kind_of_http,
    litellm_status,
    root_of,
)
from nanodistill.providers.rate_limit_headers import LONGEST_ASKED_WAIT, wait_asked
from nanodistill.secrets import Redactor
from nanodistill.types import Usage

LONGEST_QUOTE = 300
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class ErrorPolicy(NamedTuple):
    """What a kind means: for the run, and in words."""

    error: type[CallError]
    words: str


KINDS: Mapping[str, ErrorPolicy] = {
    "rate_limit": ErrorPolicy(TransientError, "the provider asks for fewer calls"),
    "overloaded": ErrorPolicy(TransientError, "the provider is overloaded"),
    "timeout": ErrorPolicy(TransientError, "no answer in time"),
    "connection": ErrorPolicy(TransientError, "the connection failed"),
    "server_error": ErrorPolicy(TransientError, "the provider had an error"),
    "bad_body": ErrorPolicy(TransientError, "the answer can't be read"),
    "empty": ErrorPolicy(TransientError, "the answer is empty"),
    "format": ErrorPolicy(
        TransientError, "the provider does not take this form of structured output"
    ),
    "bad_request": ErrorPolicy(RequestRejectedError, "the provider does not take this request"),
    "context_length": ErrorPolicy(RequestRejectedError, "the request is too long for the model"),
    "content_filter": ErrorPolicy(RequestRejectedError, "the provider's content filter stepped in"),
    "refusal": ErrorPolicy(RequestRejectedError, "the model refused to answer"),
    "unknown_finish": ErrorPolicy(
        RequestRejectedError, "the answer ended for a reason that we do not know"
    ),
    "auth": ErrorPolicy(FatalProviderError, "the provider refuses the API key"),
    "forbidden": ErrorPolicy(FatalProviderError, "the provider forbids this"),
    "quota": ErrorPolicy(FatalProviderError, "the account has no credit left"),
    "used_up": ErrorPolicy(
        FatalProviderError, "what the provider allows for longer than a minute is used up"
    ),
    "not_found": ErrorPolicy(
        FatalProviderError, "the provider does not know this model or address"
    ),
    "parameter": ErrorPolicy(
        FatalProviderError, "the provider does not take a parameter of this run"
    ),
    "certificate": ErrorPolicy(FatalProviderError, "the server's certificate is not trusted"),
    "proxy": ErrorPolicy(FatalProviderError, "the proxy refuses the connection"),
    "address": ErrorPolicy(FatalProviderError, "the base URL can't be used"),
    "disk_full": ErrorPolicy(FatalProviderError, "no room is left on the disk"),
    "open_files": ErrorPolicy(FatalProviderError, "too many files and connections are open"),
    "setup": ErrorPolicy(FatalProviderError, "the provider's library can't make this call"),
}
ABOUT_THE_ADDRESS = {"not_found", "connection", "bad_body", "address", "certificate", "forbidden"}


WAITED_FOR = frozenset({"rate_limit", "overloaded"})


def come_back(wait: float | None) -> str:
    """When to run again, where the provider said it; a wait of minutes is not till the next day."""
    if wait is None or wait <= LONGEST_ASKED_WAIT:
        when = "when it is renewed, which for most providers is once a day"
    else:
        at = datetime.now().astimezone() + timedelta(seconds=wait)
        when = f"in {wait / 3600:.1f} hours ({at:%d %b %H:%M})"
    return f"Run the same command again {when}: it goes on from here, and all answers are safe."


class ErrorClassifier:
    """Turns what went wrong into a `CallError`, with no secret in its message.

    `base` is a base URL that the user set, without name and password.
    """

    def __init__(self, redactor: Redactor, base: str | None = None) -> None:
        self._redact = redactor
        self._base = base

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
        message += self._where(kind, told)
        wait = wait_asked(headers or {}, told)
        if kind in WAITED_FOR and wait is not None and wait > LONGEST_ASKED_WAIT:
            return self.make("used_up", told, status=status, headers=headers, usage=usage)
        if fate.error is not TransientError:
            error = fate.error(kind, message, status=status, usage=usage)
            if isinstance(error, FatalProviderError) and kind == "used_up":
                error.way_out = come_back(wait)
            return error
        return TransientError(kind, message, status=status, usage=usage, retry_after=wait)

    def _where(self, kind: str, told: str) -> str:
        """The address that was asked, where the fault may be with it, and a likelier one."""
        if self._base is None or kind not in ABOUT_THE_ADDRESS or UNKNOWN_MODEL.search(told):
            return ""
        likely = likely_base(self._base) if kind in ("not_found", "bad_body") else None
        hint = f"; such servers usually answer at {likely}" if likely else ""
        return f" (asked at {self._base}{hint})"

    def of_http(self, evidence: ErrorDetails) -> CallError:
        """For an HTTP answer that is no completion."""
        kind = kind_of_http(evidence)
        error = self.make(kind, evidence.text, status=evidence.status, headers=evidence.headers)
        error.param = self.quote(evidence.param)
        return error

    @contextmanager
    def translate_errors(self, seconds: float | None = None) -> Iterator[None]:
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
            if isinstance(link, OSError) and link.errno in NO_DESCRIPTORS:
                return self.make("open_files", str(link))
            if isinstance(link, ssl.SSLCertVerificationError):
                return self.make("certificate", str(link))
        if answer := next((found for link in chain if (found := http_response(link))), None):
            return self.of_http(answer)
        if root := root_of(chain):
            return self.make(*root)
        if judged := next((found for link in chain if (found := litellm_status(link))), None):
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
            told = kind_of_http(ErrorDetails(400, str(error), {}))
            kind = kind if told == "bad_request" else told
        return self.make(kind, str(error)) if kind else None
