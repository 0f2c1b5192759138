"""The plan before the run: what it says is what happens, and it costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill.config import DistillationConfig, TeacherPrice
from nanodistill.errors import BudgetExceededError
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import PlanEstimate, plan
from synthesis.runs import CHAT, config_in, run
from synthesis.writer import Writer


def planned(config: DistillationConfig) -> PlanEstimate:
    teacher = Writer()

    async def work() -> PlanEstimate:
        return await plan(config, provider=ScriptedProvider(teacher))

    estimate = anyio.run(work)
    assert teacher.asked == []
    return estimate


def by_stage(estimate: PlanEstimate) -> dict[str, tuple[int, int]]:
    return {stage.stage: (stage.fewest, stage.most) for stage in estimate.stages}


@pytest.mark.parametrize(
    "fields",
    [
        CHAT,
        {},
        {"samples_per_input": 3},
        {**CHAT, "check_labels": True},
        {"thinking_format": "none", "extract_policy": False},
        {"augment_factor": 1},
    ],
)
def test_a_teacher_that_makes_no_mistakes_takes_the_fewest_calls(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    config = config_in(tmp_path, **fields)
    fewest = {stage: low for stage, (low, _) in by_stage(planned(config)).items() if low}
    assert not (tmp_path / "run").exists()
    teacher = Writer()
    run(config, teacher)
    assert fewest == teacher.stages()


def test_of_a_finished_run_nothing_is_left_to_ask(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run(config, Writer(repeats=0.2, short=0.2))
    estimate = planned(config)
    assert estimate.calls == (0, 0)
    assert estimate.kept == estimate.wanted
    assert "Nothing to ask" in estimate.summary()


@pytest.mark.parametrize("so_far", [5, 12, 13, 20, 25, 40, 70])
def test_of_an_interrupted_run_the_rest_is_left(tmp_path: Path, so_far: int) -> None:
    with pytest.raises(BudgetExceededError):
        run(config_in(tmp_path, max_calls=so_far), Writer())
    config = config_in(tmp_path)
    estimate = planned(config)
    assert estimate.calls[0] == 85 - so_far
    assert estimate.reused == so_far - (so_far > 12), "the policy is taken from its file"
    assert run(config, Writer()).calls["made"] == 85 - so_far


def test_dollars_are_a_range_or_unknown(tmp_path: Path) -> None:
    unknown = planned(config_in(tmp_path))
    assert unknown.cost_usd is None
    assert "unknown" in unknown.summary()
    price = TeacherPrice(input=1.0, output=10.0)
    known = planned(config_in(tmp_path, teacher_price=price))
    assert known.cost_usd is not None
    low, high = known.cost_usd
    usage = known.usage[0]
    assert low == pytest.approx((usage.prompt_tokens + 10 * usage.completion_tokens) / 1e6)
    assert low < high
    assert known.to_json()["cost_usd"] == {"low": low, "high": high}


def test_limits_of_the_provider_count_into_the_minutes(tmp_path: Path) -> None:
    slow = planned(config_in(tmp_path, requests_per_minute=1))
    assert slow.minutes[0] == slow.calls[0] == 85


RANGE = {"low", "high"}


@pytest.mark.parametrize(
    ("fields", "priced", "batched"),
    [
        ({}, False, False),
        ({"teacher": "gpt-4o-mini"}, True, True),
        ({"teacher": "mlx/any"}, True, False),
        ({"teacher_price": TeacherPrice(input=1, output=1)}, True, False),
    ],
)
def test_a_plan_as_json(
    tmp_path: Path, fields: dict[str, Any], priced: bool, batched: bool
) -> None:
    told = planned(config_in(tmp_path, **fields)).to_json()
    assert told["calls"].keys() == {*RANGE, "reused"}
    assert told["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert told["usage"]["prompt_tokens"].keys() == told["minutes"].keys() == RANGE
    assert (told["cost_usd"] is not None) == priced
    assert (told["batch_cost_usd"] is not None) == batched
    if batched:
        assert told["batch_cost_usd"]["high"] == pytest.approx(told["cost_usd"]["high"] / 2)
