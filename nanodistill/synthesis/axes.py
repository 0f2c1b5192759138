"""Which axes a run's plan has.

The axes obey one rule: what varies besides the answer is independent of the answer or belongs to
it. A label has topics of its own, so that "billing" is never ordered about passwords; persona,
style and length come with every answer alike, so that none of them can predict it.

Difficulty is a stated mix. A plain row is an ordinary case; a middling one takes a second look; a
boundary row comes close to another answer, names it, and is decided by a rule.

Outputs are planned too: values of enums and booleans, which optional fields are missing and why,
lengths of lists, decoys, and for free text the kinds of answers.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanodistill.curation.labels import match_label
from nanodistill.curation.minhash import words_of
from nanodistill.curation.response_model import Response
from nanodistill.errors import ConfigError, Problem
from nanodistill.synthesis.coverage import LABEL, NO_HINTS, OUTPUT, Axis
from nanodistill.synthesis.policy import TaskPolicy
from nanodistill.synthesis.task import Task
from nanodistill.types import Seed
from nanodistill.values import as_value

DIFFICULTY, NEIGHBOUR, LENGTH = "difficulty", "neighbour", "length"
PLAIN, MIDDLING, BOUNDARY = "plain", "middling", "boundary"

Tables = Mapping[tuple[str, ...], Mapping[str, float]]

MOST_VALUE_AXES = 3
"""Enum and boolean fields whose values are ordered. With more of them, rows have to meet so many
conditions at once that a teacher writes lists of conditions instead of texts."""
MOST_VALUES = 12
"""Values of an enum that is planned; of a larger one the teacher chooses."""
ROOMY, ROOMY_FOR_PERSONA = 10, 16
"""Words that a range of length has to reach for a boundary or middling row, or a style; and for a
persona. Asked for "chatty, by someone new to the country" in 3 to 8 words, a teacher drops two of
the three."""
NARROWEST = 1.6
"""Upper end over lower end of a range of words, at least: a narrower one makes teachers count."""
SHORTER = 2.0
"""How far the ranges of length reach below the shortest seed. People who write seeds write whole
sentences; most real inputs are shorter than theirs."""
ANY = "any"
"""The value of an axis that asks for nothing."""
FREE_SHARE = 0.5
"""Share of rows without a persona, and without a style. With both on every row, a capable teacher
wrote about the person and in the manner more than about the matter."""


def make_axes(task: Task, policy: TaskPolicy) -> list[Axis]:
    """The axes of the plan, the label first. The user's axes replace ours of the same name.

    Without coverage there are none, and every call is alike.
    """
    if not task.config.coverage:
        return []
    own = {axis.name: axis for axis in _axes(task, policy)}
    hints = {LABEL: label_hints(task, policy)}
    users = {
        name: Axis.of(name, values, hints.get(name, NO_HINTS))
        for name, values in task.config.axes.items()
    }
    return sorted((own | users).values(), key=lambda axis: axis.name != LABEL)


def untold_meanings(task: Task, policy: TaskPolicy) -> Mapping[str, str]:
    """What labels mean, where the instruction does not say it in the same words."""
    hints = label_hints(task, policy)
    told = set(words_of(task.instruction))
    return {} if all(told.issuperset(words_of(hint)) for hint in hints.values()) else hints


def label_hints(task: Task, policy: TaskPolicy) -> Mapping[str, str]:
    """What each label means, as prompts say it: the user's words, else the policy's."""
    found = {
        label: f"{label} ({note.meaning.strip()})"
        for note in policy.label_notes
        if (label := match_label(note.label, task.labels)) is not None and note.meaning.strip()
    }
    return found | dict(task.label_hints)


def _axes(task: Task, policy: TaskPolicy) -> Iterator[Axis]:
    if task.labels:
        yield Axis.of(LABEL, task.labels, label_hints(task, policy))
    if task.config.generation == "structured":
        yield Axis.of(DIFFICULTY, task.config.difficulty_mix)
    yield from _topics(task, policy)
    if task.config.generation == "structured":
        if task.labels:
            yield _neighbours(task, policy)
        elif task.response is not None:
            yield from output_axes(task.response, task.seeds, policy)
        elif policy.output_kinds:
            yield Axis.of(OUTPUT, _distinct(policy.output_kinds))
    ranges = _length_ranges(task.seeds)
    if task.config.generation == "structured":
        yield _lengths(ranges)
    for name, values, room in (
        ("persona", policy.personas, ROOMY_FOR_PERSONA),
        ("style", policy.styles, ROOMY),
    ):
        if distinct := _distinct(values):
            each = (1 - FREE_SHARE) / len(distinct)
            weights = dict.fromkeys(distinct, each) | {ANY: FREE_SHARE}
            tight: Tables = {
                (length,): {ANY: 1.0} for length, (_, end) in ranges.items() if end < room
            }
            yield Axis(name, weights, {ANY: ""}, (LENGTH,), tight)


def _distinct(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))


def _topics(task: Task, policy: TaskPolicy) -> Iterator[Axis]:
    by_label: dict[tuple[str, ...], Mapping[str, float]] = {}
    for note in policy.label_notes:
        if (label := match_label(note.label, task.labels)) is not None:
            topics = dict.fromkeys(_distinct(note.topics), 1.0)
            # A boundary row's subject is what lies between two labels; a topic would be a third.
            by_label |= {(label, level): topics for level in ("", PLAIN, MIDDLING)}
            by_label[label, BOUNDARY] = {}
    shared = dict.fromkeys(_distinct(policy.topics), 1.0)
    if by_label:
        yield Axis("topic", shared, depends_on=(LABEL, DIFFICULTY), tables=by_label)
    elif shared:
        yield Axis("topic", shared)


def _neighbours(task: Task, policy: TaskPolicy) -> Axis:
    """The label that a boundary row comes close to: one that a rule parts from it, if any."""
    tables: dict[tuple[str, ...], Mapping[str, float]] = {}
    for label in task.labels:
        others = [other for other in task.labels if other != label]
        ruled = [other for other in others if rules_between(task, policy, label, other)]
        tables[label, BOUNDARY] = dict.fromkeys(ruled or others, 1.0)
    return Axis(NEIGHBOUR, {}, depends_on=(LABEL, DIFFICULTY), tables=tables)


def rules_between(task: Task, policy: TaskPolicy, one: str, other: str) -> list[str]:
    """The policy's rules that decide between two labels."""
    return [
        rule.rule
        for rule in policy.decision_rules
        if {one, other} <= {match_label(label, task.labels) for label in rule.labels}
    ]


