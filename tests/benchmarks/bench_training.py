"""Trained rows per second: `mlx_lm lora` as it comes, and NanoDistill, on the same rows.

    python tests/benchmarks/bench_training.py [--rows 4] [--stock-updates 2] [--updates 16]

Same float32 weights of the embedded student, same rows (the quickstart's test
messages under its instruction), same batch, LoRA, optimizer and learning rate;
the loss of both is on the answer alone. Neither validates. Stock is mlx-lm's own
command in a process of its own, timed from one line of its output to the next,
so that loading is not counted; ours is what metrics.jsonl says of each update.
Stock is slow (minutes for an update on a CPU), which is why it gets few.
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
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, cast

from nanodistill.config import DistillationConfig
from nanodistill.config.mlx_config import yaml_text
from nanodistill.dataset import DatasetVersion
from nanodistill.hardware import detect_hardware
from nanodistill.models.blas import load_fast_blas
from nanodistill.runfolder import RunFolder
from nanodistill.training import train
from nanodistill.training.metrics import read_records

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = tomllib.loads((ROOT / "pipelines/quickstart.toml").read_text())
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LINE = re.compile(r"\s+(?:iter\s+train_loss|\d+\s+[\d.]+ [▼▲])")


class Messages:
    """The quickstart's test messages as a dataset version's training rows."""

    name, fingerprint, path = "bench", "bench", Path("bench")

    def __init__(self) -> None:
        lines = (ROOT / "data/support_triage/test.jsonl").read_text().splitlines()
        self.all = [self.row(**json.loads(line)) for line in lines]

    def row(self, input: str, output: str, **_: Any) -> dict[str, Any]:
        said = {"system": QUICKSTART["instruction"], "user": input, "assistant": output}
        messages = [{"role": role, "content": text} for role, text in said.items()]
        return {"messages": messages, "input": input, "output": output}

    def rows(self, split: str) -> Any:
        return iter(self.all if split == "train" else [])


def config_for(folder: Path, rows: int, updates: int) -> DistillationConfig:
    chosen = ("instruction", "learning_rate", "lora_layers", "lora_alpha", "max_seq_length")
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
        mlx_lm_kwargs={"max_steps": updates},
        **{name: QUICKSTART[name] for name in chosen},
    )


def ours(folder: Path, messages: Messages, rows: int, updates: int) -> list[float]:
    """Rows per second of each update but the first, which also touches the weights."""
    config = config_for(folder, rows, updates)
    dataset = cast("DatasetVersion", messages)
    result = train(config, dataset, RunFolder(config.run_folder))
    records = read_records(Path(str(result.metrics)))
    return [r["rows_per_second"] for r in records if r["kind"] == "train"][1:]


def stock(folder: Path, messages: Messages, rows: int, updates: int) -> list[float]:
    """Rows per second of each update."""
    write_weights(folder / "student")
    data = folder / "data"
    data.mkdir()
    lines = [json.dumps({"messages": row["messages"]}) for row in messages.all]
    (data / "train.jsonl").write_text("\n".join(lines) + "\n")
    settings = config_for(folder, rows, updates).get_mlx_lm_kwargs() | {
        "model": str(folder / "student"),
        "data": str(data),
        "adapter_path": str(folder / "stock"),
        "train": True,
        "iters": updates,
        "steps_per_report": 1,
    }
    (folder / "stock.yaml").write_text(yaml_text(settings))
    command = [sys.executable, "-m", "mlx_lm", "lora", "--config", str(folder / "stock.yaml")]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4, help="rows in a batch")
    parser.add_argument("--stock-updates", type=int, default=2)
    parser.add_argument("--updates", type=int, default=16)
    asked = parser.parse_args()
    messages = Messages()
    print(f"{detect_hardware().describe()}; BLAS: {load_fast_blas().describe()}")
    with tempfile.TemporaryDirectory() as folder:
        mine = ours(Path(folder), messages, asked.rows, asked.updates)
        print(f"nanodistill train  {median(mine):8.3f} rows/s  (median of {len(mine)} updates)")
        other = stock(Path(folder), messages, asked.rows, asked.stock_updates)
        print(f"mlx_lm lora        {median(other):8.3f} rows/s  (median of {len(other)} updates)")
        print(f"                   {median(mine) / median(other):8.1f} times as fast")


if __name__ == "__main__":
    main()
