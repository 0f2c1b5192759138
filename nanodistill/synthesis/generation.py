"""Generation calls made of the plan's slots.

A call asks for one or several slots of the same label. In `structured` generation it asks for
several inputs by schema, each with the number of its slot; in `chat` generation it
shows seeds of the label as earlier turns and takes the next turn as one input, which works with
models that follow no instructions.

What a call says depends on its slots, on how many calls of its label came before it in the plan,
and on complete earlier rounds. Nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from nanodistill.curation.minhash import words_of
from nanodistill.synthesis.axes import NEIGHBOUR
from nanodistill.synthesis.coverage import Axis, Slot
from nanodistill.synthesis.task import Task
from nanodistill.types import Seed, tagged_hash

AVOIDED = 12
"""Earlier inputs that a call is told to keep away from, in their first words: enough to mark the
trodden ground, few enough to cost less than the seeds do."""
REMEMBERED = 100
CONTRAST_SEEDS = 2
"""Seeds of neighbouring labels in a call: they show where the line runs, and more of them pull
the new inputs over it."""


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """One generation call.

    Attributes:
        shown: seeds that the prompt shows, those of the call's label first.
        avoid: inputs of earlier rounds to keep away from.
        elsewhere: topics of the label that other calls of the plan write about.
        cues: surface features to do without, because they have come to give the answer away.
        turn: how many calls of its label came before it.
        ordinal: how many calls that say the same came before it.
    """

    slots: tuple[Slot, ...]
    shown: tuple[Seed, ...]
    avoid: tuple[str, ...]
    turn: int
    ordinal: int
    elsewhere: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()

    @property
    def label(self) -> str | None:
        return self.slots[0].cell.label


class RecentInputs:
    """Inputs of earlier rounds, the latest of each label, for calls to keep away from."""

    def __init__(self) -> None:
        self._kept: dict[str | None, deque[tuple[str, frozenset[str]]]] = {}

    def add(self, label: str | None, text: str) -> None:
        kept = self._kept.setdefault(label, deque(maxlen=REMEMBERED))
        kept.append((text, frozenset(words_of(text))))

    def nearest(self, label: str | None, about: str) -> tuple[str, ...]:
        """Those most like `about`; the latest of equals."""
        words = frozenset(words_of(about))
        latest_first = reversed(self._kept.get(label, ()))
        ranked = sorted(latest_first, key=lambda kept: -len(kept[1] & words))
        return tuple(text for text, _ in ranked[:AVOIDED])


class CallPlanner:
    """Makes calls of slots, and counts what has been called for."""

    def __init__(self, task: Task, memory: RecentInputs, axes: Sequence[Axis] = ()) -> None:
        self._task = task
        self._memory = memory
        self._topics = _topics_by_label(task, axes)
        self._cues: Mapping[str | None, tuple[str, ...]] = {}
        self._turns: Counter[str | None] = Counter()
        self._said: Counter[object] = Counter()
        self._own: dict[str | None, SeedRotation] = {}
        self._contrast: dict[str, SeedRotation] = {}

    def calls(self, slots: Sequence[Slot]) -> list[GenerationCall]:
        """Calls for all of `slots`, in order of their first ones."""
        size = self._task.rows_per_call
        by_label: dict[str | None, list[Slot]] = {}
        for slot in slots:
            by_label.setdefault(slot.cell.label, []).append(slot)
        groups = [group for of_label in by_label.values() for group in _even_groups(of_label, size)]
        return [self._call(group) for group in sorted(groups, key=lambda group: group[0].number)]

    def _call(self, slots: tuple[Slot, ...]) -> GenerationCall:
        label = slots[0].cell.label
        turn = self._turns[label]
        self._turns[label] += 1
        chosen = self._shown(slots, turn)
        if self._task.config.generation == "chat":
            said = (slots[0].cell, tuple(seed.id for seed in chosen))
            self._said[said] += 1
            return GenerationCall(slots, chosen, (), turn, self._said[said] - 1)
        return GenerationCall(
            slots,
            chosen,
            self._avoided(slots, chosen),
            turn,
            0,
            elsewhere=self._elsewhere(slots),
            cues=self._cues.get(label, ()),
        )

    def avoid_cues(self, cues: Mapping[str | None, tuple[str, ...]]) -> None:
        """Have further calls of these labels do without these surface features."""
        self._cues = cues

    def _elsewhere(self, slots: tuple[Slot, ...]) -> tuple[str, ...]:
        topics = {slot.cell.get("topic") for slot in slots}
        others = self._topics.get(slots[0].cell.label, ())
        return tuple(topic for topic in others if topic not in topics)

    def _shown(self, slots: tuple[Slot, ...], turn: int) -> tuple[Seed, ...]:
        """The label's own seeds in rotation, and in a structured call some to tell it from."""
        task, few, label = self._task, self._task.config.few_shot, slots[0].cell.label
        chosen = self._rotation(label).at(turn, few)
        if label is None or task.config.generation == "chat" or not few:
            return chosen
        near = dict.fromkeys(slot.cell.get(NEIGHBOUR) for slot in slots)
        contrast = [
            seed
            for other in near
            if other is not None
            for seed in self._rotation(other).at(turn, 1)
        ][:CONTRAST_SEEDS]
        others = [seed for seed in self._others(label).at(turn, few) if seed not in contrast]
        wanted = max(CONTRAST_SEEDS, few - len(chosen)) - len(contrast)
        return (*chosen, *contrast, *others[: max(0, wanted)])

    def _rotation(self, label: str | None) -> SeedRotation:
        if label not in self._own:
            own = self._task.seeds_of(label)
            self._own[label] = SeedRotation(own, self._task.config.random_seed)
        return self._own[label]

    def _others(self, label: str) -> SeedRotation:
        if label not in self._contrast:
            own = self._task.seeds_of(label)
            others = [seed for seed in self._task.seeds if seed not in own]
            self._contrast[label] = SeedRotation(others, self._task.config.random_seed)
        return self._contrast[label]

    def _avoided(self, slots: tuple[Slot, ...], chosen: tuple[Seed, ...]) -> tuple[str, ...]:
        if not self._task.config.coverage:
            return ()
        values = [value for slot in slots for _, value in slot.cell.besides_label()]
        about = " ".join([*values, *(seed.input for seed in chosen)])
        return self._memory.nearest(slots[0].cell.label, about)


