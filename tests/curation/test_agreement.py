"""When two answers agree, and which checks of outputs hold."""

from __future__ import annotations

from enum import StrEnum

import pytest
from pydantic import BaseModel

from nanodistill.curation.agreement import compare_answers
from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.curation.output_checks import OutputCheckFilter, usable_checks
from nanodistill.curation.response_model import Response
from nanodistill.synthesis.policy import OutputCheck
from nanodistill.types import Seed, Trace


class Kind(StrEnum):
    WORK = "work"
    PLAY = "play"


class Event(BaseModel):
    title: str
    date: str | None
    kind: Kind


def event(title: str = "Budget review of the spring", **fields: str | None) -> str:
    values = {"date": "2027-03-14", "kind": "work"} | fields
    return Event.model_validate({"title": title, **values}).model_dump_json()


@pytest.mark.parametrize(
    ("other", "whole", "different"),
    [
        (event(), "same", []),
        (event("Spring budget review"), "reworded", []),
        (event("Choir"), "different", ["title"]),
        (event(date=None), "different", ["date"]),
        (event("Spring budget review", kind="play"), "different", ["kind"]),
        ("no JSON", "different", []),
    ],
)
def test_structured_answers_are_compared_by_field(
    other: str, whole: str, different: list[str]
) -> None:
    found = compare_answers(event(), other, response=Response(Event))
    assert found.whole == whole
    assert [name for name, verdict in found.fields.items() if verdict == "different"] == different


@pytest.mark.parametrize(
    ("one", "other", "labels", "whole"),
    [
        ("Billing.", "billing", ("billing", "bug"), "same"),
        ("billing", "bug", ("billing", "bug"), "different"),
        ("neither", "neither", ("billing", "bug"), "different"),
        ("Ann: ring the bakery", "Ann: ring the bakery (today)", (), "reworded"),
        ("Ann: ring the bakery", "none", (), "different"),
        ("-1", "1", (), "different"),
    ],
)
def test_other_answers(one: str, other: str, labels: tuple[str, ...], whole: str) -> None:
    assert compare_answers(one, other, labels=labels).whole == whole


SEEDS = [Seed("Review on 14 March 2027 in B12", event("Review"))]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (OutputCheck(field="title", check="in_input"), event("REVIEW"), event("Choir")),
        (OutputCheck(field="date", check="matches", value=r"\d{4}-\d\d-\d\d"), event(date=None),
         event(date="14 March")),
        (OutputCheck(field="kind", check="one_of", value="work | none"), event(),
         event(kind="play")),
        (OutputCheck(check="matches", value=r"\{.*\}"), event("Review"), "[]"),
    ],
)  # fmt: skip
def test_checks_of_outputs(check: OutputCheck, good: str, bad: str) -> None:
    usable, dropped = usable_checks([check], SEEDS)
    assert not dropped
    step = OutputCheckFilter(usable)
    row = Trace("A review, in March", good, "synthetic")
    assert step(row) == row
    assert isinstance(step(Trace("A review", bad, "synthetic")), Rejected)


@pytest.mark.parametrize(
    "check",
    [
        OutputCheck(field="title", check="one_of", value="Choir"),
        OutputCheck(field="date", check="matches", value="(?=2027"),
    ],
)
def test_a_check_that_a_seed_breaks_or_nobody_can_read_is_not_used(check: OutputCheck) -> None:
    usable, (why,) = usable_checks([check], SEEDS)
    assert not usable
    assert check.field in why


def test_a_pattern_can_not_keep_the_run_busy() -> None:
    check = OutputCheck(check="matches", value=r"(a+)+b")
    (_, holds), = usable_checks([check], [])[0]  # fmt: skip
    assert not holds("", "a" * 100_000)
