"""What the coverage plan is worth: the quickstart with it and without it, side by side.

    python tests/benchmarks/ablation_coverage.py [--step synth|train|eval|report]
        [--arm on|off] [--random-seed 0 ...] [--augment-factor 10] [--folder FOLDER]

Both arms have the same teacher, seeds, sampling, curation, number of kept rows, training and
test messages; one line of the run file differs.

    on   a label is drawn for every row, the labels in equal parts; the teacher sees seeds of
         that label and writes the message. The label is the plan's.
    off  `coverage = false`: every call is alike, with as many seeds, whichever comes next; the
         teacher writes message and label, one row after another. The label is the teacher's.

Off is the usual way to ask for data. It is not the worst there is: to write an unlabelled
message first and have this teacher label it afterwards is guessing (see docs/decisions/0001).
Every step is a `nanodistill` command, so what was interrupted goes on with the same command.
A test row's scores are paired: difference on minus off, Newcombe's interval, McNemar's test.
Several random seeds repeat the whole, plan and training included; the sum over them takes each
test message once a seed, as if they were independent, so its interval is a little too narrow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nanodistill.dataset import DatasetVersion, open_version
from nanodistill.run_dir import RunFolder
from nanodistill.stats import ScoreEstimate, compare, estimate

ROOT = Path(__file__).parent.parent.parent
RUN_FILE = ROOT / "pipelines" / "quickstart.toml"
COMMAND = [sys.executable, "-c", "from nanodistill.cli import main; main()"]
ARMS = {"on": "true", "off": "false"}
STEPS = ("synth", "train", "eval")


def run_folder(given: argparse.Namespace, arm: str, seed: int) -> Path:
    folder: Path = given.folder.resolve() / f"coverage-{arm}-{seed}"
    return folder


def do(step: str, given: argparse.Namespace, arm: str, seed: int) -> None:
    folder = run_folder(given, arm, seed)
    fields = {
        "name": folder.name,
        "output_dir": folder.parent,
        "coverage": ARMS[arm],
        "augment_factor": given.augment_factor,
        "random_seed": seed,
    }
    settings = [part for key, value in fields.items() for part in ("--set", f"{key}={value}")]
    command = [*COMMAND, step, str(RUN_FILE), *settings]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    print(f"-- {step}, coverage {arm}, random_seed {seed}", flush=True)
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})


def scores_of(folder: Path) -> dict[str, float]:
    """The student's score by test row."""
    (file,) = (folder / "evaluation").glob("*/predictions.parquet")
    rows = pq.read_table(file, columns=["id", "model", "score"]).to_pylist()
    return {row["id"]: row["score"] for row in rows if row["model"] == "student"}


def figures(version: DatasetVersion, scores: list[float]) -> dict[str, str]:
    """What is to be seen of one arm."""
    manifest = version.manifest
    counts, found = manifest.counts, manifest.statistics
    labels: dict[str, int] = {}
    for split in ("train", "valid"):
        for label, n in (found.outputs or {}).get(split, {}).items():
            labels[label] = labels.get(label, 0) + n
    duplicates = sum(counts.rejected.get(why, 0) for why in ("duplicate", "near_duplicate"))
    return {
        "rows kept": str(counts.kept),
        "requested": str(manifest.requested),
        "rejected": ", ".join(f"{why} {n}" for why, n in counts.rejected.items()) or "none",
        "of them duplicates": str(duplicates),
        "failed": ", ".join(f"{why} {n}" for why, n in manifest.failed.items()) or "none",
        "stopped": manifest.stopped_because or "",
        "label balance": ", ".join(f"{label} {labels[label]}" for label in sorted(labels)),
        "distinct-2": f"{found.distinct['distinct_2']:.3f} over {found.distinct_over} rows",
        "accuracy": shown(estimate(scores)),
    }


def shown(found: ScoreEstimate) -> str:
    return f"{found.value:.0%} (95%: {found.low:.0%} to {found.high:.0%})"


def report(given: argparse.Namespace) -> None:
    pooled: dict[str, list[float]] = {arm: [] for arm in ARMS}
    told: list[dict[str, Any]] = []
    for seed in given.random_seed:
        by_row = {arm: scores_of(run_folder(given, arm, seed)) for arm in ARMS}
        ids = sorted(by_row["on"])
        for arm in ARMS:
            scores = [by_row[arm][id] for id in ids]
            pooled[arm] += scores
            version = open_version(None, RunFolder(run_folder(given, arm, seed)))
            print(f"\ncoverage {arm}, random_seed {seed}, {len(ids)} test messages")
            for name, value in figures(version, scores).items():
                print(f"  {name:<20}{value}")
        told.append(_difference(by_row["on"], by_row["off"], ids, seed))
    if len(given.random_seed) > 1:
        keys = [str(n) for n in range(len(pooled["on"]))]
        on, off = (dict(zip(keys, pooled[arm], strict=True)) for arm in ("on", "off"))
        told.append(_difference(on, off, keys, "all"))
    print(json.dumps(told))


def _difference(
    on: dict[str, float], off: dict[str, float], ids: list[str], seed: int | str
) -> dict[str, Any]:
    scores = [[arm[id] for id in ids] for arm in (on, off)]
    paired = compare(*scores)
    print(
        f"\nrandom_seed {seed}: on {shown(estimate(scores[0]))}, off {shown(estimate(scores[1]))}; "
        f"on minus off {paired.diff:+.0%} (95%: {paired.low:+.0%} to {paired.high:+.0%}), "
        f"p = {paired.p:.2g}, {paired.test}, n = {paired.n}"
    )
    return {"random_seed": seed, "diff": paired.diff, "low": paired.low, "high": paired.high}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--step", choices=(*STEPS, "report"), help="this one alone")
    options.add_argument("--arm", choices=tuple(ARMS), help="this one alone")
    options.add_argument("--random-seed", type=int, nargs="+", default=[0])
    options.add_argument("--augment-factor", type=int, default=10)
    options.add_argument("--folder", type=Path, default=ROOT / "outputs" / "ablation")
    given = options.parse_args()
    for step in STEPS if given.step is None else [given.step] if given.step in STEPS else []:
        for seed in given.random_seed:
            for arm in [given.arm] if given.arm else ARMS:
                do(step, given, arm, seed)
    if given.step in (None, "report"):
        report(given)


if __name__ == "__main__":
    main()
