"""The way to the Hub, and every refusal of it as an error of ours.

The first question of a command waits ten seconds and is not repeated, so that a
machine without a network hears so at once; huggingface_hub repeats the transfers
after it, and nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanodistill.errors import InputError, NanoDistillError, Stopped
from nanodistill.hub.parcel import RepoType

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

SECONDS_TO_ANSWER = 10
NO_TOKEN = "Log in with `hf auth login`, or set HF_TOKEN."
AGAIN = "Run the same command again; what was sent already is not sent twice."


class Stale(Exception):
    """Somebody else changed the repository while we looked at it."""


class NoSuchRepository(InputError):
    """The Hub has no such repository for us; it does not say whether it is there for others."""


class Offline(InputError):
    """HF_HUB_OFFLINE is set, and the work takes the Hub."""


@dataclass(frozen=True)
class Hub:
    """Which Hub, as whom, and where downloads are kept; None is what huggingface_hub would take."""

    endpoint: str | None = None
    token: str | None = None
    cache: Path | None = None

    @property
    def api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token)

    @property
    def name(self) -> str:
        return self.api.endpoint

    def known_token(self) -> str:
        """The token that writing takes.

        Raises:
            InputError: there is none.
        """
        from huggingface_hub import get_token

        token = self.token or get_token()
        if not token:
            raise InputError(
                f"Pushing to {self.name} takes a token with the right to write, and there is none.",
                next_step=NO_TOKEN,
            )
        return token


@contextmanager
def border(hub: Hub, repo: str, kind: RepoType) -> Iterator[None]:
    """Turn what huggingface_hub raises about `repo` into errors of ours.

    Raises:
        NoSuchRepository, InputError: asking again would bring the same.
        Stopped: the network, the Hub or somebody else was in the way; it can go on.
        Stale: the repository is not any more as we read it.
    """
    import httpx

    try:
        with _no_bars():
            yield
    except (OSError, httpx.HTTPError, ValueError) as error:
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
            return Offline(told, next_step="Unset it.")
        case errors.RevisionNotFoundError():
            there = f"{hub.name}/{_page(repo, kind)}"
            return InputError(
                f"The {kind} {repo} has no such revision.",
                next_step=f"Name a tag, branch or commit that is on {there}",
            )
        case errors.GatedRepoError():
            return InputError(
                f"The {kind} {repo} is gated, and this account was not let in.",
                next_step=f"Ask for access at {hub.name}/{_page(repo, kind)}",
            )
        case errors.RepositoryNotFoundError():
            return NoSuchRepository(
                f"{hub.name} has no {kind} {repo}, or it is private and this account "
                "may not see it.",
                next_step=f"Look at the name and at the account. {NO_TOKEN}",
            )
        case errors.HfHubHTTPError():
            return _refusal(error, hub, repo, kind)
        case errors.HFValidationError():
            return InputError(f"{repo} is no name of a repository: {_first_line(error)}.")
        case errors.LocalEntryNotFoundError() | httpx.HTTPError() | ConnectionError():
            return _unreachable(hub, error)
        case TimeoutError():
            return _unreachable(hub, error)
    return None


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
        return Stale(said)
    if status in (408, 429) or status >= 500:
        return Stopped(f"{hub.name} answered with {status}: {said}.", next_step=AGAIN)
    return NanoDistillError(f"{hub.name} refused with {status}: {said}.")


def _unreachable(hub: Hub, failed: Exception) -> Stopped:
    return Stopped(
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
