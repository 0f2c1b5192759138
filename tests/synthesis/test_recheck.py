"""A second, blind answer: what it costs, what it measures, what becomes of the rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nanodistill.dataset.quality import quality_facts
from nanodistill.types import Request
from synthesis.runs import config_in, rejected_of, rows_of, run
from synthesis.test_structured import Ticket, ticket_seeds
from synthesis.writer import Writer, right_label

NO_THINKING = {"thinking_format": "none", "check_seeds": False}


def levels(rows: list[dict[str, Any]]) -> set[str]:
    return {dict(part.split("=", 1) for part in row["cell"].split("; "))["difficulty"]
            for row in rows}  # fmt: skip


def test_rows_that_are_not_plain_are_read_again_and_gain_confidence(tmp_path: Path) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, **NO_THINKING), teacher)
    made = [row for row in rows_of(result) if row["source"] == "synthetic"]
    checked = [row for row in made if row["confidence"] is not None]
    assert levels(checked) == {"middling", "boundary"}
    assert levels([row for row in made if row["confidence"] is None]) == {"plain"}
    n = len(checked)
    assert teacher.stages()["check"] == n
    assert n == pytest.approx(0.35 * 60, abs=2)
    assert result.dataset is not None
    found = result.dataset.manifest.recheck
    assert found is not None
    assert (found.agreed, found.of) == (n, n)
    assert found.low < 1 == found.high
    assert dict(quality_facts(result.dataset.manifest))["label noise"].startswith(f"0 of {n} ")


def test_a_row_that_reads_as_another_label_is_dropped_and_its_slot_told_why(
    tmp_path: Path,
) -> None:
    teacher = Writer(mislabels=0.3)
    result = run(config_in(tmp_path, **NO_THINKING, recheck="all"), teacher)
    assert result.kept == 72
    assert result.rejected["label_disagreement"] >= 5
    assert all(right_label(row["input"]) == row["output"] for row in rows_of(result))
    again = [request.messages[-1]["content"] for request in teacher.asked
             if "an earlier attempt was rejected" in request.messages[-1]["content"]]  # fmt: skip
    assert again
    assert all('" reads as ' in prompt for prompt in again)


def test_no_prompt_quotes_a_row_that_was_like_a_test_row(tmp_path: Path) -> None:
    leak = "The lamp from last week came in three pieces, and one of them is not ours at all."
    teacher = Writer(leaks=leak, leak_share=0.2)
    test = [{"input": leak, "output": "shipping"}]
    result = run(config_in(tmp_path, **NO_THINKING, test=test), teacher)
    assert result.rejected["contaminated"] >= 5
    assert "too close to an existing input" in teacher.prompts()
    written = [r for r in teacher.asked if r.stage in ("generate", "policy")]
    assert not any("lamp" in turn["content"] for r in written for turn in r.messages)


class Wavering(Writer):
    """Its second answers about cards are wrong, its third ones right."""

    def _check(self, request: Request, dice: random.Random) -> Any:
        text = request.messages[-1]["content"]
        return "bug" if "card" in text else self._answer(request, dice)


def test_two_of_three_answers_decide_where_the_user_wants_it(tmp_path: Path) -> None:
    fields = NO_THINKING | {"recheck": "all", "max_rounds": 1, "min_rows": 1}
    dropped = run(config_in(tmp_path / "a", **fields), Wavering())
    lost = rejected_of(dropped, "label_disagreement")
    assert lost
    assert all("card" in row["input"] for row in lost)
    kept = run(config_in(tmp_path / "b", **fields, recheck_disagreement="majority"), Wavering())
    voted = [row for row in rows_of(kept) if row["confidence"] == pytest.approx(2 / 3)]
    assert {row["input"] for row in voted} == {row["input"] for row in lost}
    assert {row["output"] for row in voted} == {"billing"}
    assert all(len(row["request_keys"]) == 3 for row in voted)


class Careless(Writer):
    """Outputs that come with its inputs have the wrong queue for parcels."""

    def _generate(self, request: Request, dice: random.Random) -> Any:
        rows = super()._generate(request, dice)
        for row in rows["examples"]:
            if row["output"]["queue"] == "shipping":
                row["output"]["queue"] = "account"
        return rows


def test_structured_outputs_are_compared_by_field(tmp_path: Path) -> None:
    fields = {"seed": ticket_seeds(Ticket), "response_model": Ticket, "check_seeds": False}
    config = config_in(tmp_path, **fields, recheck="all", max_rounds=1, min_rows=1)
    result = run(config, Careless())
    lost = rejected_of(result, "answer_disagreement")
    assert lost
    assert all(json.loads(row["output"])["queue"] == "account" for row in lost)
    assert all('differs in queue: "account" against "shipping"' in row["detail"] for row in lost)
    assert all(right_label(row["input"]) == json.loads(row["output"])["queue"]
               for row in rows_of(result) if row["source"] == "synthetic")  # fmt: skip


class Essayist(Writer):
    """Answers in free text, in other words each time; judges what comes to the same."""

    def _answer(self, request: Request, dice: random.Random) -> Any:
        label = right_label(request.messages[-1]["content"]) or "bug"
        if "number 00" in request.messages[-1]["content"]:
            label = dice.choice(["bug", "account"])
        return dice.choice(["That is for", "One would send it to", "Give it to"]) + f" {label}."

    _trace = _recheck = _answer

    def _compare(self, request: Request, dice: random.Random) -> Any:
        _, _, both = request.messages[-1]["content"].partition("First answer:")
        one, _, two = both.partition("Second answer:")
        return {"reason": "as it reads", "same": one.split()[-1] == two.split()[-1]}


def test_free_texts_in_other_words_are_put_to_a_judge(tmp_path: Path) -> None:
    teacher = Essayist()
    seeds = [{"input": f"My {word} is gone, number {n}.", "output": f"Send it to {n}."}
             for n, word in enumerate(["parcel", "invoice", "login", "error"])]  # fmt: skip
    fields = NO_THINKING | {"seed": seeds, "labels": [], "augment_factor": 10}
    result = run(config_in(tmp_path, **fields, recheck="all"), teacher)
    assert result.kept == 40
    assert 0 < teacher.stages()["compare"] < teacher.stages()["recheck"]
    assert {row["confidence"] for row in rows_of(result) if row["source"] != "seed"} == {1.0}
