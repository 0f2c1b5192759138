"""`nanodistill synth` against a server that lies, until so many mutated answers were sent.

    PYTHONPATH=tests python tests/benchmarks/hostile_soak.py [ANSWERS] [--seed N]

Each run is the command itself in a process of its own, with another share of mutated answers and
another transport. It must end with exit code 0 or 3, its sums must add up, and the same command
must get through a second time over the journal that the first has left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from providers.hostile import mutated
from providers.server import Call, TeacherServer

from benchmarks.contenders import SEEDS

WORDED = [
    {"input": row["input"], "output": ("billing", "bug", "account")[n % 3]}
    for n, row in enumerate(SEEDS)
]
TESTS = str(Path(__file__).parents[1])
COMMAND = (sys.executable, "-c", "from nanodistill.cli import main; main()")
RUN = """
name = "soak"
seed = "seeds.jsonl"
instruction = "Sort the customers' tickets into queues."
teacher = "openai/any"
transport = "{transport}"
{shape}
examples_per_call = 2
augment_factor = 40
max_retries = 0
min_rows = 1
random_seed = {n}
[litellm_kwargs]
api_base = "{url}"
api_key = "sk-soak"
"""
SHAPES = (
    'response_model = "benchmarks.contenders:Ticket"',
    'thinking_format = "xml"',
    'generation = "chat"\nthinking_format = "none"\nextract_policy = false',
)


class Liar:
    """Mutates a share of the answers, and counts."""

    def __init__(self) -> None:
        self.share = 0.5
        self.salt = 0
        self.mutated = 0

    def __call__(self, body: dict[str, Any], call: Call) -> str:
        dice = random.Random(f"{self.salt} {call.key}")
        if dice.random() >= self.share:
            return json.dumps(body)
        self.mutated += 1
        return mutated(body, dice)


def wrong_with(done: subprocess.CompletedProcess[str]) -> str | None:
    """What the end of a command breaks, if anything."""
    if done.returncode not in (0, 3):
        return f"exit code {done.returncode}"
    told = json.loads(done.stdout.splitlines()[-1])
    if "requested" in told and told["requested"] != told["kept"] + sum(
        [*told["rejected"].values(), *told["failed"].values()]
    ):
        return f"the sums do not add up: {told}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", nargs="?", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    liar, ends, faults, n = Liar(), Counter[int](), list[str](), chosen.seed
    with TeacherServer(record="nothing", mutate=liar) as server:
        while liar.mutated < chosen.answers and not faults:
            n += 1
            liar.salt, liar.share = n, (0.1, 0.3, 0.6, 1.0)[n % 4]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "run.toml"
                rows = [*SEEDS] if n % len(SHAPES) == 0 else WORDED
                (path.parent / "seeds.jsonl").write_text("\n".join(map(json.dumps, rows)))
                path.write_text(
                    RUN.format(
                        transport="litellm" if n % 5 == 0 else "auto",
                        shape=SHAPES[n % len(SHAPES)],
                        n=n,
                        url=server.url,
                    )
                )
                for again in range(2):
                    done = subprocess.run(
                        [*COMMAND, "synth", str(path), "--json"],
                        cwd=folder, capture_output=True, text=True, check=False,
                        env=os.environ | {"PYTHONPATH": TESTS},
                    )  # fmt: skip
                    ends[done.returncode] += 1
                    if fault := wrong_with(done):
                        faults.append(f"run {n}.{again}: {fault}\n{done.stderr[-1500:]}")
            print(f"{liar.mutated} mutated answers, exit codes {dict(ends)}", flush=True)
    print("\n".join(faults) or "every run ended as it should")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
