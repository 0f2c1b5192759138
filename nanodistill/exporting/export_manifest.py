"""nanodistill.json beside an exported model: where it comes from and how to ask it.

It is all that serving, a model card or a person with only this folder needs. It holds no local
path.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from nanodistill import __version__
from nanodistill.config import DistillationConfig
from nanodistill.errors import CorruptFileError, NewerVersionError
from nanodistill.exporting.parity import Parity
from nanodistill.exporting.trained_adapter import TrainedAdapter, TrainOn
from nanodistill.exporting.worker import Form
from nanodistill.run_dir import read_json, safe_name, write_json

FORMAT = 1
FILE = "nanodistill.json"


class Lineage(BaseModel):
    """What the model was made of: names and hashes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, AfterValidator(safe_name)]
    base: str
    base_identity: str
    licence: str | None
    adapter_sha256: str
    dataset: str
    fingerprint: str
    teacher: str | None


class Task(BaseModel):
    """How the model is asked and its answers read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: str
    instruction_in_template: bool
    thinking_format: str
    train_on: TrainOn
    labels: tuple[str, ...] | None
    response_schema: dict[str, Any] | None
    max_new_tokens: int


class ExportManifest(BaseModel):
    """What an export says of itself. `key` tells whether exporting again would change it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    to: Literal["mlx", "gguf", "ollama"]
    form: str
    key: str
    lineage: Lineage
    task: Task
    parity: dict[str, Any] | None
    libraries: dict[str, str]

    @classmethod
    def of(
        cls,
        config: DistillationConfig,
        source: TrainedAdapter,
        *,
        to: Literal["mlx", "gguf", "ollama"],
        form: Form,
        key: str,
        baked: bool,
        parity: Parity | None,
    ) -> Self:
        return cls(
            name=config.name,
            to=to,
            form=form,
            key=key,
            lineage=_lineage(source),
            task=_task(config, source, baked),
            parity=parity.to_json() if parity else None,
            libraries={"nanodistill": __version__}
            | {name: metadata.version(name) for name in ("mlx", "mlx-lm", "gguf")},
        )

    def write(self, folder: Path) -> None:
        write_json(folder / FILE, self.model_dump(mode="json"))


def read_manifest(folder: Path) -> ExportManifest | None:
    """The manifest in `folder`, None if there is none.

    Raises:
        NewerVersionError, CorruptFileError: it can't be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    values = read_json(path)
    if isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise NewerVersionError(
            f"{folder} was written by a newer NanoDistill.", next_step="Update NanoDistill."
        )
    try:
        return ExportManifest.model_validate(values)
    except ValidationError as invalid:
        raise CorruptFileError(
            f"{path} does not describe an exported model any more.",
            next_step="Delete it and export again: nanodistill export RUN.toml",
        ) from invalid


def _lineage(source: TrainedAdapter) -> Lineage:
    manifest = source.dataset.manifest
    return Lineage(
        run=source.run,
        base=source.base_name,
        base_identity=source.base.identity,
        licence=source.base.licence,
        adapter_sha256=source.adapter_sha256,
        dataset=source.dataset.name,
        fingerprint=source.dataset.fingerprint,
        teacher=manifest.teacher,
    )


def _task(config: DistillationConfig, source: TrainedAdapter, baked: bool) -> Task:
    manifest = source.dataset.manifest
    return Task(
        instruction=manifest.instruction,
        instruction_in_template=baked,
        thinking_format=manifest.thinking_format,
        train_on=source.train_on,
        labels=manifest.labels,
        response_schema=manifest.response_schema,
        max_new_tokens=config.max_new_tokens,
    )
