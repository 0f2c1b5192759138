"""Which model is served, and the prompt and format it was trained with.

The exported model if it comes from the latest training run, or if there is no run
(it was pulled); otherwise the latest run's adapter on its base. Instruction,
thinking format and schema are those of the dataset it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.errors import InputError
from nanodistill.exporting.export_manifest import read_manifest
from nanodistill.exporting.mlx_folder import repair
from nanodistill.exporting.trained_adapter import find_trained_adapter
from nanodistill.metrics.output_parser import output_format
from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.training.runs import latest_run
from nanodistill.training.student_identity import tokenizer_settings

if TYPE_CHECKING:
    from nanodistill.config import DistillationConfig
    from nanodistill.events import Listener
    from nanodistill.run_dir import RunFolder
    from nanodistill.thinking import Format


@dataclass(frozen=True)
class ServedModel:
    """A model to load, and how to prompt it. `description` names it for people."""

    name: str
    model: Path
    adapter: Path | None
    identity: str
    instruction: str
    thinking_format: Format
    schema: dict[str, Any] | None
    max_new_tokens: int
    description: str
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def load(self, on_event: Listener) -> LoadedModel:
        return load_model(
            self.model,
            adapter=self.adapter,
            tokenizer_kwargs=self.tokenizer_kwargs,
            on_event=on_event,
        )


def find_served_model(
    config: DistillationConfig, run: RunFolder, on_event: Listener
) -> ServedModel:
    """The model to serve of this run.

    Raises:
        InputError: nothing was trained or exported.
    """
    repair(run.model)
    exported, latest = read_manifest(run.model), latest_run(run)
    if exported is not None and (latest is None or exported.lineage.run == latest[0].run):
        task = exported.task
        return ServedModel(
            name=config.name,
            model=run.model,
            adapter=None,
            identity=exported.key,
            instruction=task.instruction,
            thinking_format=output_format(task.thinking_format, task.train_on),
            schema=task.response_schema,
            max_new_tokens=config.max_new_tokens,
            tokenizer_kwargs=tokenizer_settings(config.tokenizer_kwargs, run.model, run),
            description=f"the exported model of training run {exported.lineage.run}",
        )
    if latest is None:
        raise InputError(
            f"{run.root} holds no trained student and no exported model yet.",
            next_step="Train one first: nanodistill train RUN.toml",
        )
    source = find_trained_adapter(config, run, None, None, on_event)
    manifest = source.dataset.manifest
    return ServedModel(
        name=config.name,
        model=source.base.path,
        adapter=source.adapter,
        identity=source.key(),
        instruction=manifest.instruction,
        thinking_format=output_format(manifest.thinking_format, source.train_on),
        schema=manifest.response_schema,
        max_new_tokens=config.max_new_tokens,
        tokenizer_kwargs=source.tokenizer_kwargs,
        description=f"the adapter of training run {source.run} on {source.base_name}",
    )
