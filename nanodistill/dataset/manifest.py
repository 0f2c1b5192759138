"""manifest.json: what a dataset version says about itself.

`VersionFacts` is what its maker knows (the task, the teacher, prompts, counts of stages, cost);
`Manifest` adds what the writer finds (fingerprint, row counts, files). Training and evaluation need
only this and the rows: no seed file, no run file. The counts have to add up, or the manifest is
refused: every requested row is kept, rejected or failed.

`format` goes up when a field goes, changes its meaning, or comes and has to be known; a manifest of
a newer format is refused. `seal` is a hash of all the other fields, with which `verify` finds a
changed one. It guards against accidents, not against forgery.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    field_validator,
    model_validator,
)

from nanodistill.errors import CorruptFileError, FolderError, NewerVersionError
from nanodistill.run_dir import read_json, safe_path, same_elsewhere
from nanodistill.types import tagged_hash

FORMAT = 1
FILE = "manifest.json"
MOST_FILES = 1000
IDENTITY = (
    "fingerprint",
    "parents",
    "made_by",
    "instruction",
    "thinking_format",
    "labels",
    "response_schema",
    "response_model",
    "teacher",
    "config_hash",
    "test_source",
)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class InputFacts(Frozen):
    """A user's input: its form, its name without folders, and a hash of its rows."""

    kind: Literal["list", "file", "dataset", "hub"]
    name: str | None
    rows: int
    sha256: str


class StageCount(Frozen):
    """A step of curation: rows that reached it, and how many of them it refused."""

    stage: str
    reached: int
    refused: int


class CellCount(Frozen):
    """The account of one cell of the coverage plan; `rejected` by reason, `failed` by class."""

    requested: int
    kept: int
    rejected: dict[str, int] = {}
    failed: dict[str, int] = {}

    @property
    def figures(self) -> tuple[int, int, int, int]:
        rejected, failed = sum(self.rejected.values()), sum(self.failed.values())
        return self.requested, self.kept, rejected, failed


class Calls(Frozen):
    """Teacher calls behind the version."""

    made: int
    reused: int
    retried: int


class TokenUsage(Frozen):
    prompt_tokens: int
    completion_tokens: int


class Agreement(Frozen):
    """How often the teacher's blind answer was the same: as a seed's, or as a row's first one.

    With its 95% interval.
    """

    agreed: int
    of: int
    low: float
    high: float


class SplitFacts(Frozen):
    """How train and valid were told apart."""

    val_split: float
    random_seed: int
    groups: int
    valid_groups: int


class VersionFacts(Frozen):
    """What the maker of a version knows about it. None is "unknown", never 0.

    `parents` are fingerprints. `requested` counts candidate rows (seeds, user
    rows and every slot of every generation call), `failed` those lost to teacher
    calls, by class. `cells` is that account by cell, where there is a plan.
    `prompts` are the full texts by stage. `config` and `config_hash` come from
    `dataset.provenance`.
    """

    instruction: str
    thinking_format: str
    made_by: Literal["synthesis", "training_data", "edit"]
    labels: tuple[str, ...] | None = None
    response_schema: dict[str, Any] | None = None
    response_model: str | None = None
    teacher: str | None = None
    parents: tuple[str, ...] = ()
    config: dict[str, Any] = {}
    config_hash: str | None = None
    inputs: dict[Literal["seed", "test", "training_data"], InputFacts] = {}
    test_source: Literal["user", "holdout_seeds"] | None = None
    prompts: dict[str, str] = {}
    policy: dict[str, Any] | None = None
    agreement: Agreement | None = None
    recheck: Agreement | None = None
    cues: tuple[str, ...] = ()
    wanted: int | None = None
    requested: int
    failed: dict[str, int] = {}
    cells: dict[str, CellCount] = {}
    stages: tuple[StageCount, ...] = ()
    split: SplitFacts | None = None
    calls: Calls | None = None
    usage: TokenUsage | None = None
    cost_usd: float | None = None
    stopped_because: str | None = None
    notes: tuple[str, ...] = ()


class RowCounts(Frozen):
    """Rows of a version; `rejected` by reason."""

    train: int
    valid: int
    test: int
    rejected: dict[str, int]

    @property
    def kept(self) -> int:
        return self.train + self.valid


