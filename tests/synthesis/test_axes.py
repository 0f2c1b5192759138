"""The axes of the plan: none that is not the answer's own may tell the answer."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from nanodistill.events import ignore
from nanodistill.synthesis.axes import make_axes
from nanodistill.synthesis.coverage import Axis, Cell, iter_cells, iter_slots
from nanodistill.synthesis.policy import (
    DecisionRule,
    FieldNote,
    LabelNote,
    TaskPolicy,
    derived_policy,
)
from nanodistill.synthesis.task import Task, load_task
from synthesis.runs import Notices, config_in, run
from synthesis.writer import LABELS, Writer


def policy_of(task: Task, **lists: Any) -> TaskPolicy:
    return derived_policy(task).model_copy(update=lists)


def cells_of(task: Task, policy: TaskPolicy, n: int) -> list[dict[str, str]]:
    axes = make_axes(task, policy)
    return [dict(slot.cell.values) for slot in islice(iter_slots(axes, task), n)]


def support(folder: Path, **fields: Any) -> tuple[Task, TaskPolicy]:
    task = load_task(config_in(folder, **fields), ignore)
    notes = [LabelNote(label=label, topics=[f"{label} {n}" for n in range(5)]) for label in LABELS]
    rules = [DecisionRule(labels=["bug", "billing"], rule="A broken payment page is a bug.")]
    return task, policy_of(
        task,
        label_notes=notes,
        personas=["a shop", "a student", "a nurse"],
        styles=["terse", "chatty"],
        decision_rules=rules,
    )


def test_topics_belong_to_their_label(tmp_path: Path) -> None:
    task, policy = support(tmp_path)
    for cell in cells_of(task, policy, 200):
        assert ("topic" in cell) is (cell["difficulty"] != "boundary")
        assert cell.get("topic", cell["label"]).startswith(cell["label"])


def test_persona_style_and_length_say_nothing_of_the_label(tmp_path: Path) -> None:
    task, policy = support(tmp_path)
    cells = cells_of(task, policy, 240)
    for axis in ("persona", "style", "length", "difficulty"):
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for cell in cells:
            counts[cell[axis]][cell["label"]] += 1
        for labels in counts.values():
            assert max(labels.values()) - min(labels.values()) <= 3, (axis, counts)


def test_difficulty_is_the_stated_mix_and_a_boundary_row_names_its_neighbour(
    tmp_path: Path,
) -> None:
    mix = {"plain": 50, "boundary": 50}
    for fields, expected in (
        ({}, {"plain": 130, "middling": 40, "boundary": 30}),
        ({"difficulty_mix": mix}, {"plain": 100, "boundary": 100}),
    ):
        task, policy = support(tmp_path, **fields)
        cells = cells_of(task, policy, 200)
        found = Counter(cell["difficulty"] for cell in cells)
        assert all(abs(found[level] - n) <= 2 for level, n in expected.items())
        for cell in cells:
            assert ("neighbour" in cell) is (cell["difficulty"] == "boundary")
            assert cell.get("neighbour") != cell["label"]
            if "neighbour" in cell and cell["label"] == "bug":
                assert cell["neighbour"] == "billing", "the only one that a rule parts from it"


def test_lengths_are_ranges_around_those_of_the_seeds(tmp_path: Path) -> None:
    seeds = [
        {"input": "word " * n + label, "output": label} for n in range(4, 40) for label in "ab"
    ]
    task = load_task(config_in(tmp_path, seed=seeds, labels=["a", "b"]), ignore)
    (axis,) = [axis for axis in make_axes(task, policy_of(task)) if axis.name == "length"]
    ranges = {name: tuple(map(int, hint.split(" to ")[0:1] + hint.split(" to ")[1].split()[:1]))
              for name, hint in axis.hints.items()}  # fmt: skip
    assert ranges["short"][0] < 5
    assert ranges["long"][1] > 40
    assert ranges["short"][1] < ranges["medium"][1] < ranges["long"][1]
    assert all(high >= 1.5 * low for low, high in ranges.values())


class Event(BaseModel):
    reasoning: str
    title: str
    date: str | None
    kind: Literal["work", "private"]
    is_cancelled: bool
    guests: list[str]


def events(folder: Path) -> Task:
    seeds = [
        {
            "input": f"Event number {n}, on the {n}th, all of us",
            "output": Event(
                reasoning="So it says.",
                title=f"E{n}",
                date=f"2027-01-{n:02}",
                kind="work",
                is_cancelled=False,
                guests=[],
            ).model_dump_json(),
        }
        for n in range(1, 11)
    ]
    return load_task(config_in(folder, seed=seeds, response_model=Event), ignore)


def test_outputs_are_planned_also_what_the_seeds_never_show(tmp_path: Path) -> None:
    task = events(tmp_path)
    notes = [FieldNote(field="date", ways=["in words"], decoys=["a deadline"])]
    cells = cells_of(task, policy_of(task, field_notes=notes), 200)
    cancelled = Counter(cell["output.is_cancelled"] for cell in cells)
    assert cancelled["true"] >= 45
    assert Counter(cell["output.kind"] for cell in cells)['"private"'] >= 45
    special = {level: {cell["output"] for cell in cells if cell["difficulty"] == level}
               for level in ("plain", "middling", "boundary")}  # fmt: skip
    assert special["plain"] == {"ordinary", "date not told"}
    assert {"date vague", "date: in words", "no guests", "many guests"} <= special["middling"]
    assert special["boundary"] == {"decoy for date: a deadline"}


def test_the_users_axis_replaces_ours(tmp_path: Path) -> None:
    task, policy = support(tmp_path, axes={"topic": ["boats"], "difficulty": ["odd"]})
    for cell in cells_of(task, policy, 40):
        assert (cell["topic"], cell["difficulty"]) == ("boats", "odd")
        assert "neighbour" not in cell


def test_an_axis_that_depends_on_another_keeps_its_shares_within_it() -> None:
    axes = [
        Axis.of("kind", ["a", "b"]),
        Axis("part", {}, depends_on=("kind",), tables={("a",): {"x": 3, "y": 1}, ("b",): {}}),
    ]
    cells: list[Cell] = list(islice(iter_cells(axes, seed=0, taken={}), 80))
    assert Counter(cell.get("part") for cell in cells) == {"x": 30, "y": 10, None: 40}


class Apologetic(Writer):
    """Says sorry in every message for accounts."""

    def _message(self, label: str, dice: random.Random) -> str:
        text = super()._message(label, dice)
        return f"Sorry! {text}" if label == "account" else text


def test_a_habit_of_one_label_is_told_avoided_and_in_the_card(tmp_path: Path) -> None:
    teacher, heard = Apologetic(), Notices()
    fields = {"thinking_format": "none", "check_seeds": False, "augment_factor": 40}
    result = run(config_in(tmp_path, **fields), teacher, on_event=heard)
    assert any("account" in text and 'begins with "sorry"' in text for text in heard.texts)
    orders = [r.messages[-1]["content"] for r in teacher.asked if r.stage == "generate"]
    avoiding = [order for order in orders if 'begins with "sorry"' in order]
    assert avoiding
    assert all('right answer "account"' in order.replace("is ", "") for order in avoiding)
    assert result.dataset is not None
    card = (result.dataset.path / "README.md").read_text(encoding="utf-8")
    assert "has an exclamation mark" in card
    assert len(result.dataset.manifest.cues) >= 2


def test_what_a_few_words_have_no_room_for_is_not_ordered(tmp_path: Path) -> None:
    seeds = [{"input": "word " * n + label, "output": label} for n in (4, 9, 30) for label in "ab"]
    task, policy = support(tmp_path, seed=seeds, labels=["a", "b"])
    cells = cells_of(task, policy, 240)
    short = [cell for cell in cells if cell["length"] == "short"]
    assert short
    assert {cell["difficulty"] for cell in short} == {"plain"}
    assert {cell["persona"] for cell in short} == {cell["style"] for cell in short} == {"any"}
    assert {cell["style"] for cell in cells if cell["length"] == "long"} > {"any"}