class SeedRotation:
    """A window that moves on with each turn over an order that changes with each cycle."""

    def __init__(self, seeds: Sequence[Seed], random_seed: int) -> None:
        self._seeds = {seed.id: seed for seed in seeds}
        self._random_seed = random_seed
        self._cycle = -1
        self._order: list[Seed] = []

    def at(self, turn: int, few: int) -> tuple[Seed, ...]:
        if not self._seeds:
            return ()
        cycle, start = divmod(turn, len(self._seeds))
        if cycle != self._cycle:
            self._cycle, self._order = cycle, self._ordered(cycle)
        return tuple((self._order * 2)[start : start + min(few, len(self._order))])

    def _ordered(self, cycle: int) -> list[Seed]:
        drawn = {id: tagged_hash("show", [self._random_seed, cycle, id]) for id in self._seeds}
        return [self._seeds[id] for id in sorted(drawn, key=drawn.__getitem__)]


def _even_groups(slots: Sequence[Slot], most: int) -> Iterator[tuple[Slot, ...]]:
    """As few groups as need be, of about the same size: a row that is left over sees no others."""
    count = ceil(len(slots) / most)
    ends = [round(n * len(slots) / count) for n in range(count + 1)]
    return (tuple(slots[start:end]) for start, end in pairwise(ends))


def _topics_by_label(task: Task, axes: Sequence[Axis]) -> Mapping[str | None, tuple[str, ...]]:
    topic = next((axis for axis in axes if axis.name == "topic"), None)
    if topic is None:
        return {}
    if not task.labels:
        return {None: tuple(topic.shares)}
    return {
        label: tuple({topic: None for key, shares in topic.tables.items() if key[0] == label
                      for topic in shares} or topic.shares)
        for label in task.labels
    }  # fmt: skip