class Statistics(Frozen):
    """Figures of the kept rows that are worth a look; see `dataset.statistics`.

    Lengths are in characters, as (median, 95th percentile, longest).
    """

    outputs: dict[str, dict[str, int]] | None
    sources: dict[str, int]
    thinking_from: dict[str, int]
    cells: dict[str, int]
    lengths: dict[str, tuple[int, int, int]]
    distinct: dict[str, float]
    distinct_over: int
    confidence: tuple[float, float] | None


def version_name(name: str) -> str:
    if not NAME.match(name):
        raise ValueError(f"{name[:80]!r} is no name of a dataset version")
    return name


NAME = re.compile(r"v(\d{4,9})-[0-9a-f]{8}\Z")
VersionName = Annotated[str, AfterValidator(version_name)]


class FileFacts(Frozen):
    sha256: str
    bytes: int


class Manifest(VersionFacts):
    """manifest.json. `created` is UTC; it, the name and the paths are in no hash but the seal."""

    format: int = FORMAT
    name: VersionName
    fingerprint: str
    created: str
    counts: RowCounts
    statistics: Statistics
    files: dict[Annotated[str, AfterValidator(safe_path)], FileFacts]
    libraries: dict[str, str]
    seal: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        rejected, failed = sum(self.counts.rejected.values()), sum(self.failed.values())
        if self.requested != self.counts.kept + rejected + failed:
            raise ValueError(
                f"requested {self.requested} is not kept {self.counts.kept} "
                f"+ rejected {rejected} + failed {failed}"
            )
        totals = (self.requested, self.counts.kept, rejected, failed)
        by_cell = [cell.figures for cell in self.cells.values()]
        if by_cell and tuple(map(sum, zip(*by_cell, strict=True))) != totals:
            raise ValueError(f"the account by cell sums to something else than {totals}")
        return self

    @field_validator("files")
    @classmethod
    def _names_its_files_once(cls, files: dict[str, FileFacts]) -> dict[str, FileFacts]:
        if len(files) > MOST_FILES:
            raise ValueError(f"lists {len(files)} files, a version has a few")
        same_elsewhere([*files, FILE])
        if FILE in files:
            raise ValueError(f"lists {FILE} itself")
        return files

    @property
    def has_test(self) -> bool:
        """Whether there are rows that no prompt and no training row has seen."""
        return self.counts.test > 0

    @property
    def identity(self) -> str:
        """What makes two versions the same: their rows and all that training reads with them."""
        values = self.model_dump(mode="json", include=set(IDENTITY))
        return tagged_hash("nanodistill.version.v1", values)

    def sealed(self) -> Manifest:
        """As it is read again from its file, where every field is written out."""
        whole = self.model_validate(self.model_dump(mode="json"))
        return whole.model_copy(update={"seal": whole.expected_seal()})

    def expected_seal(self) -> str:
        """Over the fields that the file has: a later release knows more."""
        values = self.model_dump(mode="json", exclude={"seal"}, exclude_unset=True)
        return tagged_hash("nanodistill.manifest.v1", values)

    def to_bytes(self) -> bytes:
        """The file's content: the same manifest always gives the same bytes."""
        values = self.model_dump(mode="json", exclude_unset=True)
        return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the version in `folder`.

    Raises:
        FolderError: the folder holds no dataset version.
        NewerVersionError: it is of a format that this release does not know.
        CorruptFileError: it can't be read as a manifest.
    """
    path = folder / FILE
    if not path.is_file():
        raise FolderError(
            f"{folder} is no dataset version: it has no {FILE}.",
            next_step="Name a version's folder, such as OUTPUT_DIR/NAME/datasets/v0001-….",
        )
    values = read_json(path)
    found = values.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise NewerVersionError(
            f"{folder} was written by a newer NanoDistill "
            f"(manifest format {found}, this one knows {FORMAT}).",
            next_step="Update NanoDistill.",
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise CorruptFileError(
            f"{path} is no manifest any more: {at}: {first['msg']}.",
            next_step=f"Move {folder} away; synth makes the version again from the journal.",
        ) from invalid