def _length_ranges(seeds: Sequence[Seed]) -> Mapping[str, tuple[float, float]]:
    """Three ranges of words around the seeds' quartiles."""
    lengths = sorted(len(words_of(seed.input)) for seed in seeds)
    low, _, high = (
        statistics.quantiles(lengths, n=4, method="inclusive") if len(lengths) > 1 else lengths * 3
    )
    ranges = {
        "short": (lengths[0] / SHORTER, low),
        "medium": (low, high),
        "long": (high, lengths[-1]),
    }
    return {name: _at_least(NARROWEST, *ends) for name, ends in ranges.items()}


SHARES_OF_LENGTHS = {"short": 1.0, "medium": 2.0, "long": 1.0}
"""As the quartiles are."""


def _lengths(ranges: Mapping[str, tuple[float, float]]) -> Axis:
    """Lengths, of which rows that are not plain take those with some room."""
    hints = {name: f"{low:.0f} to {high:.0f} words" for name, (low, high) in ranges.items()}
    roomy = {
        name: SHARES_OF_LENGTHS[name]
        for name, (_, end) in ranges.items()
        if name == "long" or end >= ROOMY
    }
    tables: Tables = {(MIDDLING,): roomy, (BOUNDARY,): roomy}
    return Axis(LENGTH, SHARES_OF_LENGTHS, hints, (DIFFICULTY,), tables)


def _at_least(ratio: float, low: float, high: float) -> tuple[float, float]:
    """A range around the same middle whose ends are that far apart, at least."""
    middle = math.sqrt(max(1.0, low) * max(1.0, high))
    wide = max(math.sqrt(ratio), math.sqrt(high / max(1.0, low)))
    return max(1.0, middle / wide), max(3.0, middle * wide)


def output_axes(response: Response, seeds: Sequence[Seed], policy: TaskPolicy) -> Iterator[Axis]:
    """What the outputs of a response model are to hold.

    An axis for each of the first enum and boolean fields, and one that says for each row what is
    special about its output: nothing, a field that is missing, an unusual expression, a decoy.
    """
    fields = response.fields()
    outputs = [as_value(seed.output, otherwise=None) for seed in seeds]
    outputs = [output for output in outputs if isinstance(output, dict)]
    values = [name for name, field in fields.items() if 1 < len(field.values) <= MOST_VALUES]
    for name in values[:MOST_VALUE_AXES]:
        yield _value_axis(name, fields[name].values, outputs)
    yield _special_axis(fields, outputs, policy)


