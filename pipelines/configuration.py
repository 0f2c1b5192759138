"""Six ways to configure a run, by use case, and one with structured output.

    python pipelines/configuration.py                    # names what there is
    python pipelines/configuration.py low-memory         # with a real teacher and student
    python pipelines/configuration.py low-memory --small # with the embedded model, in minutes

`--small` changes the models and the amount of data, and nothing that the use
case is about. The embedded model can't write JSON, so `structured` has no `--small`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nanodistill import DistillationConfig
from nanodistill.api import distill_config
from nanodistill.console import console_listener

SEED = [
    {"input": "What is 2+2?", "output": "4"},
    {"input": "What is 3+5?", "output": "8"},
    {"input": "What is 10×5?", "output": "50"},
]
INSTRUCTION = "You are a math tutor. Work out the answer step by step, then give the number alone."


class Sum(BaseModel):
    """The answer as JSON; the field `reasoning` is the trace, so no second call is made."""

    reasoning: str
    answer: int


USE_CASES: dict[str, dict[str, Any]] = {
    # All defaults.
    "minimal": {},
    # An M1 or M2 with 8 GB: little at a time, small adapters.
    "low-memory": {
        "batch_size": 1,
        "max_seq_length": 256,
        "lora_rank": 4,
        "lora_layers": 2,
        "augment_factor": 20,
    },
    # An M3 Pro or Max with 36 GB or more: larger batches, longer rows, more adapters.
    "high-performance": {
        "batch_size": 4,
        "max_seq_length": 1024,
        "lora_rank": 16,
        "lora_layers": 8,
        "augment_factor": 100,
        "num_train_epochs": 3,
        "learning_rate": 5e-5,
    },
    # A first look at an idea.
    "quick": {"augment_factor": 10, "num_train_epochs": 1, "batch_size": 1},
    # More data, more passes, a cooler teacher.
    "production": {
        "augment_factor": 100,
        "num_train_epochs": 3,
        "learning_rate": 1e-5,
        "max_seq_length": 512,
        "temperature": 0.5,
    },
    # As varied as it gets.
    "exploration": {"temperature": 1.5, "augment_factor": 150},
    # Outputs as JSON that is checked against a pydantic model.
    "structured": {
        "response_model": Sum,
        "seed": [
            {"input": "What is 2+2?", "output": {"reasoning": "2 and 2 make 4.", "answer": 4}},
            {"input": "What is 3+5?", "output": {"reasoning": "3 and 5 make 8.", "answer": 8}},
        ],
    },
}

SMALL: dict[str, Any] = {
    "teacher": "mlx/smollm2-135m",
    "student": "smollm2-135m",
    "augment_factor": 4,
    "num_train_epochs": 1,
    "generation": "chat",
    "thinking_format": "none",
    "extract_policy": False,
    "check_seeds": False,
    "min_rows": 2,
    "max_rounds": 3,
    "max_output_tokens": 32,
    "max_new_tokens": 16,
    "cpu_capacity_percent": 1.0,
}


def settings(use_case: str, *, small: bool = False) -> dict[str, Any]:
    """The arguments of `distill` for a use case."""
    chosen = {"name": f"math-{use_case}", "seed": SEED, "instruction": INSTRUCTION}
    return chosen | USE_CASES[use_case] | (SMALL if small else {})


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("use_case", choices=USE_CASES)
    arguments.add_argument("--small", action="store_true", help="use the embedded model")
    arguments.add_argument("--output-dir", type=Path, default=Path("outputs"))
    chosen = arguments.parse_args()
    if chosen.small and chosen.use_case == "structured":
        arguments.error("the embedded model is too small to write JSON; leave out --small")
    options = settings(chosen.use_case, small=chosen.small)
    config = DistillationConfig(**options, output_dir=chosen.output_dir)
    with console_listener(sys.stdout) as on_event:
        result = distill_config(config, on_event=on_event)
    print(result.summary())


if __name__ == "__main__":
    main()
