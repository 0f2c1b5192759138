"""The calls that bring new inputs, made from the plan.

A slot is a row that is wanted: its number in the plan and its cell. A call asks
for one or several slots of the same label, so that a batch that comes back short
or in another order can't mix labels up. In `structured` generation a call
asks for `examples_per_call` inputs by schema; in `chat` generation it shows
seeds of the label as earlier turns and takes the next turn as one input, which
a model can do that follows no instructions.

What a call says depends on its slots, on how many calls of its label came
before it in the plan, and on inputs of earlier rounds. Nothing else.
"""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.curation.minhash import words_of
from nanodistill.prompts import CHAT_SYSTEM, CHAT_TURN, GENERATION
from nanodistill.synthesis.coverage import LABEL, Axis, Cell, Slot
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Message, Request, Seed, tagged_hash

AVOIDED = 8
REMEMBERED = 100
LONGEST_SHOWN = 2000
TOKENS_PER_WORD = 3
ROOM = 48


@dataclass(frozen=True, slots=True)
class GenerationCall:
    """One generation call: its slots, the seeds that it shows, and its place in the plan.

    `turn` counts the calls of its label, `ordinal` those that say the same.
    """

    slots: tuple[Slot, ...]
    shown: tuple[Seed, ...]
    avoid: tuple[str, ...]
    turn: int
    ordinal: int

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

    def __init__(self, task: Task, memory: RecentInputs) -> None:
        self._task = task
        self._memory = memory
        self._turns: Counter[str | None] = Counter()
        self._said: Counter[object] = Counter()
        self._rotations: dict[str | None, tuple[SeedRotation, SeedRotation]] = {}

    def calls(self, slots: Sequence[Slot]) -> list[GenerationCall]:
        """Calls for all of `slots`, in order of their first ones."""
        is_chat = self._task.config.generation == "chat"
        size = 1 if is_chat else self._task.config.examples_per_call
        by_label: dict[str | None, list[Slot]] = {}
        for slot in slots:
            by_label.setdefault(slot.cell.label, []).append(slot)
        groups = [
            tuple(of_label[at : at + size])
            for of_label in by_label.values()
            for at in range(0, len(of_label), size)
        ]
        return [self._call(group) for group in sorted(groups, key=lambda group: group[0].number)]

    def _call(self, slots: tuple[Slot, ...]) -> GenerationCall:
        label = slots[0].cell.label
        turn = self._turns[label]
        self._turns[label] += 1
        chosen = self._shown(label, turn)
        if self._task.config.generation == "chat":
            said = (slots[0].cell, tuple(seed.id for seed in chosen))
            self._said[said] += 1
            return GenerationCall(slots, chosen, (), turn, self._said[said] - 1)
        return GenerationCall(slots, chosen, self._avoided(slots, chosen), turn, 0)

    def _shown(self, label: str | None, turn: int) -> tuple[Seed, ...]:
        """The label's own seeds in rotation; in a structured call, others up to the number."""
        task, few = self._task, self._task.config.few_shot
        if label not in self._rotations:
            own = task.seeds_of(label)
            others = [seed for seed in task.seeds if seed not in own]
            self._rotations[label] = (
                SeedRotation(own, task.config.random_seed),
                SeedRotation(others, task.config.random_seed),
            )
        of_label, of_others = self._rotations[label]
        chosen = of_label.at(turn, few)
        if task.config.generation == "chat":
            return chosen
        return chosen + of_others.at(turn, few - len(chosen))

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


