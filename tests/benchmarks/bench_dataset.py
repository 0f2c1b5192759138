"""Time and memory of a dataset version by its number of rows, and of a whole synthesis.

    python tests/benchmarks/bench_dataset.py [ROWS ...]

`synth` is all that `nanodistill synth` does, journal and curation included, with a Python function
for a teacher that sends up to 50 rows a call, 1 in 20 of them a repetition; the other figures are
of one thing each.

Each measurement runs in a process of its own, so that the peak is its own; the
rows are made as they are written, so that the peak is the writer's. A row has an
input of about 30 words and a trace of about 60.
"""

from __future__ import annotations

import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio

from nanodistill.config import DistillationConfig
from nanodistill.dataset import VersionDraft, VersionFacts, diff, verify, write_version
from nanodistill.dataset.read import open_folder
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis import synthesize
from nanodistill.thinking import FORMATS
from nanodistill.types import Request, Split, Trace

WORDS = [f"word{n}" for n in range(5000)]


def rows(n: int) -> Iterator[tuple[Split, Trace]]:
    draw = random.Random(0)
    for i in range(n):
        trace = Trace(
            input=f"{i} {' '.join(draw.choices(WORDS, k=30))}",
            output=f"label {i % 4}",
            source="synthetic",
            thinking=" ".join(draw.choices(WORDS, k=60)),
            thinking_from="teacher",
            seed_ids=(f"{i % 10:064d}",),
            cell=f"label {i % 4} / topic {i % 12}",
            teacher="scripted",
            request_keys=(f"{i:064d}", f"{i + n:064d}"),
        )
        yield "valid" if i % 5 == 0 else "train", trace


def write(folder: Path, n: int) -> None:
    facts = VersionFacts(
        instruction="Say which label fits.",
        thinking_format="xml",
        made_by="synthesis",
        labels=tuple(f"label {k}" for k in range(4)),
        requested=n,
    )
    write_version(RunFolder(folder), VersionDraft(rows(n), (), FORMATS["xml"], facts))


def version_in(folder: Path) -> Path:
    return next((folder / "datasets").glob("v*"))


def read(folder: Path, n: int) -> None:
    version = open_folder(version_in(folder))
    assert sum(1 for split in ("train", "valid") for _ in version.rows(split)) == n


def check(folder: Path, n: int) -> None:
    assert verify(version_in(folder)).rows == n


def compare(folder: Path, n: int) -> None:
    version = open_folder(version_in(folder))
    assert diff(version, version).same == n


def teacher(request: Request) -> dict[str, list[dict[str, str | int]]]:
    """As many rows of 30 words as are ordered, told by the request."""
    draw = random.Random(request.key)
    ordered = re.search(r"Write (\d+) new", request.messages[-1]["content"])
    rows = int(ordered[1]) if ordered else 1
    texts = [" ".join(draw.choices(WORDS, k=30)) for _ in range(rows)]
    return {
        "examples": [
            {"slot": slot, "input": texts[0] if draw.random() < 0.05 else text}
            for slot, text in enumerate(texts, start=1)
        ]
    }


def synth(folder: Path, n: int) -> None:
    """About as many rows as asked for: 200 seeds of four labels, 200 test rows."""
    draw = random.Random(1)
    brought = [
        {"input": " ".join(draw.choices(WORDS, k=30)), "output": f"label {i % 4}"}
        for i in range(400)
    ]
    config = DistillationConfig(
        name="synth",
        seed=brought[:200],
        test=brought[200:],
        instruction="Say which label fits.",
        teacher="python:bench_dataset:teacher",
        augment_factor=max(1, n // 200),
        output_dir=folder / "synth",
        thinking_format="none",
        extract_policy=False,
        check_seeds=False,
        recheck="none",
        examples_per_call=50,
    )
    result = anyio.run(lambda: synthesize(config, provider=ScriptedProvider(teacher)))
    assert result.kept == result.wanted
    lost = dict(result.rejected)
    print(f"{result.kept:>9} rows  kept of {result.requested} requested; rejected {lost}")


WORK = {"write": write, "read": read, "verify": check, "diff": compare, "synth": synth}


def measure(what: str, folder: Path, n: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    WORK[what](folder, n)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mib = 1024 if sys.platform == "linux" else 1024**2
    print(
        f"{n:>9} rows  {what:<7} {seconds:6.1f} s, {cpu:6.1f} s of CPU  "
        f"peak {peak / mib:5.0f} MiB, {(peak - before) / mib:5.0f} above the imports"
    )


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] in WORK:
        measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    for n in map(int, sys.argv[1:] or ["10000", "100000"]):
        with tempfile.TemporaryDirectory() as folder:
            for what in WORK:
                subprocess.run([sys.executable, __file__, what, folder, str(n)], check=True)
            size = sum(p.stat().st_size for p in version_in(Path(folder)).rglob("*.parquet"))
            print(f"{n:>9} rows  {size / 1024**2:.1f} MiB of parquet")


if __name__ == "__main__":
    main()
