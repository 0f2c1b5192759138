"""Trained rows per second: `mlx_lm lora` as it comes, and NanoDistill, on the same rows.

    python tests/benchmarks/bench_training.py [--rows 4] [--stock-updates 2] [--updates 16]

Same float32 weights of the embedded student, same rows, same batch, LoRA,
optimizer and learning rate. Neither validates. Stock is mlx-lm's own command in a
process of its own, timed from one line of its output to the next, so that
loading is not counted; ours is what metrics.jsonl says of each update. Stock is
slow (minutes for an update on a CPU), which is why it gets few; run once more
with the BLAS that ours loads, it shows what of the difference is the BLAS.

Two cases: the quickstart's test messages under its instruction, of which only
the answer is learned; and one in which nothing can be spared: the messages
alone, every token of them learned, in all layers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

from nanodistill.config import DistillationConfig
from nanodistill.config.mlx_config import yaml_text
from nanodistill.dataset import DatasetVersion
from nanodistill.hardware import detect_hardware
from nanodistill.models.blas import load_fast_blas
from nanodistill.run_dir import RunFolder
from nanodistill.training import train
from nanodistill.training.metrics_log import read_records

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = tomllib.loads((ROOT / "pipelines/quickstart.toml").read_text())
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(r"\s+(?:iter\s+train_loss|\d+\s+[\d.]+ [▼▲])")
WITH_OUR_BLAS = (
    "import runpy, sys\n"
    "from nanodistill.models.blas import load_fast_blas\n"
    "load_fast_blas()\n"
    "sys.argv[0] = 'mlx_lm'\n"
    "runpy.run_module('mlx_lm', run_name='__main__')\n"
)


@dataclass(frozen=True)
class Case:
    """What is trained: under which system message, and settings beside the quickstart's."""

    name: str
    system: str | None
    settings: Mapping[str, Any]
    mlx_lm: Mapping[str, Any]


CASES = (
    Case("the quickstart", QUICKSTART["instruction"], {}, {}),
    Case("nothing to spare", None, {"lora_layers": 30}, {"mask_prompt": False}),
)


class Messages:
    """The quickstart's test messages as a dataset version's training rows."""

    fingerprint, path = "bench", Path("bench")

    def __init__(self, case: Case) -> None:
        lines = (ROOT / "data/support_triage/test.jsonl").read_text().splitlines()
        self.name = case.name
        self._system = case.system
        self.all = [self.row(**json.loads(line)) for line in lines]

    def row(self, input: str, output: str, **_: Any) -> dict[str, Any]:
        # Without a system message the template puts in its own; an empty one stands for none.
        said = {"system": self._system or "", "user": input, "assistant": output}
        messages = [{"role": role, "content": text} for role, text in said.items()]
        return {"messages": messages, "input": input, "output": output}

    def rows(self, split: str) -> Any:
        return iter(self.all if split == "train" else [])


def config_for(folder: Path, case: Case, rows: int, updates: int) -> DistillationConfig:
    chosen = ("instruction", "learning_rate", "lora_layers", "lora_alpha", "max_seq_length")
    settings = {name: QUICKSTART[name] for name in chosen} | dict(case.settings)
    return DistillationConfig(
        name="bench",
        seed=[{"input": "a", "output": "b"}],
        student="smollm2-135m",
        output_dir=folder,
        batch_size=rows,
        max_memory_gb=64,
        memory_hard_limit_gb=64,
        cpu_capacity_percent=1.0,
        logging_steps=1,
        mlx_lm_kwargs={"max_steps": updates, **case.mlx_lm},
        **settings,
    )


def ours(folder: Path, case: Case, rows: int, updates: int) -> list[float]:
    """Rows per second of each update but the first, which also touches the weights."""
    config = config_for(folder, case, rows, updates)
    dataset = cast("DatasetVersion", Messages(case))
    result = train(config, dataset, RunFolder(config.run_folder))
    records = read_records(Path(str(result.metrics)))
    return [r["rows_per_second"] for r in records if r["kind"] == "train"][1:]


def stock(folder: Path, case: Case, rows: int, updates: int, *, our_blas: bool) -> list[float]:
    """Rows per second of each update."""
    if not (folder / "student").exists():
        write_weights(folder / "student")
    data = folder / "data"
    data.mkdir(exist_ok=True)
    lines = [json.dumps({"messages": row["messages"]}) for row in Messages(case).all]
    (data / "train.jsonl").write_text("\n".join(lines) + "\n")
    settings = config_for(folder, case, rows, updates).get_mlx_lm_kwargs() | {
        "model": str(folder / "student"),
        "data": str(data),
        "adapter_path": str(folder / "stock"),
        "train": True,
        "iters": updates,
        "steps_per_report": 1,
    }
    (folder / "stock.yaml").write_text(yaml_text(settings))
    start = ["-c", WITH_OUR_BLAS] if our_blas else ["-m", "mlx_lm"]
    command = [sys.executable, *start, "lora", "--config", str(folder / "stock.yaml")]
    return [rows / seconds for seconds in times_between_lines(command)]


def write_weights(folder: Path) -> None:
    """The student as float32, as ours trains it."""
    script = (
        "import sys; from pathlib import Path\n"
        "from nanodistill.models.loading import load_model\n"
        "loaded = load_model('smollm2-135m')\n"
        "from mlx_lm.utils import save\n"
        "config = {k: v for k, v in loaded.config.items() if 'quantization' not in k}\n"
        "save(Path(sys.argv[1]), loaded.path, loaded.model, loaded.tokenizer, config)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def times_between_lines(command: list[str]) -> list[float]:
    """Seconds from one of the loop's lines to the next, as they come."""
    environment = {**os.environ, "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        lines = (COLOUR.sub("", line) for line in process.stdout or ())
        times = [time.perf_counter() for line in lines if LINE.match(line)]
    if process.returncode:
        raise SystemExit(f"mlx_lm lora ended with {process.returncode}")
    return [after - before for before, after in pairwise(times)]


def compare(case: Case, folder: Path, asked: argparse.Namespace) -> None:
    mine = median(ours(folder, case, asked.rows, asked.updates))
    print(f"{case.name}, {asked.rows} rows to an update")
    print(f"  nanodistill train           {mine:8.3f} rows/s")
    for name, our_blas in (("mlx_lm lora, with our BLAS", True), ("mlx_lm lora", False)):
        if case is CASES[0] or our_blas:
            updates = asked.updates if our_blas else asked.stock_updates
            found = median(stock(folder, case, asked.rows, updates, our_blas=our_blas))
            print(f"  {name:27} {found:8.3f} rows/s, ours is {mine / found:.1f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="rows in a batch")
    parser.add_argument("--stock-updates", type=int, default=2)
    parser.add_argument("--updates", type=int, default=16)
    asked = parser.parse_args()
    print(f"{detect_hardware().describe()}; BLAS: {load_fast_blas().describe()}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            compare(case, Path(folder), asked)


if __name__ == "__main__":
    main()
