"""Every error that NanoDistill raises, in one tree.

Two questions decide where an error belongs.

*What happens to the run?* Everything a person can cause or mend derives from
`NanoDistillError` and carries the exit code of the command that meets it:

    NanoDistillError                 1   anything else that we foresaw
    ├── InputError                   2   bad config, input or folder; nothing was spent
    │   ├── ConfigError                  all problems of a configuration at once
    │   ├── DataError                    all problems of a seed, test or training file at once
    │   ├── ModelError                   a model that is not there, or not what it should be
    │   └── FolderError                  a run folder that can't be used as it is
    │       ├── CorruptFileError         a journal, version or checkpoint that is torn
    │       ├── RunLockedError           another process works on this run
    │       └── NewerVersionError        written by a newer NanoDistill
    ├── RunIncompleteError           3   stopped early; the work so far is safe
    │   ├── BudgetExceededError          max_cost_usd, max_calls, max_tokens_total
    │   ├── TeacherUnavailableError      bad key, no credit, unknown model, provider down
    │   ├── LowSeedAgreementError        it answers too few of the seeds as the user does
    │   ├── TooFewRowsError              not enough rows came out of the teacher's answers
    │   ├── NoDatasetError               training was asked for before there is a version
    │   ├── DiskFullError
    │   ├── TooManyOpenFilesError
    │   └── RunInterruptedError    130   by the person, with Ctrl-C or SIGTERM
    ├── MemoryLimitError             4   the memory guard stopped training; checkpoint written
    └── VerificationError            1   a parity gate or a verify found a difference

*What happens to one teacher call?* `CallError` has three consequences, and
`nanodistill.providers.error_classifier` is the only place that chooses between them:

    CallError
    ├── TransientError          ask again, after `retry_after` seconds if the provider said so
    ├── RequestRejectedError    this row is lost, its siblings go on
    └── FatalProviderError      every further call would fail the same way
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from nanodistill.types import Usage

PROBLEMS_SHOWN = 20


class NanoDistillError(Exception):
    """An error with a plain message for a person. `next_step` says how to go on.

    `known` is what the command knows of its work all the same, under the names of its `--json`.
    """

    exit_code = 1
    known: Mapping[str, object] = MappingProxyType({})

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n{self.next_step}" if self.next_step else self.message


class InputError(NanoDistillError):
    """What was given can't be used. Nothing was spent."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: where it is, what is wrong, what would be right."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class ProblemsError(InputError):
    """An input with one or more problems. `problems` has all, the message the first twenty."""

    def __init__(
        self, summary: str, problems: Sequence[Problem], *, next_step: str | None = None
    ) -> None:
        self.problems = tuple(problems)
        lines = [summary, *(f"  {problem}" for problem in self.problems[:PROBLEMS_SHOWN])]
        if (more := len(self.problems) - PROBLEMS_SHOWN) > 0:
            lines.append(f"  and {more} more")
        super().__init__("\n".join(lines), next_step=next_step)


class ConfigError(ProblemsError):
    """A configuration that does not hold."""


class DataError(ProblemsError):
    """Seed, test or training rows that can't be read."""


class ModelError(InputError):
    """A model that can't be found, fetched or read."""


class FolderError(InputError):
    """A run folder that can't be used as it is."""


class CorruptFileError(FolderError):
    """A file of ours whose content does not hold together."""


class RunLockedError(FolderError):
    """Another process is working on the same run."""


class NewerVersionError(FolderError):
    """A folder that a newer release of NanoDistill wrote."""


class RunIncompleteError(NanoDistillError):
    """The run stopped before its end. What it has made is safe, and it can go on."""

    exit_code = 3


class BudgetExceededError(RunIncompleteError):
    """A limit on dollars, calls or tokens that the user set."""


class TeacherUnavailableError(RunIncompleteError):
    """The provider will not answer any call of this run as things stand."""


class LowSeedAgreementError(RunIncompleteError):
    """Asked blind, the teacher gave too few of the seeds' outputs (`min_teacher_agreement`)."""