def _value_axis(name: str, values: Sequence[Any], outputs: Sequence[Mapping[str, Any]]) -> Axis:
    """Half as often as in the seeds, half evenly: a rare value still comes often enough."""
    written = [json.dumps(value, ensure_ascii=False) for value in values]
    found = Counter(json.dumps(output.get(name), ensure_ascii=False) for output in outputs)
    seen = sum(found[value] for value in written)
    shares = {
        value: 0.5 / len(written) + (0.5 * found[value] / seen if seen else 0.5 / len(written))
        for value in written
    }
    hints = {value: f"`{name}` is {value}" for value in written}
    return Axis(f"{OUTPUT}.{name}", shares, hints)


MISSING = {
    "not told": "`{field}` is null: nothing in the input tells it",
    "vague": "`{field}` is null: the input tells it too vaguely for a value",
}
DECOY = "decoy for {field}"


def _special_axis(
    fields: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]], policy: TaskPolicy
) -> Axis:
    hints: dict[str, str] = {"ordinary": ""}
    plain: dict[str, float] = {}
    middling: dict[str, float] = {}
    boundary: dict[str, float] = {}
    notes = {note.field: note for note in policy.field_notes if note.field in fields}
    for name, field in fields.items():
        if field.nullable:
            missing = sum(output.get(name) is None for output in outputs)
            plain[f"{name} not told"] = (missing + 0.5) / (len(outputs) + 1)
            middling[f"{name} vague"] = 1.0
            hints[f"{name} not told"] = MISSING["not told"].format(field=name)
            hints[f"{name} vague"] = MISSING["vague"].format(field=name)
        if field.is_list:
            for count, text in (("no", "is empty"), ("one", "has one entry"), ("many", "has many")):
                middling[f"{count} {name}"] = 1 / 3
                hints[f"{count} {name}"] = f"`{name}` {text}"
        # The value of an enum or a boolean is ordered; a way of expressing it would order another.
        ways = _distinct(notes[name].ways) if name in notes and not field.values else ()
        for way in ways:
            middling[f"{name}: {way}"] = 1 / len(ways)
            hints[f"{name}: {way}"] = f"`{name}` is expressed as: {way}"
        decoys = _distinct(notes[name].decoys) if name in notes else ()
        if decoys or field.nullable:
            for decoy in decoys or ("",):
                value = f"{DECOY.format(field=name)}: {decoy}".removesuffix(": ")
                boundary[value] = 1 / max(1, len(decoys))
                what = f": {decoy}" if decoy else ""
                hints[value] = f"the input tempts to a wrong value of `{name}`{what}"
    told = sum(plain.values())
    plain["ordinary"] = max(0.25, 1 - told)
    tables: Tables = {
        (PLAIN,): plain if told else {},
        (MIDDLING,): middling,
        (BOUNDARY,): boundary,
    }
    return Axis(OUTPUT, {}, hints, (DIFFICULTY,), tables)


def check_plan(task: Task) -> None:
    """See that there can be enough rows, and that the user's axes can be planned with.

    Raises:
        ConfigError: with everything that is wrong.
    """
    labels, problems = task.labels, []
    if task.wanted < task.config.min_rows:
        what = f"is {task.config.min_rows}, and no more than {task.wanted} rows are wanted"
        problems.append(Problem("min_rows", what))
    if task.config.axes and not task.config.coverage:
        problems.append(Problem("axes", "have no effect with coverage = false; leave one of them"))
    for name, values in task.config.axes.items():
        axis = Axis.of(name, values)
        if not axis.weights:
            problems.append(Problem(f"axes.{name}", "has no values"))
        elif min(axis.weights.values()) < 0 or not sum(axis.weights.values()) > 0:
            problems.append(Problem(f"axes.{name}", "has weights that are negative, or all zero"))
        if name == LABEL and not labels:
            what = "weighs labels, but the outputs are open; name the closed set in `labels`"
            problems.append(Problem(f"axes.{name}", what))
        elif name == LABEL and (unknown := set(axis.weights) - set(labels)):
            what = f"has {', '.join(sorted(unknown))}, the labels are {', '.join(labels)}"
            problems.append(Problem(f"axes.{name}", what))
    if problems:
        raise ConfigError("The configuration does not hold:", problems)
