"""A command that trains, for tests that kill it.

python -m training.command STUDENT OUTPUT [LORA_DROPOUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

from nanodistill.errors import RunIncompleteError
from nanodistill.run_dir import RunFolder
from nanodistill.training import train
from training.tiny import make_config, some_rows

SETTINGS = {
    "num_train_epochs": 6,
    "lora_dropout": 0.3,
    "lr_scheduler": "cosine",
    "warmup_steps": 3,
    "gradient_accumulation_steps": 2,
    "save_steps": 1,
    "eval_steps": 3,
}

if __name__ == "__main__":
    student, output, *dropout = sys.argv[1:]
    settings = SETTINGS | ({"lora_dropout": float(dropout[0])} if dropout else {})
    config = make_config(Path(student), Path(output), **settings)
    try:
        train(config, some_rows(), RunFolder(config.run_folder))  # type: ignore[arg-type]
    except KeyboardInterrupt:
        sys.exit(130)
    except RunIncompleteError as stopped:  # the child was told to end, by another process
        sys.exit(stopped.exit_code)
