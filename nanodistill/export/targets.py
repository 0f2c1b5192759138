"""What an export makes, and where.

    OUTPUT_DIR/NAME/model/                        --to mlx

It has a nanodistill.json beside its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nanodistill.export.folder import copy_beside
from nanodistill.export.forms import mlx_forms
from nanodistill.export.job import Form, Job
from nanodistill.export.maker import make
from nanodistill.export.source import Source
from nanodistill.export.template import bake
from nanodistill.runfolder import RunFolder

To = Literal["mlx"]


@dataclass(frozen=True)
class Options:
    """What a person may choose about an export.

    `bake_instruction` puts the instruction into the chat template, for
    conversations without a system message.
    """

    bake_instruction: bool = False


class Target(Protocol):
    """Something to build in a folder that will lie at `place`.

    `result` is what of it to name to a person, `how` what of the options
    decides what comes of it. The last of `forms` loses the least.
    """

    @property
    def to(self) -> To: ...

    @property
    def place(self) -> Path: ...

    @property
    def result(self) -> Path: ...

    @property
    def how(self) -> Mapping[str, Any]: ...

    @property
    def baked(self) -> bool:
        """Whether the instruction is in the chat template."""
        ...

    @property
    def forms(self) -> tuple[Form, ...]: ...

    def build(self, form: Form, folder: Path) -> None: ...

    def as_mlx(self, folder: Path) -> AbstractContextManager[Path]:
        """What was built in `folder`, as a folder that MLX loads."""
        ...


def target_for(to: To, run: RunFolder, source: Source, options: Options) -> Target:
    return MlxTarget(run.model, source, options, to)


@dataclass(frozen=True)
class MlxTarget:
    """The folder that `mlx_lm.load` takes."""

    place: Path
    source: Source
    options: Options
    to: To

    @property
    def result(self) -> Path:
        return self.place

    @property
    def how(self) -> Mapping[str, Any]:
        return {"bake_instruction": self.baked}

    @property
    def baked(self) -> bool:
        return self.options.bake_instruction

    @property
    def forms(self) -> tuple[Form, ...]:
        return mlx_forms(self.source.base_config)

    def build(self, form: Form, folder: Path) -> None:
        base = self.source.base.path
        make(Job(str(base), str(self.source.adapter), form, str(folder), {}))
        copy_beside(base, folder)
        if self.baked:
            bake(folder, self.source.dataset.manifest.instruction)

    def as_mlx(self, folder: Path) -> AbstractContextManager[Path]:
        return nullcontext(folder)