class TooFewRowsError(RunIncompleteError):
    """The teacher's answers did not give enough usable rows."""


class NoDatasetError(RunIncompleteError):
    """There is no dataset version to work on yet."""


class DiskFullError(RunIncompleteError):
    """No room left on the disk that holds the run."""


class TooManyOpenFilesError(RunIncompleteError):
    """The system lets this process open no further file or connection."""


FULL = {errno.ENOSPC, errno.EDQUOT}
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


def too_many_open_files(failed: OSError) -> TooManyOpenFilesError | None:
    """What `failed` says where the limit on open files was met; None otherwise."""
    if failed.errno not in NO_DESCRIPTORS:
        return None
    return TooManyOpenFilesError(
        "Too many files and connections are open for this process.",
        next_step="Raise the limit (ulimit -n 4096) or lower max_concurrency, then run the "
        "command again: it goes on where it stopped.",
    )


def system_limit(failed: OSError) -> RunIncompleteError | None:
    """A full disk or too many open files, told as what they are; None for anything else."""
    return disk_full(failed) or too_many_open_files(failed)


def disk_full(failed: OSError) -> DiskFullError | None:
    """What `failed` says where it is about room on the disk; None if it is about something else."""
    if failed.errno not in FULL:
        return None
    where = "" if failed.filename is None else f" of {failed.filename}"
    return DiskFullError(
        f"There is no room left on the disk{where}.",
        next_step="Make room and run the command again: it goes on where it stopped.",
    )


def refused_by_system(failed: OSError) -> NanoDistillError:
    """What an error of the operating system that nobody foresaw is to a person.

    Rights, folders in place of files, disks that are not mounted: no fault of ours, and with a
    file's name in it something to look at.
    """
    if limit := system_limit(failed):
        return limit
    said = failed.strerror or str(failed) or type(failed).__name__
    if failed.filename is None:
        return NanoDistillError(f"The operating system refused: {said}.")
    paths = " and ".join(str(path) for path in (failed.filename, failed.filename2) if path)
    return FolderError(
        f"{paths} can't be used: {said}.",
        next_step="Look at the path, at its rights and at what lies there; then run the same "
        "command again.",
    )


class RunInterruptedError(RunIncompleteError):
    """A person stopped the run."""

    exit_code = 130


class MemoryLimitError(NanoDistillError):
    """The memory guard stopped training after writing a checkpoint."""

    exit_code = 4


class VerificationError(NanoDistillError):
    """Something was checked and found different from what it claims to be."""


class CallError(Exception):
    """What became of one attempt at a teacher call that brought no answer.

    `kind` is a short stable word for the ledger ("rate_limit", "timeout",
    "content_filter", …); `status` the HTTP status where there was one; `usage`
    the tokens that were billed all the same; `param` the parameter that it says it is about.
    """

    param = ""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.usage = usage


class TransientError(CallError):
    """Ask again. `retry_after` is the wait in seconds that the provider asked for."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        status: int | None = None,
        usage: Usage | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(kind, message, status=status, usage=usage)
        self.retry_after = retry_after

    @property
    def is_refusal(self) -> bool:
        """Whether the provider said "too fast" rather than failed."""
        return self.kind in ("rate_limit", "overloaded")


class RequestRejectedError(CallError):
    """Asking again would bring the same; the row is lost, its siblings go on."""


class FatalProviderError(CallError):
    """Every further call of the run would fail the same way. `way_out`: what a person can do."""

    way_out: str | None = None


@contextmanager
def knowing(tell: Callable[[], Mapping[str, object]]) -> Iterator[None]:
    """An error of ours that leaves the block also tells what is known by then."""
    try:
        yield
    except NanoDistillError as error:
        error.known = {**tell(), **error.known}
        raise


def unwrap_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group wrapped up, where it is one error; else the group."""
    if len(group.exceptions) > 1:
        return group
    (error,) = group.exceptions
    return unwrap_group(error) if isinstance(error, BaseExceptionGroup) else error
