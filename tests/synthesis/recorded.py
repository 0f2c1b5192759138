"""Answers of a capable teacher to the prompts of this release, kept to see what a change changes.

A change of a prompt or of the plan changes requests, and then nobody has answered them. The test
that replays the folder says which requests those are. Look at them: is that what you meant a
teacher to read? Then put the old answers under the new requests, in the order of the run:

    PYTHONPATH=tests python -m synthesis.recorded tests/synthesis/recorded/support
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from nanodistill.config import DistillationConfig, load_config
from nanodistill.errors import RequestRejectedError
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import SynthesisResult, synthesize
from nanodistill.synthesis.generation_prompt import as_text
from nanodistill.types import Request

SUPPORT = Path(__file__).parent / "recorded" / "support"


@dataclass
class RecordedTeacher:
    """Gives recorded answers; `unknown` are the requests without one.

    Where it is told to `rekey`, those get the recorded answers that nobody asked for, in order.
    """

    folder: Path
    rekey: bool = False
    unknown: list[Request] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = (self.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        self.recorded = [json.loads(line) for line in lines]
        self._known = {_key(line["prompt"]): line for line in self.recorded}
        self._left: Iterator[dict[str, Any]] = iter(self.recorded)

    def __call__(self, request: Request) -> Any:
        prompt = as_text(request.messages)
        line = self._known.get(_key(prompt))
        if line is None:
            self.unknown.append(request)
            line = next(self._left, None) if self.rekey else None
        if line is None:
            raise RequestRejectedError("refusal", "nobody has answered this")
        self.written.append({"prompt": prompt, "answer": line["answer"]})
        return line["answer"]

    def first_difference(self) -> str:
        """The first unknown prompt against the recorded one that is most like it."""
        if not self.unknown:
            return ""
        prompt = as_text(self.unknown[0].messages)
        recorded = [line["prompt"] for line in self.recorded]
        near = difflib.get_close_matches(prompt, recorded, n=1, cutoff=0) or [""]
        lines = difflib.unified_diff(near[0].splitlines(), prompt.splitlines(), "was", "is", n=1)
        return "\n".join(lines)


def _key(prompt: str) -> str:
    return " ".join(prompt.split())


def config_of(folder: Path, output_dir: Path) -> DistillationConfig:
    return load_config(folder / "run.toml", [f"output_dir={json.dumps(str(output_dir))}"])


def replay(folder: Path, output_dir: Path, *, rekey: bool = False) -> tuple[
    RecordedTeacher, SynthesisResult
]:  # fmt: skip
    """Run synthesis with the recorded answers of a folder."""
    teacher = RecordedTeacher(folder, rekey)
    provider = ScriptedProvider(teacher)
    config = config_of(folder, output_dir)

    async def work() -> SynthesisResult:
        return await synthesize(config, provider=provider)

    return teacher, anyio.run(work)


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as output_dir:
        teacher, result = replay(folder, Path(output_dir), rekey=True)
    lines = [json.dumps(line, ensure_ascii=False) for line in teacher.written]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(teacher.unknown)} of {len(lines)} requests are new; {result.kept} rows kept.")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
