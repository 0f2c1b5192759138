"""The connection to the Hub, and every refusal of it as one of our errors.

The first question of a command waits ten seconds and is not repeated, so that a machine without a
network is told at once. huggingface_hub repeats the transfers after it; nothing here does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanodistill.config.access import address_problem, key_problem, without_login
from nanodistill.errors import InputError, RunIncompleteError
from nanodistill.hub.upload_bundle import RepoType

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

SECONDS_TO_ANSWER = 10
NO_TOKEN = "Log in with `hf auth login`, or set HF_TOKEN."
AGAIN = "Run the same command again; what was sent already is not sent twice."


class ConflictError(RunIncompleteError):
    """Somebody else changed the repository while we looked at it."""


class RepositoryNotFoundError(InputError):
    """The Hub has no such repository for us; it does not say whether it is there for others."""


class RevisionNotFoundError(InputError):
    """The repository has no such tag, branch or commit."""


class OfflineError(InputError):
    """HF_HUB_OFFLINE is set, and the work takes the Hub."""


@dataclass(frozen=True)
class Hub:
    """Which Hub, as whom, and where downloads are kept; None is what huggingface_hub would take."""

    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None

    @property
    def api(self) -> HfApi:
        """
        Raises:
            InputError: the token or the endpoint that was set can't be one. Nothing was sent.
        """
        from huggingface_hub import HfApi, get_token

        api = HfApi(endpoint=self.endpoint, token=self.token)
        if wrong := key_problem(self.token or get_token() or ""):
            raise InputError(
                f"The token for the Hub {wrong}.",
                next_step="It comes from HF_TOKEN, or from what `hf auth login` stored.",
            )
        if wrong := address_problem(api.endpoint):
            raise InputError(f"HF_ENDPOINT {wrong}.", next_step="Set it right, or unset it.")
        return api

    @property
    def name(self) -> str:
        return without_login(self.api.endpoint)

    def known_token(self) -> str:
        """The token that writing takes.

        Raises:
            InputError: there is none, or it can't be one.
        """
        from huggingface_hub import get_token

        token = self.token or get_token()
        if not token:
            raise InputError(
                f"Pushing to {self.name} takes a token with the right to write, and there is none.",
                next_step=NO_TOKEN,
            )
        return token


# What huggingface_hub runs into where an answer is no JSON (ValueError) or has another shape.
NOT_AS_A_HUB = (ValueError, LookupError, TypeError, AttributeError)
COMMIT = re.compile(r"[0-9a-f]{7,64}\Z")


def commit_of(sha: str | None, hub: Hub) -> str:
    """The commit that a Hub names.

    Raises:
        RunIncompleteError: it names none.
    """
    if sha is None or not COMMIT.match(sha):
        raise _no_hub(hub, f"it names the commit {sha!r}")
    return sha


@contextmanager
def translate_errors(hub: Hub, repo: str, kind: RepoType) -> Iterator[None]:
    """Turn what huggingface_hub raises about `repo` into errors of ours.

    Raises:
        NoSuchRepository, InputError: asking again would bring the same.
        RunIncompleteError: the network, the Hub or somebody else was in the way; it can go on.
        Stale: the repository is not any more as we read it.
    """
    import httpx

    try:
        with _no_bars():
            yield
    except (OSError, httpx.HTTPError, httpx.InvalidURL, *NOT_AS_A_HUB) as error:
        if (ours := _translated(error, hub, repo, kind)) is None:
            raise
        raise ours from error
    except RuntimeError as wrapped:  # so a large file's transfer fails, whatever it failed of
        cause = wrapped.__cause__
        ours = _translated(cause, hub, repo, kind) if isinstance(cause, Exception) else None
        if ours is None:
            raise
        raise ours from wrapped


def _translated(error: Exception, hub: Hub, repo: str, kind: RepoType) -> Exception | None:
    """Our error for one of huggingface_hub's or httpx's; None for any other."""
    import httpx
    from huggingface_hub import errors

    match error:
        case errors.OfflineModeIsEnabled():
            told = f"HF_HUB_OFFLINE is set, so {repo} can't be asked for."
            return OfflineError(told, next_step="Unset it.")
        case errors.RevisionNotFoundError():
            there = f"{hub.name}/{_page(repo, kind)}"
            return RevisionNotFoundError(
                f"The {kind} {repo} has no such revision.",
                next_step=f"Name a tag, branch or commit that is on {there}",
            )
        case errors.GatedRepoError():
            return InputError(
                f"The {kind} {repo} is gated, and this account was not let in.",
                next_step=f"Ask for access at {hub.name}/{_page(repo, kind)}",
            )
        case errors.RepositoryNotFoundError():
            return RepositoryNotFoundError(
                f"{hub.name} has no {kind} {repo}, or it is private and this account "
                "may not see it.",
                next_step=f"Look at the name and at the account. {NO_TOKEN}",
            )
        case errors.HfHubHTTPError():
            return _refusal(error, hub, repo, kind)
        case errors.HFValidationError():
            return InputError(f"{repo} is no name of a repository: {_first_line(error)}.")
        case errors.FileMetadataError():
            return _no_hub(hub, _first_line(error))
        case errors.LocalEntryNotFoundError():
            cause = error.__cause__
            if isinstance(cause, errors.FileMetadataError | errors.HfHubHTTPError):
                return _translated(cause, hub, repo, kind)
            return _unreachable(hub, error)
        case httpx.HTTPError() | httpx.InvalidURL() | ConnectionError() | TimeoutError():
            return _unreachable(hub, error)
        case OSError():  # of huggingface_hub itself where the system gave no number
            return None if error.errno else _no_hub(hub, _first_line(error))
    return _no_hub(hub, f"{type(error).__name__}: {_first_line(error)}")


def _refusal(refused: HfHubHTTPError, hub: Hub, repo: str, kind: RepoType) -> Exception:
    status = refused.response.status_code
    said = (refused.server_message or _first_line(refused)).rstrip(".")
    if status == 401:
        return InputError(
            f"{hub.name} does not accept the token: {said}.",
            next_step=f"Make a new one. {NO_TOKEN}",
        )
    if status == 403:
        return InputError(
            f"This account or its token may not do that with the {kind} {repo}: {said}.",
            next_step="Use a token with the right to write there, or another owner's name.",
        )
    if status in (409, 412):
        return ConflictError(f"{repo} was changed meanwhile ({status}): {said}.", next_step=AGAIN)
    if status in (408, 425, 429) or status >= 500:
        wait = refused.response.headers.get("Retry-After", "")
        hint = f" It asks to wait {wait} seconds." if wait.isdigit() else ""
        return RunIncompleteError(
            f"{hub.name} answered with {status}: {said}.{hint}", next_step=AGAIN
        )
    if status == 404:
        return _no_hub(hub, f"404: {said}")
    if status == 413:
        return InputError(
            f"{hub.name} finds {repo} too large (413): {said}.",
            next_step="A proxy on the way may have a lower limit than the Hub; else push less.",
        )
    return InputError(
        f"{hub.name} refused with {status}: {said}.",
        next_step="Look at the name of the repository and at what is sent.",
    )


def _no_hub(hub: Hub, told: str) -> RunIncompleteError:
    return RunIncompleteError(
        f"{hub.name} does not answer as a Hub: {told}.",
        next_step="Look at HF_ENDPOINT, and whether a proxy or a log-in page stands in between. "
        f"{AGAIN}",
    )


def _unreachable(hub: Hub, failed: Exception) -> RunIncompleteError:
    return RunIncompleteError(
        f"{hub.name} can't be reached: {_first_line(failed)}.",
        next_step=f"Look at the network and at HF_ENDPOINT. {AGAIN}",
    )


def _page(repo: str, kind: RepoType) -> str:
    return f"datasets/{repo}" if kind == "dataset" else repo


def _first_line(failed: Exception) -> str:
    line = str(failed).strip().partition("\n")[0] or type(failed).__name__
    return line.rstrip(".")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's progress bars off the terminal, which is not ours to write on."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
