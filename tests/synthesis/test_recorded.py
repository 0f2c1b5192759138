"""A capable teacher's answers, recorded: they replay as long as the prompts are the same.

recorded/answers.jsonl has a request a line: the key that `key_of` makes of it, what it asked last,
and the answer. A change of a prompt shows here which requests it changes. Rows that answer other
prompts say nothing of the new ones, so after such a change the file has to be recorded anew, with
a capable model or a person answering the run file beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from nanodistill.config.run_file import load_config
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.types import Request
from synthesis.runs import rows_of, run

FOLDER = Path(__file__).with_name("recorded")


def key_of(request: Request) -> str:
    body = {"messages": list(request.messages), "schema": request.schema}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


class Recorded:
    """Answers from the file, and keeps what is not in it."""

    def __init__(self) -> None:
        lines = (FOLDER / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        self.answers = {line["key"]: line["answer"] for line in map(json.loads, lines)}
        self.unknown: list[str] = []

    def __call__(self, request: Request) -> Any:
        key = key_of(request)
        if key not in self.answers:
            self.unknown.append(str(request.messages[-1]["content"]))
            return {}
        return self.answers[key]


def test_every_request_of_the_run_is_one_that_was_answered(tmp_path: Path) -> None:
    config = load_config(FOLDER / "run.toml", [f"output_dir={tmp_path}"])
    recorded = Recorded()
    result = run(config, ScriptedProvider(recorded))
    assert not recorded.unknown
    assert (result.kept, result.rejected) == (60, {})
    assert set(Counter(row["output"] for row in rows_of(result)).values()) == {15}
