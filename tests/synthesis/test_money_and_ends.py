"""Whole runs over HTTP: what they may cost, how they end, and what a provider's no comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from providers.server import Act, Call, TeacherServer, answered, raw, status, truncated

from nanodistill.cli import run as command
from nanodistill.config import DistillationConfig
from nanodistill.errors import (
    BudgetExceededError,
    ConfigError,
    TeacherUnavailableError,
    TooFewRowsError,
)
from nanodistill.journal import read_journal
from nanodistill.synthesis import SynthesisResult, plan, synthesize
from synthesis.runs import Notices, config_in
from synthesis.test_over_http import KEY, answering
from synthesis.writer import SEEDS, Writer

SMALL: dict[str, Any] = {
    "augment_factor": 2,
    "extract_policy": False,
    "check_seeds": False,
    "thinking_format": "none",
    "min_rows": 1,
}
PRICE = {"input": 1000.0, "output": 1000.0}
BROKEN_SERVER = "Engine failed: unsupported keyword"


def over_http(server: TeacherServer, folder: Path, **fields: Any) -> DistillationConfig:
    own = {"api_base": server.url, "api_key": KEY} | fields.pop("litellm_kwargs", {})
    values = {"teacher": "openai/any", "judge": None} | SMALL | fields
    return config_in(folder, litellm_kwargs=own, **values)


def run(config: DistillationConfig, **options: Any) -> SynthesisResult:
    return anyio.run(lambda: synthesize(config, **options))


def judging(writer: Writer, right: bool = True) -> Any:
    """A server that is teacher and judge."""

    def answer(call: Call) -> str:
        if call.body["model"] == "judge":
            return json.dumps({"reason": "it is far too short", "right": right})
        return str(answering(writer)(call))

    return answer


# Limits


def test_a_dollar_limit_needs_the_judges_price_too(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    fields = {"max_cost_usd": 1.0, "judge": "openai/judge", "teacher_price": PRICE}
    with pytest.raises(ConfigError, match="judge_price"):
        run(over_http(teacher_server, tmp_path, **fields))
    assert teacher_server.total == 0


def test_the_judge_counts_at_its_own_price(tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher_server.set(answer=judging(Writer()))
    fields = {
        "judge": "openai/judge",
        "teacher_price": {"input": 0.0, "output": 0.0},
        "judge_price": PRICE,
    }
    whole = run(over_http(teacher_server, tmp_path / "whole", **fields))
    assert whole.cost_usd
    judged = sum(call.body["model"] == "judge" for call in teacher_server.calls)
    each = whole.cost_usd / judged
    teacher_server.forget()
    config = over_http(teacher_server, tmp_path / "cut", max_cost_usd=2 * each, **fields)
    with pytest.raises(BudgetExceededError, match="max_cost_usd"):
        run(config)
    assert sum(call.body["model"] == "judge" for call in teacher_server.calls) <= 2


def test_the_judge_has_an_address_and_a_key_of_its_own(
    tmp_path: Path, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leads to the teacher leads a judge of another provider nowhere."""
    monkeypatch.setenv("MISTRAL_API_KEY", "judges-own-key-0123456789")
    teacher_server.set(answer=judging(Writer()))
    with TeacherServer() as judges:
        judges.set(answer=judging(Writer()))
        own = {"api_base": judges.url, "top_p": 0.25}
        fields = {"judge": "mistral/judge", "judge_litellm_kwargs": own, "check_seeds": False}
        result = run(over_http(teacher_server, tmp_path, **fields))
    assert result.kept == 24
    assert {call.body["model"] for call in judges.calls} == {"judge"}
    assert {call.body["top_p"] for call in judges.calls} == {0.25}
    assert not any(KEY in str(call.headers) for call in judges.calls)
    assert all("top_p" not in call.body for call in teacher_server.calls)
    assert KEY not in (tmp_path / "run" / "config.json").read_text()


