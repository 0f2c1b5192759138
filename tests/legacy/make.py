"""Make the run that the tests of this folder open, with the release that is checked out.

    python tests/legacy/make.py FOLDER

It was run with 0.1.0. A run of a later release lies in a folder of its own beside this one: these
files are what that release wrote, and stay as they are.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.tiny import make_model
from synthesis.runs import run
from synthesis.writer import Writer

from legacy.ids import ids_of
from legacy.settings import CHANGES, config_of
from nanodistill import evaluate, export, train
from nanodistill.providers.python_function import ScriptedProvider

LEFT_OUT = ("log.txt", "report.html", ".*.lock", "model/model.safetensors")
"""Of no use to the tests, or large: the exported weights come out of the adapter again."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)
    make_model(Path("student"), max_position_embeddings=1024)
    config = config_of()
    run(config, ScriptedProvider(Writer()))
    train(config)
    evaluate(config)
    export(config, to="mlx")
    for pattern in LEFT_OUT:
        for file in Path("run").rglob(pattern):
            file.unlink()
    ids = {name: ids_of(config_of(**change)) for name, change in CHANGES.items()}
    Path("ids.json").write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
