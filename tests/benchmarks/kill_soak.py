"""`nanodistill synth` killed at random instants, again and again, over real HTTP. Prints counts.

    PYTHONPATH=tests python tests/benchmarks/kill_soak.py [KILLS] [--seed N]

A server on loopback answers each request by what it says, fails some with a 500, and writes
down what it was asked and what it said. A child works on a run, as `python -m nanodistill synth`,
and is ended after a random time, from its start or from its first call, by SIGKILL, SIGTERM or
SIGINT.
When one gets through, its dataset is held against that of an undisturbed run, and a new run
begins. What was committed before a child began (its text is in the journal) may not be asked
again by it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from providers.server import Call, TeacherServer

from benchmarks.contenders import SEEDS
from nanodistill.journal import read_journal

IN_FLIGHT = 24
LONGEST_LIFE = 0.9
LONGEST_START = 6.0
"""Seconds, from the child's first instruction: LiteLLM alone takes some to import."""
PATIENCE = 60.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
RUN = """
seed = {seeds}
instruction = "Sort the customers' tickets into queues."
teacher = "openai/any"
response_model = "benchmarks.contenders:Ticket"
examples_per_call = 1
augment_factor = 60
extract_policy = false
check_seeds = false
recheck = "none"
max_concurrency = {in_flight}
[litellm_kwargs]
api_base = "{url}"
api_key = "sk-soak"
"""


def serve(log: Path) -> None:
    """The server's process: each line of `log` is one question and the answer to it."""
    server = TeacherServer(latency=0.02, items=1, record="nothing", fail_every=41)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answer(call: Call) -> str:
        server.set(answer=None)
        text = str(server._good(call).details["text"])
        server.set(answer=answer)
        os.write(written, f"{json.dumps([call.key, text])}\n".encode())
        return text

    server.set(answer=answer)
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        signal.pause()


class Log:
    """What the server was asked since it was last looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def has_more(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > self._read

    def more(self) -> list[str]:
        """The texts of the answers, one for each question."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        self._read += len(lines)
        return [json.loads(line)[1] for line in lines.splitlines()]


@dataclass
class Tally:
    """What the soak has seen."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    calls: int = 0
    needed: int = 0
    committed_again: int = 0
    most_lost: int = 0
    differing: int = 0

    def lines(self) -> list[str]:
        kills = ", ".join(f"{n} {name}" for name, n in sorted(self.kills.items()))
        codes = ", ".join(f"{n} x {code}" for code, n in sorted(self.codes.items()))
        again = self.calls - self.needed
        return [
            f"runs finished            {self.runs}",
            f"kills                    {sum(self.kills.values())} ({kills})",
            f"exit codes of the ended  {codes}",
            f"calls answered           {self.calls} by the server's count, {self.needed} needed",
            f"committed, asked twice   {self.committed_again}",
            f"asked again              {again}; one kill cost {self.most_lost} calls at most, with "
            f"{IN_FLIGHT} in flight and what had arrived in the last milliseconds",
            f"fingerprints             {self.runs - self.differing} equal, {self.differing} not",
        ]


def committed(folder: Path) -> set[str]:
    path = folder / "journal.sqlite"
    if not path.exists():
        return set()
    with read_journal(path) as journal:
        keys = {made.key for made in journal.attempts()}
        found = [journal.responses([key]).get(key) for key in keys]
    return {each.completion.text for each in found if each is not None and each.completion}


def begin(run_file: Path) -> subprocess.Popen[bytes]:
    """A child that works on a run as a person's command does."""
    arguments = [sys.executable, "-m", "nanodistill", "synth", str(run_file), "--json"]
    null = subprocess.DEVNULL
    return subprocess.Popen(arguments, stdin=null, stdout=null, stderr=null)


def ended(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit code of a child, if it ends in time."""
    until = time.monotonic() + seconds
    while (code := child.poll()) is None and time.monotonic() < until:
        time.sleep(0.002)
    return code


def one_try(run_file: Path, log: Log, random: Random, tally: Tally, *, kill: bool) -> bool:
    """Let a child work, and end it after a while if `kill`. Whether it got through."""
    child, code = begin(run_file), None
    from_first_call = random.random() < 0.7
    life = random.uniform(0, LONGEST_LIFE if from_first_call else LONGEST_START)
    while from_first_call and code is None and not log.has_more():
        code = ended(child, 0.004)
    if code is None:
        code = ended(child, life if kill else PATIENCE)
    if code is not None:
        assert code == 0, f"synth ended with {code}"
        return True
    number = random.choice(SIGNALS)
    child.send_signal(number)
    code = ended(child, PATIENCE)
    tally.kills[number.name] += 1
    tally.codes[f"{number.name} {code}"] += 1
    return False


def fingerprint(folder: Path) -> str:
    (version,) = (folder / "datasets").glob("v0001-*/manifest.json")
    return str(json.loads(version.read_text())["fingerprint"])


def soak(folder: Path, url: str, log: Log, kills: int, seed: int) -> Tally:
    random, tally = Random(seed), Tally()

    def run_file(number: int) -> Path:
        file = folder / f"run{number}.toml"
        seeds = "[" + ", ".join(_toml(each) for each in SEEDS) + "]"
        text = RUN.format(url=url, in_flight=IN_FLIGHT, seeds=seeds)
        file.write_text(f'name = "run{number}"\noutput_dir = "out"\n{text}')
        return file

    assert one_try(run_file(0), log, random, Tally(), kill=False)
    wanted, needed = fingerprint(folder / "out" / "run0"), len(set(log.more()))
    while sum(tally.kills.values()) < kills:
        number = tally.runs + 1
        file, run_folder = run_file(number), folder / "out" / f"run{number}"
        through, safe = False, set[str]()
        while not through:
            may_kill = sum(tally.kills.values()) < kills
            through = one_try(file, log, random, tally, kill=may_kill)
            asked = log.more()
            tally.calls += len(asked)
            tally.committed_again += len(safe.intersection(asked))
            safe = committed(run_folder)
            tally.most_lost = max(tally.most_lost, len(set(asked) - safe))
        tally.runs += 1
        tally.needed += needed
        tally.differing += fingerprint(run_folder) != wanted
    return tally


def _toml(row: object) -> str:
    assert isinstance(row, dict)
    inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in row["output"].items())
    return f"{{input = {json.dumps(row['input'])}, output = {{{inner}}}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command_line = [sys.executable, __file__, "--serve", str(folder / "asked.log")]
        server = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            tally = soak(folder, url, Log(folder / "asked.log"), given.kills, given.seed)
        finally:
            server.kill()
            server.communicate()
    sys.stdout.write("\n".join(tally.lines()) + "\n")


if __name__ == "__main__":
    main()
