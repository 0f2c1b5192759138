"""Who is compared: models, each with what decides its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nanodistill.errors import ModelError
from nanodistill.evaluation.endpoint import Endpoint
from nanodistill.evaluation.prompts import JudgedRow
from nanodistill.models.digests import files_sha256
from nanodistill.models.resolve import ResolvedModel
from nanodistill.records import Message, tagged_hash

STUDENT, BASE, FEW_SHOT, TEACHER = "student", "base", "base_few_shot", "teacher"
SHOWN_AS = {
    BASE: "base",
    FEW_SHOT: "base with seeds as examples",
    STUDENT: "student",
    TEACHER: "teacher",
}


@dataclass(frozen=True)
class Contender:
    """A model, the adapter on it, and the turns it is shown before each prompt.

    `tokenizer_kwargs` go to the loader of its tokenizer.
    """

    name: str
    model: ResolvedModel | Endpoint
    adapter: Path | None = None
    shots: tuple[Message, ...] = ()
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """Names weights and adapter exactly."""
        if self.adapter is None:
            return self.model.identity
        return f"{self.model.identity}+adapter-sha256:{adapter_sha256(self.adapter)}"

    def keys(self, rows: Sequence[JudgedRow], max_new_tokens: int) -> list[str]:
        """For each row, the hash of all that decides the answer to it."""
        tokenizer = {"tokenizer_kwargs": self.tokenizer_kwargs} if self.tokenizer_kwargs else {}
        return [
            tagged_hash(
                "nanodistill.answer.v1",
                {
                    "model": self.identity,
                    "shots": self.shots,
                    "messages": row.messages,
                    "max_new_tokens": max_new_tokens,
                    **tokenizer,
                },
            )
            for row in rows
        ]


def shown_name(model: ResolvedModel | Endpoint) -> str:
    """The model's name without folders of this machine."""
    if isinstance(model, Endpoint):
        return model.name
    return Path(model.name).name if model.kind in ("gguf", "folder") else model.name


def adapter_sha256(folder: Path) -> str:
    """Hash of an adapter's weights and settings.

    Raises:
        ModelError: the folder holds no adapter.
    """
    files = [folder / "adapters.safetensors", folder / "adapter_config.json"]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} holds no adapter: it has no {' and no '.join(missing)}.",
            next_step="Name the adapters folder of a training run.",
        )
    return files_sha256(files)
