"""`distill`: synthesis, training, evaluation and export in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from pydantic import BaseModel

from nanodistill import api
from nanodistill.config import DistillationConfig
from nanodistill.config.options import DistillOptions
from nanodistill.config.task import Rows
from nanodistill.errors import knowing
from nanodistill.events import Listener, silent
from nanodistill.plugins import load_object


@dataclass(frozen=True)
class DistillationResult:
    """What `distill` made: the fused model's folder, the evaluation, the resolved config.

    `metrics` is what `evaluate` found, under the names of `nanodistill eval --json`.
    """

    model_path: Path
    metrics: dict[str, Any]
    config: DistillationConfig

    def to_json(self) -> dict[str, Any]:
        return {"model_path": str(self.model_path), "metrics": self.metrics}

    def summary(self) -> str:
        return f"{self.metrics['verdict']}\nThe model is in {self.model_path}"

    def predict(self, text: str) -> str:
        """The student's answer to `text`, without its thinking."""
        return str(api.ask(self.config, text).output)


def distill(
    name: str,
    seed: Rows,
    instruction: str,
    teacher: str = "claude-sonnet-4-5",
    student: str = "mlx-community/Llama-3-8B-Instruct-4bit",
    augment_factor: int = 50,
    output_dir: str | Path = "./outputs",
    response_model: type[BaseModel] | str | None = None,
    **kwargs: Unpack[DistillOptions],
) -> DistillationResult:
    """Make a dataset with the teacher, train the student on it and evaluate it.

    Called again with the same arguments it goes on where it stopped, and does
    nothing that is done already.

    Args:
        name: of the run and of its folder under `output_dir`.
        seed: input/output rows, or a file or Hub dataset of them.
        instruction: what the student is to do.
        teacher: a LiteLLM model id, `mlx/MODEL`, or `python:module:function`.
        student: a Hub id, an MLX folder, a GGUF file or an embedded name.
        augment_factor: rows wanted for each seed.
        output_dir: folder that holds the run's folder.
        response_model: pydantic model of the output, where it is JSON.
        **kwargs: every other field of `DistillationConfig`, among them
            `temperature`, `lora_rank`, `litellm_kwargs` and `mlx_lm_kwargs`; see
            docs/CONFIGURATION.md.

    Raises:
        ConfigError: with all problems of the arguments at once.
        Stopped: the run stopped early and can go on (budget, key, quota, too few rows).
        MemoryLimit: the memory guard stopped training after a checkpoint.
    """
    config = DistillationConfig(
        name=name,
        seed=seed,
        instruction=instruction,
        teacher=teacher,
        student=student,
        augment_factor=augment_factor,
        output_dir=output_dir,
        response_model=response_model,
        **kwargs,
    )
    return distill_config(config)


def distill_config(config: DistillationConfig, *, listen: Listener = silent) -> DistillationResult:
    """What `distill` does, for a configuration that is already made."""
    if isinstance(config.metric, str) and ":" in config.metric:
        load_object(config.metric, field="metric")  # before anything is spent
    made = api.synthesize(config, listen=listen)
    with knowing(made.to_json):
        api.train(config, listen=listen)
        evaluation = api.evaluate(config, listen=listen)
        exported = api.export(config, listen=listen)
    return DistillationResult(exported.path, evaluation.to_json(), config)


distill_async = api.twin(distill)