@dataclass(frozen=True)
class PromptBuilder:
    """Puts calls into words."""

    task: Task
    axes: Mapping[str, Axis]
    policy: str

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The form of the answer; none where it is read as text."""
        as_text = self.task.config.generation == "chat" or self.task.parser is not None
        return None if as_text else self.task.rows_schema

    def request(self, call: GenerationCall, teacher: TeacherProtocol) -> Request:
        return teacher.request(
            "generate",
            self.messages(call),
            schema=self.schema,
            params=self.params,
            ordinal=call.ordinal,
        )

    def messages(self, call: GenerationCall) -> list[Message]:
        if self.task.config.generation == "chat":
            return list(self._as_chat(call))
        return [
            {"role": "system", "content": self._directions()},
            {"role": "user", "content": self._user_prompt(call)},
        ]

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """Limits of a call in chat generation: an input ends where the seeds' inputs would."""
        if self.task.config.generation != "chat":
            return {}
        inputs = [seed.input for seed in self.task.seeds]
        longest = max(len(text.split()) for text in inputs)
        params: dict[str, Any] = {"max_tokens": longest * TOKENS_PER_WORD + ROOM}
        # A whole row is of two lines at least.
        possible = ("\n\n",) if self.task.generates_outputs else ("\n", "\n\n")
        ends = next((end for end in possible if not any(end in text for text in inputs)), None)
        if ends is not None:
            params["stop"] = [ends]
        if self.task.config.teacher.startswith("mlx/"):
            params["seed"] = self.task.config.random_seed
        return params

    def _directions(self) -> str:
        facts = {"instruction": self.task.instruction, "policy": self.policy}
        return self.task.prompts.render(GENERATION, **facts)

    def _as_chat(self, call: GenerationCall) -> Iterator[Message]:
        if CHAT_SYSTEM in self.task.prompts.templates:
            yield {"role": "system", "content": self.task.prompts.render(CHAT_SYSTEM)}
        for seed in call.shown:
            yield {"role": "user", "content": self._turn(Cell(_label_alone(call.slots[0].cell)))}
            yield {"role": "assistant", "content": self._written(seed)}
        yield {"role": "user", "content": self._turn(call.slots[0].cell)}

    def _written(self, seed: Seed) -> str:
        return shorten(seed) if self.task.generates_outputs else seed.input

    def _turn(self, cell: Cell) -> str:
        label = "" if cell.label is None else self._says(LABEL, cell.label)
        asked = [self.task.prompts.render(CHAT_TURN, label=label)]
        if self.task.generates_outputs:
            asked.append(f"Its output is one of: {', '.join(self.task.labels)}.")
        asked += [f"{axis}: {self._says(axis, value)}" for axis, value in cell.besides_label()]
        return "\n".join(asked)

    def _user_prompt(self, call: GenerationCall) -> str:
        parts = []
        if call.shown:
            parts.append("Examples:\n\n" + "\n\n".join(map(shorten, call.shown)))
        parts.append(self._request_text(call))
        if call.avoid:
            listed = "\n".join(f"- {text[:LONGEST_SHOWN]}" for text in call.avoid)
            parts.append(f"These are there already. Write nothing like them:\n{listed}")
        parts.append(self._form(len(call.slots)) + f"\nThis is batch {call.turn + 1}.")
        return "\n\n".join(parts)

    def _request_text(self, call: GenerationCall) -> str:
        n = len(call.slots)
        what = "one new input" if n == 1 else f"{n} new inputs"
        lines = [f"Write {what}{self._right_answer(call.label, n)}."]
        wishes = [self._wishes(slot.cell) for slot in call.slots]
        if any(wishes):
            one_for_all = len(set(wishes)) == 1
            lines += [f"Each: {wishes[0]}"] if one_for_all else ["What each is to be:"]
            lines += [] if one_for_all else [f"{i}. {w}" for i, w in enumerate(wishes, start=1)]
        if self.task.generates_outputs:
            which = f": one of {', '.join(self.task.labels)}" if self.task.labels else ""
            lines.append(f"Give the right output with each{which}.")
        return "\n".join(lines)

    def _right_answer(self, label: str | None, n: int) -> str:
        if label is None:
            return ""
        meaning = self.task.label_hints.get(label, label).removeprefix(label)
        others = ", ".join(other for other in self.task.labels if other != label)
        whose = "whose right answer is" if n == 1 else "that all have the right answer"
        apart = f" and clearly none of: {others}" if others else ""
        return f' {whose} "{label}"{meaning}{apart}'

    def _wishes(self, cell: Cell) -> str:
        return "; ".join(
            f"{axis}: {self._says(axis, value)}" for axis, value in cell.besides_label()
        )

    def _says(self, axis: str, value: str) -> str:
        return self.axes[axis].says(value)

    def _form(self, n: int) -> str:
        if self.task.parser is not None:
            return ""
        row = '{"input": "…", "output": …}' if self.task.generates_outputs else '{"input": "…"}'
        many = "" if n == 1 else f", with {n} rows"
        return f'Answer with JSON: {{"examples": [{row}]}}{many}.'


def shorten(seed: Seed) -> str:
    return f"Input: {seed.input[:LONGEST_SHOWN]}\nOutput: {seed.output[:LONGEST_SHOWN]}"


def _label_alone(cell: Cell) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in cell.values if pair not in cell.besides_label())