def test_what_was_only_estimated_counts_in_the_next_run(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    """A server that never says what it bills can't be asked for ever, run after run."""
    teacher_server.set(answer=answering(Writer()), usage=False)
    config = over_http(teacher_server, tmp_path, max_tokens_total=3000, augment_factor=20)
    for _ in range(3):
        with pytest.raises(BudgetExceededError):
            run(config)
    total = teacher_server.total
    with read_journal(tmp_path / "run" / "journal.sqlite") as journal:
        assert sum(sums.calls for sums in journal.sums().values()) == total
        assert journal.note("estimated spend") is not None
    assert total <= 5


def test_max_calls_counts_each_attempt_that_arrives(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    """Refused forms, refused parameters and retries are calls like others."""

    def refuse(call: Call) -> str:
        raise AssertionError("never asked in a form that it takes")

    teacher_server.set(response_format="refuse", tools="refuse", answer=refuse)
    with pytest.raises(BudgetExceededError, match="max_calls is 2"):
        run(over_http(teacher_server, tmp_path, max_calls=2))
    assert teacher_server.total == 2


# How runs end


@pytest.mark.parametrize(
    ("act", "reason", "words"),
    [
        (status(400, BROKEN_SERVER), "bad_request", BROKEN_SERVER),
        (status(400, "the content_filter stepped in"), "content_filter", "content_filter"),
        (truncated(""), "truncated", "cut off"),
    ],
)
def test_rows_that_are_all_lost_alike_are_no_saturation(
    tmp_path: Path, teacher_server: TeacherServer, act: Act, reason: str, words: str
) -> None:
    teacher_server.set(always=act)
    with pytest.raises(TooFewRowsError, match=words) as ended:
        run(over_http(teacher_server, tmp_path))
    assert ended.value.exit_code == 3
    assert ended.value.known["failed"] == {reason: 24}
    assert not (tmp_path / "run" / "datasets").exists()


def test_rows_that_a_judge_rejects_alike_are_no_saturation(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.set(answer=judging(Writer(), right=False))
    with pytest.raises(TooFewRowsError, match="judge: it is far too short"):
        run(over_http(teacher_server, tmp_path, judge="openai/judge"))


def test_a_preview_of_nothing_is_a_failure(tmp_path: Path, teacher_server: TeacherServer) -> None:
    teacher_server.set(always=status(400, BROKEN_SERVER))
    with pytest.raises(TooFewRowsError, match=BROKEN_SERVER):
        run(over_http(teacher_server, tmp_path), limit=3)


def test_seeds_do_not_count_as_rows_that_were_made(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.set(answer=answering(Writer(repeats=1.0)))
    with pytest.raises(TooFewRowsError, match="besides 12 seeds"):
        run(over_http(teacher_server, tmp_path, min_rows=10))


def test_seeds_that_are_all_refused_end_the_run(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    teacher_server.set(always=status(400, BROKEN_SERVER))
    with pytest.raises(TeacherUnavailableError, match=BROKEN_SERVER):
        run(over_http(teacher_server, tmp_path, check_seeds=True))
    assert teacher_server.total == len(SEEDS)


def test_a_refusal_of_the_server_is_asked_again_and_one_of_the_content_is_not(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    good = answering(Writer())
    config = over_http(teacher_server, tmp_path, structured_output="json_schema")
    teacher_server.set(always=status(400, BROKEN_SERVER))
    with pytest.raises(TooFewRowsError):
        run(config)
    teacher_server.forget()
    teacher_server.set(always=None, answer=good)
    assert run(config).kept == 24
    assert teacher_server.total >= 4

    teacher_server.set(always=status(400, "content_filter"))
    with pytest.raises(TooFewRowsError):
        run(over_http(teacher_server, tmp_path / "other"))
    teacher_server.forget()
    with pytest.raises(TooFewRowsError):
        run(over_http(teacher_server, tmp_path / "other"))
    assert teacher_server.total == 0


@pytest.mark.parametrize(
    ("act", "when"),
    [
        (status(429, "Limit 1000 requests per day (RPD). Try again in 90s."), "once a day"),
        (status(429, "slow down", headers={"Retry-After": "50400"}), "in 14.0 hours"),
        (status(429, "You have used up this month's requests", headers={"Retry-After": "900000"}),
         "in 250.0 hours"),
        (status(429, "Rate limit reached. Please try again in 5 hours."), "in 5.0 hours"),
        (raw(json.dumps({"error": {"message": "x", "status": "RESOURCE_EXHAUSTED", "details":
             [{"quotaId": "GenerateRequestsPerDayPerProject"}, {"retryDelay": "58s"}]}}), 429),
         "once a day"),
    ],
)  # fmt: skip
def test_a_days_limit_stops_the_run_at_once(
    tmp_path: Path, teacher_server: TeacherServer, act: Act, when: str
) -> None:
    teacher_server.set(always=act)
    with pytest.raises(TeacherUnavailableError) as stopped:
        run(over_http(teacher_server, tmp_path))
    assert teacher_server.total == 1
    assert when in str(stopped.value.next_step)


# A provider's no


def test_a_refused_parameter_is_left_out_told_once_and_remembered(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    """The keys stay those of the plan: the same run again asks nothing."""
    good, heard = answering(Writer()), Notices()
    taken: list[Call] = []

    def picky(call: Call) -> Act | None:
        for name in ("temperature", "seed", "max_tokens"):
            if name in call.body:
                said = f"Unsupported parameter: '{name}' is not supported with this model."
                return status(400, said, error_code="unsupported_parameter", param=name)
        taken.append(call)
        return None

    teacher_server.set(answer=lambda call: good(with_temperature(call)), picky=picky)
    fields = {"check_labels": True, "litellm_kwargs": {"seed": 7}, "max_rounds": 2}
    result = run(over_http(teacher_server, tmp_path, **fields), on_event=heard)
    assert result.kept == 24
    assert result.calls["made"] == teacher_server.total
    told = [text for text in heard.texts if "not supported with this model" in text]
    assert len(told) == 4  # two temperatures, the seed, and max_tokens by its other name
    assert any("max_completion_tokens" in call.body for call in taken)

    teacher_server.forget()
    assert run(over_http(teacher_server, tmp_path, **fields)).calls["made"] == 0
    more = over_http(teacher_server, tmp_path, **fields | {"augment_factor": 3})
    assert run(more, on_event=heard).kept == 36
    assert len(taken) > 0
    assert all("temperature" not in call.body for call in teacher_server.calls)


def with_temperature(call: Call) -> Call:
    """What `stage_of` goes by is left out."""
    return Call(call.path, {"temperature": 0.7, **call.body}, call.headers, call.at)


@pytest.mark.parametrize(
    "refusal",
    [
        status(400, "Engine protocol predict request failed: invalid keyword"),
        status(404, "No endpoints found that can handle the requested parameters"),
        status(422, "unprocessable"),
        status(500, "failed to initialize samplers"),
    ],
)
def test_a_form_that_alone_is_refused_is_left_whatever_the_words(
    tmp_path: Path, teacher_server: TeacherServer, refusal: Act
) -> None:
    good = answering(Writer())

    def picky(call: Call) -> Act | None:
        return refusal if call.format_schema is not None or call.tool else None

    heard = Notices()
    teacher_server.set(answer=lambda call: as_json(good, call), picky=picky)
    fields = {"check_seeds": True, "recheck": "none"}
    result = run(over_http(teacher_server, tmp_path, **fields), on_event=heard)
    assert result.kept == 24
    assert result.calls["made"] == teacher_server.total
    assert len([text for text in heard.texts if "Structured output goes on" in text]) == 1


def as_json(good: Any, call: Call) -> str:
    """The writer's rows where the schema stands in the prompt alone."""
    if "JSON" not in json.dumps(call.body["messages"]):
        return str(good(call))
    return json.dumps({"examples": [{"input": f"My invoice {call.key} {n} was charged on a card"}
                                    for n in range(5)]})  # fmt: skip


def test_reasoning_gets_room_in_a_label_check(
    tmp_path: Path, teacher_server: TeacherServer
) -> None:
    good = answering(Writer())

    def picky(call: Call) -> Act | None:
        if "max_tokens" in call.body:
            return answered("", finish_reason="length", reasoning_content="hm, hm")
        return None

    teacher_server.set(answer=good, picky=picky)
    assert run(over_http(teacher_server, tmp_path, check_labels=True)).kept == 24


# Plans, and --json


@pytest.mark.parametrize("teacher", ["openai/gpt-4o", "anthropic/claude-unheard-of", "azure/mine"])
def test_a_plan_needs_no_key(tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    fields = SMALL | {"teacher": teacher, "judge": teacher}
    assert anyio.run(lambda: plan(config_in(tmp_path, **fields))).calls[1] > 0
    with pytest.raises(ConfigError, match="API"):
        run(config_in(tmp_path, **SMALL | {"teacher": "openai/gpt-4o"}))


def test_json_tells_what_is_known_when_a_run_stops(
    tmp_path: Path, teacher_server: TeacherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher_server.set(answer=answering(Writer()))
    rows = "\n".join(json.dumps(seed) for seed in SEEDS)
    (tmp_path / "seeds.jsonl").write_text(rows, encoding="utf-8")
    file = tmp_path / "run.toml"
    file.write_text(
        'name = "run"\nseed = "seeds.jsonl"\noutput_dir = "out"\nteacher = "openai/any"\n'
        'instruction = "Sort the message into its queue."\nextract_policy = false\n'
        "max_calls = 13\naugment_factor = 9\n"
        f'[litellm_kwargs]\napi_base = "{teacher_server.url}"\napi_key = "{KEY}"\n'
    )
    assert command(["synth", str(file), "--json"]) == 3
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["exit"], said["calls"]["made"]) == (3, 13)
    assert said["usage"]["completion_tokens"] > 0
    assert said["requested"] == said["kept"] + sum(said["rejected"].values()) + sum(
        said["failed"].values()
    )
    assert said["dataset"] is None
