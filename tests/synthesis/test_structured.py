"""Batches by schema, traces, votes, verifiers: a teacher that follows instructions."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from nanodistill.errors import ConfigError, LowSeedAgreementError, TooFewRowsError
from nanodistill.synthesis.task import load_task
from nanodistill.thinking import FORMATS
from nanodistill.types import Completion, Request, Usage
from synthesis.runs import Notices, config_in, judge, rejected_of, rows_of, run
from synthesis.writer import LABELS, SEEDS, Writer, message, right_label


def test_every_row_has_a_trace_in_the_thinking_format(tmp_path: Path) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path), teacher)
    rows = rows_of(result)
    assert result.kept == len(rows) == 72
    for row in rows:
        assert row["thinking"]
        said = row["messages"][-1]["content"]
        assert FORMATS["xml"].parse(said) == (row["thinking"], row["output"])
    assert Counter(row["output"] for row in rows) == dict.fromkeys(LABELS, 18)
    assert teacher.stages() == {"blind": 12, "policy": 1, "generate": 12, "trace": 60}


def test_no_prompt_for_a_trace_shows_the_answer(tmp_path: Path) -> None:
    teacher = Writer()
    run(config_in(tmp_path), teacher)
    for request in teacher.asked:
        if request.stage in ("trace", "blind"):
            assert [turn["role"] for turn in request.messages] == ["system", "user"]
            assert not any(label in request.messages[1]["content"] for label in LABELS)


def test_the_card_lists_the_steps_in_order_and_the_prompts_that_were_used(tmp_path: Path) -> None:
    result = run(config_in(tmp_path, extract_policy=False), Writer(repeats=0.2))
    assert result.dataset is not None
    manifest = result.dataset.manifest
    steps = [step.stage for step in manifest.stages]
    assert steps[:3] == ["parsing", "text", "tidy"]
    assert steps.index("duplicates") < steps.index("answers") < steps.index("label in set")
    assert "judge" not in steps
    refused = {step.stage: step.refused for step in manifest.stages}
    assert refused["duplicates"] == sum(result.rejected.values())
    prompts = {"cot_system", "synthetic_generation_system", "generation call"}
    assert manifest.prompts.keys() == prompts


def test_each_cell_gets_its_quota_and_its_account(tmp_path: Path) -> None:
    teacher = Writer(short=0.3, broken=0.1, repeats=0.1)
    result = run(config_in(tmp_path), teacher)
    axes = {"label": 4, "length": 3, "style": 3}
    cells = Counter(row["cell"] for row in rows_of(result) if row["cell"])
    assert sum(cells.values()) == 60
    for axis, n in axes.items():
        counts = Counter(
            dict(p.split("=", 1) for p in cell.split("; "))[axis] for cell in cells.elements()
        )
        assert len(counts) == n
        free = counts.pop("any", 0)
        assert free == (pytest.approx(30, abs=3) if axis == "style" else 0)
        if axis == "length":  # as the quartiles of the seeds are
            counts["medium"] //= 2
        assert max(counts.values()) - min(counts.values()) <= 8
    levels = Counter(dict(p.split("=", 1) for p in cell.split("; "))["difficulty"]
                     for cell in cells.elements())  # fmt: skip
    shares = {"plain": 0.65, "middling": 0.2, "boundary": 0.15}
    assert all(abs(levels[level] - 60 * share) <= 2 for level, share in shares.items())
    assert result.rejected["missing"] > 0
    assert result.rejected["malformed"] > 0
    assert all(row["input"] == "" for row in rejected_of(result, "missing"))
    for name, tally in result.by_cell.items():
        assert tally.kept == cells[name] or name == ""


def test_calls_are_told_what_to_keep_away_from_once_a_round_is_complete(tmp_path: Path) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, augment_factor=50, thinking_format="none"), teacher)
    generate = [r for r in teacher.asked if r.stage == "generate"]
    told = [r for r in generate if "written already" in r.messages[-1]["content"]]
    assert result.kept == 600
    assert 0.4 < len(told) / len(generate) < 0.8
    assert all("written already" not in r.messages[-1]["content"] for r in generate[:51])


def test_without_coverage_every_call_is_alike_and_the_teacher_names_the_label(
    tmp_path: Path,
) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, coverage=False), teacher)
    rows = rows_of(result)
    assert {row["cell"] for row in rows} == {""}
    assert all(right_label(row["input"]) == row["output"] for row in rows)
    orders = [r.messages[-1]["content"] for r in teacher.asked if r.stage == "generate"]
    assert not any("right answer" in order or "written already" in order for order in orders)


def test_without_coverage_and_thinking_the_label_comes_with_the_input(tmp_path: Path) -> None:
    teacher = Writer(mislabels=0.3)
    fields: dict[str, Any] = {"coverage": False, "thinking_format": "none"}
    result = run(config_in(tmp_path / "plain", **fields), teacher)
    assert result.kept == 72
    assert any(right_label(row["input"]) != row["output"] for row in rows_of(result))
    assert teacher.stages()["trace"] == 0
    checked = run(config_in(tmp_path / "checked", **fields, check_labels=True), teacher)
    assert checked.rejected["label_disagreement"] >= 10
    assert all(right_label(row["input"]) == row["output"] for row in rows_of(checked))


def test_axes_of_the_user_come_with_their_weights(tmp_path: Path) -> None:
    axes = {"label": {"bug": 3, "billing": 1}, "topic": ["boats", "trains"], "mood": ["glad"]}
    result = run(config_in(tmp_path, axes=axes), Writer())
    cells = [row["cell"] for row in rows_of(result) if row["cell"]]
    labels = Counter(cell.split("; ")[0] for cell in cells)
    assert abs(labels["label=bug"] + 3 - 0.75 * (60 + 6)) <= 1, "3 to 1 with the 3 seeds of each"
    assert labels.keys() == {"label=bug", "label=billing"}
    assert all("mood=glad" in cell for cell in cells)
    assert {cell.split("topic=")[1].split(";")[0] for cell in cells} == {"boats", "trains"}


def test_votes_give_the_answer_and_the_confidence(tmp_path: Path) -> None:
    teacher = Writer(wrong=0.25)
    config = config_in(tmp_path, samples_per_input=5, min_confidence=0.7, check_labels=True)
    result = run(config, teacher)
    made = [row for row in rows_of(result) if row["source"] == "synthetic"]
    assert {row["confidence"] for row in made} <= {0.8, 1.0}
    assert all(right_label(row["input"]) == row["output"] for row in made)
    assert result.rejected["low_confidence"] > 0
    assert all(row["confidence"] is None for row in rows_of(result) if row["source"] == "seed")
    assert all(len(row["request_keys"]) == 6 for row in made)


def test_without_votes_no_confidence_is_claimed(tmp_path: Path) -> None:
    result = run(config_in(tmp_path, recheck="none"), Writer())
    assert {row["confidence"] for row in rows_of(result)} == {None}


def test_reasoning_beside_the_answer_is_the_thinking(tmp_path: Path) -> None:
    result = run(config_in(tmp_path), Writer(reasoning=True))
    rows = rows_of(result)
    assert all(row["thinking"] == f"Beside it: {row['output']}." for row in rows)
    assert result.dataset is not None
    assert any("own reasoning" in note for note in result.dataset.manifest.notes)


def test_a_seed_keeps_its_output_and_gets_an_explanation_where_the_teacher_differs(
    tmp_path: Path,
) -> None:
    heard = Notices()
    odd = [*SEEDS, {"input": "My invoice and my refund for the card.", "output": "shipping"}]
    teacher = Writer()
    result = run(config_in(tmp_path, seed=odd), teacher, on_event=heard)
    (row,) = [row for row in rows_of(result) if row["input"] == odd[-1]["input"]]
    assert row["output"] == "shipping"
    assert row["thinking"] == "One can see it from the words."
    assert teacher.stages()["rationalize"] == 1
    assert any("agrees on 12 of 13 seeds (95%: 67% to 99%)" in text for text in heard.texts)
    assert any("yours 'shipping'" in text for text in heard.texts)


def test_a_seeds_output_stays_as_the_user_wrote_it(tmp_path: Path) -> None:
    loud = [seed | {"output": seed["output"].upper() + "."} for seed in SEEDS]
    result = run(config_in(tmp_path, seed=loud, labels=LABELS), Writer())
    seeds = [row for row in rows_of(result) if row["source"] == "seed"]
    assert {row["output"] for row in seeds} == {seed["output"] for seed in loud}
    assert all("Its words are those of" in row["thinking"] for row in seeds)


@pytest.mark.parametrize("checks", [True, False])
def test_what_reads_as_another_label_is_refused_or_called_by_it(
    tmp_path: Path, checks: bool
) -> None:
    config = config_in(tmp_path, check_labels=checks, recheck="none")
    result = run(config, Writer(mislabels=0.3))
    made = [row for row in rows_of(result) if row["source"] == "synthetic"]
    strays = [row for row in made if f"label={row['output']}" not in row["cell"]]
    assert all(right_label(row["input"]) == row["output"] for row in made)
    assert ("label_disagreement" in result.rejected) is checks
    assert bool(strays) is not checks


def test_a_teacher_that_misses_the_seeds_is_stopped_before_it_costs(tmp_path: Path) -> None:
    teacher = Writer(wrong=0.6)
    with pytest.raises(LowSeedAgreementError, match="At least 90% were wanted"):
        run(config_in(tmp_path, min_teacher_agreement=0.9), teacher)
    assert teacher.stages() == {"blind": 12}


def test_seeds_that_do_not_become_rows_are_said(tmp_path: Path) -> None:
    heard = Notices()
    config = config_in(tmp_path, verifier=lambda text, _: "number 00" not in text)
    result = run(config, Writer(), on_event=heard)
    assert result.kept == 72
    told = "1 of 12 seeds do not become rows (verifier 1); prompts show them."
    assert told in heard.texts


def test_the_users_verifier_has_its_say(tmp_path: Path) -> None:
    def verifier(text: str, output: str) -> Any:
        if "kettle" in text:
            raise ValueError("no kettles")
        return "a desk" if "desk" in text else True

    result = run(config_in(tmp_path, verifier=verifier), Writer())
    assert result.kept == 72
    details = {row["detail"] for row in rejected_of(result, "verifier")}
    assert details == {"a desk", "raised ValueError: no kettles"}
    assert not any("desk" in row["input"] or "kettle" in row["input"] for row in rows_of(result))


def test_a_judge_is_asked_about_each_row_by_its_own_model(tmp_path: Path) -> None:
    teacher = Writer(wrong=0.3)
    config = config_in(tmp_path, judge="python:synthesis.runs:judge", judge_rubric="Is it right?")
    result = run(config, teacher)
    assert result.kept == 72
    assert result.rejected["judge"] > 5
    made = [row for row in rows_of(result) if row["source"] == "synthetic"]
    assert all(right_label(row["input"]) == row["output"] for row in made)
    assert "judge" not in teacher.stages()


def test_the_users_parameters_go_with_the_calls_of_every_stage(tmp_path: Path) -> None:
    teacher = Writer(wrong=0.3)
    own = {"top_p": 0.5, "temperature": 0.1}
    judged = {"judge": "python:synthesis.runs:judge", "judge_rubric": "Is it right?"}
    already = len(judge.asked)
    run(config_in(tmp_path, litellm_kwargs=own, **judged), teacher)
    asked = [*teacher.asked, *judge.asked[already:]]
    stages = {request.stage for request in asked}
    assert stages == {"blind", "rationalize", "policy", "generate", "trace", "judge"}
    assert all(own.items() <= dict(request.params).items() for request in asked)


def test_a_judge_that_can_not_be_used_is_named_as_the_judge(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="judge: LiteLLM knows no provider for 'nobody/x'"):
        run(config_in(tmp_path, judge="nobody/x", judge_rubric="Is it right?"), Writer())


class Ticket(BaseModel):
    reasoning: str
    queue: str
    urgent: bool


class Bare(BaseModel):
    queue: str
    urgent: bool


def ticket_seeds(model: type[BaseModel]) -> list[dict[str, str]]:
    fields = {"reasoning": "By its words.", "urgent": False}
    return [
        {
            "input": seed["input"],
            "output": model.model_validate(fields | {"queue": seed["output"]}).model_dump_json(),
        }
        for seed in SEEDS
    ]


def test_a_response_model_with_its_own_reasoning_needs_no_second_call(tmp_path: Path) -> None:
    teacher = Writer()
    fields = {"seed": ticket_seeds(Ticket), "response_model": Ticket, "recheck": "none"}
    result = run(config_in(tmp_path, **fields), teacher)
    assert result.kept == 72
    assert teacher.stages().keys() == {"blind", "policy", "generate"}
    for row in rows_of(result):
        assert Ticket.model_validate_json(row["output"]).reasoning
        assert row["messages"][-1]["content"] == row["output"]
    assert result.dataset is not None
    assert result.dataset.manifest.thinking_format == "none"
    assert result.dataset.manifest.response_schema == Ticket.model_json_schema()


def test_other_response_models_are_answered_in_a_call_of_their_own(tmp_path: Path) -> None:
    teacher = Writer()
    config = config_in(tmp_path, seed=ticket_seeds(Bare), response_model=Bare, samples_per_input=3)
    result = run(config, teacher)
    rows = rows_of(result)
    assert result.kept == 72
    assert all(json.loads(row["output"]).keys() == {"queue", "urgent"} for row in rows)
    assert all(row["thinking"] for row in rows)
    assert {row["confidence"] for row in rows if row["source"] == "synthetic"} == {1.0}


def test_too_few_rows_make_no_version(tmp_path: Path) -> None:
    with pytest.raises(TooFewRowsError, match="rows were kept of 72 requested") as stopped:
        run(config_in(tmp_path, min_rows=40, max_rounds=1), Writer(repeats=0.99))
    assert stopped.value.exit_code == 3
    assert not (tmp_path / "run" / "datasets").exists()


def test_a_preview_makes_calls_of_the_whole_run(tmp_path: Path) -> None:
    teacher = Writer(repeats=0.1, short=0.2)
    preview = run(config_in(tmp_path), teacher, limit=7)
    assert len(preview.preview) == 7
    assert preview.dataset is None
    asked_first = len(teacher.asked)
    assert teacher.stages()["generate"] <= 4
    whole = run(config_in(tmp_path), teacher)
    assert len({request.key for request in teacher.asked}) == len(teacher.asked)
    assert whole.calls["reused"] == asked_first - 1, "the policy is taken from its file"
    assert {row.input for row in preview.preview} <= {row["input"] for row in rows_of(whole)}


class Cut(Writer):
    """Its longer batches break off."""

    def _generate(self, request: Request, dice: random.Random) -> Any:
        rows = super()._generate(request, dice)
        if len(rows["examples"]) < 3:
            return rows
        return Completion(json.dumps(rows)[:-30], "length", Usage(1, 1))


def test_a_batch_that_broke_off_keeps_its_whole_rows(tmp_path: Path) -> None:
    result = run(config_in(tmp_path), Cut())
    assert result.kept == 72
    assert result.failed == {}
    assert result.rejected.keys() == {"missing"}
    assert result.rejected["missing"] >= 12


class Dashes:
    """A parser for answers that list inputs behind dashes."""

    def parse_synthetic_examples(self, text: str) -> list[dict[str, str]]:
        return [{"input": line[2:]} for line in text.splitlines() if line.startswith("- ")]


class Lister(Writer):
    """It lists what it writes, and does not do JSON."""

    def _generate(self, request: Request, dice: random.Random) -> Any:
        assert request.schema is None
        (label,) = re.findall(r'right answer (?:is )?"(\w+)"', request.messages[-1]["content"])
        return "Sure:\n" + "\n".join(f"- {message(label, dice)}" for _ in range(5))


def test_the_users_parser_reads_answers_that_are_asked_for_as_text(tmp_path: Path) -> None:
    result = run(config_in(tmp_path, response_parser=Dashes, examples_per_call=5), Lister())
    assert result.kept == 72
    assert not result.rejected.keys() - {"duplicate", "near_duplicate"}


def test_the_users_prompts_are_what_the_teacher_reads(tmp_path: Path) -> None:
    teacher = Writer()
    config = config_in(
        tmp_path,
        custom_cot_system_prompt="Reason like a clerk. Do {instruction} and {answer_form}",
        custom_synthetic_generation_prompt="Write like a poet.",
        custom_policy_extraction_prompt="Look closely.",
    )
    run(config, teacher)
    systems = {request.stage: request.messages[0]["content"] for request in teacher.asked}
    assert systems["trace"].startswith("Reason like a clerk. Do Sort the customer")
    assert systems["generate"].startswith("Write like a poet.\n\nThe inputs are for this task:")
    assert systems["policy"].startswith("Look closely.")
    assert "You write inputs" not in teacher.prompts()


@pytest.mark.parametrize(("words", "rows"), [(20, 10), (200, 7), (4000, 1)])
def test_calls_ask_for_fewer_rows_where_seeds_are_long(
    tmp_path: Path, words: int, rows: int
) -> None:
    seeds = [{"input": "word " * words + str(n), "output": "yes"} for n in range(3)]
    config = config_in(tmp_path, seed=seeds, labels=["yes", "no"], examples_per_call=None)
    assert load_task(config, Notices()).rows_per_call == rows
