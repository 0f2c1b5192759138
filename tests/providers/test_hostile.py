"""No answer ends a run: whatever comes back, every row is accounted for, and a resume works."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import anyio
import pytest
from synthesis.runs import CHAT, assert_adds_up, config_in
from synthesis.test_over_http import KEY, answering
from synthesis.writer import Writer

from nanodistill.config import DistillationConfig
from nanodistill.errors import RunIncompleteError
from nanodistill.synthesis import SynthesisResult, synthesize
from providers.hostile import mutated
from providers.server import Call, TeacherServer


def hostile(share: float) -> Any:
    def mutate(body: dict[str, Any], call: Call) -> str:
        dice = random.Random(call.key)
        return mutated(body, dice) if dice.random() < share else json.dumps(body)

    return mutate


def ended(config: DistillationConfig) -> SynthesisResult | RunIncompleteError:
    """How a run ends; anything but a result or an early stop is an error here."""
    try:
        result = anyio.run(lambda: synthesize(config))
    except RunIncompleteError as stopped:
        return stopped
    assert_adds_up(result)
    return result


@pytest.mark.parametrize("transport", ["auto", "litellm"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_no_answer_ends_a_run(
    tmp_path: Path, teacher_server: TeacherServer, transport: str, share: float
) -> None:
    teacher_server.set(answer=answering(Writer()), mutate=hostile(share))
    kwargs = {"api_base": teacher_server.url, "api_key": KEY}
    fields: dict[str, Any] = {"max_retries": 0, "transport": transport, "min_rows": 1}
    for n, kind in enumerate(({}, CHAT)):
        config = config_in(
            tmp_path / str(n), teacher="openai/any", litellm_kwargs=kwargs, **fields, **kind
        )
        for _ in range(2):
            ended(config)
