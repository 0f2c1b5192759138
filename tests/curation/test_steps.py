"""Each step of curation by itself: what it lets through, and the reason where it doesn't."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from nanodistill.curation.contamination import ContaminationFilter
from nanodistill.curation.filter_pipeline import Filter, FilterCounts, FilterPipeline, Rejected
from nanodistill.curation.filters import (
    AssistantVoiceFilter,
    DuplicateFilter,
    LabelLeakFilter,
    LengthFilter,
    MinConfidence,
    RefusalFilter,
    RepetitionFilter,
    ResponseModelFilter,
    RoundTripFilter,
    StripWrappers,
    VerifierFilter,
    strip_wrappers,
)
from nanodistill.curation.labels import LabelInSet, find_labels, match_label
from nanodistill.curation.response_model import load_response
from nanodistill.thinking import FORMATS
from nanodistill.types import Rejection, Seed, Trace

LABELS = ("billing", "bug", "C", "C++")


def row(text: str, output: str = "x", **fields: object) -> Trace:
    return Trace(text, output, "synthetic", **fields)  # type: ignore[arg-type]


def refusal(step: Filter, trace: Trace) -> str | None:
    ended = step(trace)
    return ended.reason if isinstance(ended, Rejected) else None


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("  where IS my\nparcel, it was due on monday? ", "duplicate"),
        ("Where is my parcel? It was due on Monday!", "near_duplicate"),
        ("Where is my letter? It was sent last Friday.", None),
    ],
)
def test_duplicates(second: str, reason: str | None) -> None:
    step = DuplicateFilter(0.8)
    assert refusal(step, row("Where is my parcel, it was due on Monday?")) is None
    assert refusal(step, row(second)) == reason


def test_the_first_stays_and_is_named() -> None:
    step = DuplicateFilter(0.8)
    first = row("Where is my parcel?")
    assert step(first) == first
    assert step(row("where is my parcel?")) == Rejected("duplicate", f"the same as {first.id}")


TEST_ROW = Seed(
    "My thermostat shows 45 degrees in the living room since the last update, which is wrong.",
    "bug",
)


@pytest.mark.parametrize(
    ("text", "is_contaminated"),
    [
        (TEST_ROW.input.upper(), True),
        (TEST_ROW.input.replace("thermostat", "thermometer"), True),
        ("Hello! SHOWS 45 degrees in the living room since noon, help me out here please.", True),
        ("The thermostat is off, and the living room is cold since the update.", False),
    ],
)
def test_contamination(text: str, is_contaminated: bool) -> None:
    step = ContaminationFilter([TEST_ROW], [], 0.8)
    assert refusal(step, row(text)) == ("contaminated" if is_contaminated else None)


def test_wording_that_the_seeds_share_is_no_contamination() -> None:
    opening = "Read the following customer message with care and sort it: "
    seeds = [Seed(f"{opening}{text}", "bug") for text in ("it crashes", "it freezes")]
    test = [Seed(f"{opening}the invoice has the wrong address on it", "billing")]
    trace = row(f"{opening}my parcel came back to you without any reason given")
    assert refusal(ContaminationFilter(test, seeds, 0.8), trace) is None
    assert refusal(ContaminationFilter(test, seeds[:1], 0.8), trace) == "contaminated"


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (["a", "b", "a", "b"], ("a", "b")),
        (["yes", "no", "yes "], ()),
        (["4", "8", "50"], ()),
        (["same", "same"], ()),
        (['{"a": 1}', '{"a": 2}'] * 2, ()),
        (["one two three four five six", "no"] * 2, ()),
    ],
)
def test_labels_are_found_where_outputs_are_few_and_short(
    outputs: list[str], labels: tuple[str, ...]
) -> None:
    assert find_labels([Seed(f"input {n}", out) for n, out in enumerate(outputs)]) == labels


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("billing", "billing"),
        (" Billing.", "billing"),
        ("**billing**", "billing"),
        ('"BUG"', "bug"),
        ("Answer: bug", "bug"),
        ("The category is billing.", "billing"),
        ("C++", "C++"),
        ("c", "C"),
        ("billing or bug", None),
        ("a bug", None),
        ("", None),
    ],
)
def test_a_label_is_read_out_of_an_answer(answer: str, label: str | None) -> None:
    assert match_label(answer, LABELS) == label


def test_a_label_is_written_as_the_set_writes_it() -> None:
    step = LabelInSet(LABELS)
    assert step(row("x", "Bug.")) == row("x", "bug")
    assert refusal(step, row("x", "refund")) == "not_a_label"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('"My parcel is late."', "My parcel is late."),
        ("Message: My parcel is late.", "My parcel is late."),
        ("Here's another example:\n“My parcel is late.”", "My parcel is late."),
        ("**Customer message:** My parcel is late.", "My parcel is late."),
        ("My parcel is late.\nAssistant: Sorry!", "My parcel is late."),
        ("My parcel is late.<|im_end|>", "My parcel is late."),
        ('He said "late" and "lost"', 'He said "late" and "lost"'),
        ("The error: it crashes", "The error: it crashes"),
        ("Question 5 has a typo: please mend it", "Question 5 has a typo: please mend it"),
    ],
)
def test_tidying_takes_off_what_models_wrap_round_an_input(text: str, clean: str) -> None:
    assert strip_wrappers(text) == clean
    assert strip_wrappers(clean) == clean


def test_an_input_without_words_is_empty() -> None:
    assert refusal(StripWrappers(), row(' "…" ')) == "empty_input"


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I'm unable to assist you with that.", True),
        ("I can’t help with that request.", True),
        ("As an AI, I have no parcels.", True),
        ("I'm sorry, but I can't sign in to my account any more.", False),
        ("You are unable to deliver on Mondays? Please help me.", False),
        ("Nobody could help me on the phone.", False),
    ],
)
def test_refusals(text: str, refuses: bool) -> None:
    assert refusal(RefusalFilter(), row(text)) == ("refusal" if refuses else None)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm an AI designed to help with your papers.", True),
        ("I’m sorry for any inconvenience. How can I assist you today?", True),
        ("We are here to help with account setup.", True),
        ("I am sorry to write again, but nobody could help me.", False),
        ("Can you help me? I need any help I can get.", False),
    ],
)
def test_the_voice_of_an_assistant(text: str, refuses: bool) -> None:
    assert refusal(AssistantVoiceFilter(), row(text)) == ("assistant_voice" if refuses else None)


def test_loops() -> None:
    stuck = "I want to delete my account " * 3
    assert refusal(RepetitionFilter(), row(stuck)) == "loop"
    assert (
        refusal(RepetitionFilter(), row("very very very very slow, it was very very slow")) is None
    )


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("My parcel is late. Category: billing", True),
        ("The answer is bug, I guess.", True),
        ("Write a new one. My parcel is late.", True),
        ("The bug in your billing page is back.", False),
    ],
)
def test_leaks(text: str, leaks: bool) -> None:
    step = LabelLeakFilter(LABELS, ["write a new one"])
    assert refusal(step, row(text)) == ("leak" if leaks else None)


def test_an_input_is_too_long_by_the_measure_of_the_seeds() -> None:
    step = LengthFilter.of([Seed("word " * 30, "x")])
    assert refusal(step, row("word " * 90)) is None
    assert refusal(step, row("word " * 91)) == "too_long"
    assert refusal(LengthFilter.of([Seed("short", "x")]), row("word " * 60)) is None


class Ticket(BaseModel):
    queue: str
    hours: int


def test_a_response_is_checked_and_written_the_models_way() -> None:
    response = load_response(Ticket)
    assert response is not None
    step = ResponseModelFilter(response)
    given = '{"hours": "3",\n "queue": "bug"}'
    assert step(row("x", given)) == row("x", '{"queue":"bug","hours":3}')
    seed = Trace("x", given, "seed")
    assert step(seed) == seed
    ended = step(row("x", '{"queue": "bug"}'))
    assert ended == Rejected("invalid_output", "hours: Field required")
    assert refusal(step, row("x", "bug")) == "invalid_output"


def test_what_would_not_read_back_the_same_is_unrenderable() -> None:
    step = RoundTripFilter(FORMATS["plain"])
    assert refusal(step, row("x", "a\n\nb", thinking="why")) == "unrenderable"
    assert refusal(step, row("x", "a", thinking="why\n\nand why")) is None
    assert refusal(RoundTripFilter(FORMATS["none"]), row("x", "a\n\nb")) is None


@pytest.mark.parametrize(
    ("verdict", "detail"),
    [(True, None), (False, "returned false"), ("odd", "odd"), (None, "returned false")],
)
def test_a_verifier_says_true_false_or_why(verdict: object, detail: str | None) -> None:
    ended = VerifierFilter(lambda text, output: verdict)(row("x"))
    assert ended == (row("x") if detail is None else Rejected("verifier", detail))


def test_confidence_is_held_against_a_row_only_where_it_was_measured() -> None:
    step = MinConfidence(0.6)
    assert refusal(step, row("x")) is None
    assert refusal(step, row("x", confidence=0.6)) is None
    assert refusal(step, row("x", confidence=0.59)) == "low_confidence"


def test_a_sieve_stops_at_the_first_refusal_and_counts() -> None:
    counts = FilterCounts()
    sieve = FilterPipeline([StripWrappers(), RepetitionFilter(), DuplicateFilter(0.8)], counts)
    assert sieve(row('"once"')) == row("once")
    assert isinstance(sieve(row("once")), Rejection)
    assert isinstance(sieve(row("!")), Rejection)
    assert counts.reached == {"tidy": 3, "loops": 2, "duplicates": 2}
    assert {step: dict(reasons) for step, reasons in counts.dropped.items()} == {
        "tidy": {"empty_input": 1},
        "duplicates": {"duplicate": 1},
    }
