"""What a generation call says."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.curation.response_model import object_schema
from nanodistill.prompts import CHAT_SYSTEM, CHAT_TURN, GENERATION
from nanodistill.synthesis.axes import (
    BOUNDARY,
    DIFFICULTY,
    LENGTH,
    MIDDLING,
    NEIGHBOUR,
    make_axes,
    rules_between,
    untold_meanings,
)  # fmt: skip
from nanodistill.synthesis.coverage import LABEL, OUTPUT, Axis, Cell, Slot
from nanodistill.synthesis.generation import GenerationCall
from nanodistill.synthesis.policy import TaskPolicy
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Message, Request, Seed

LONGEST_SHOWN = 2000
AVOIDED_WORDS = 16
"""Words of an earlier input that a prompt quotes: its situation shows in its first words."""
TOKENS_PER_WORD = 3
ROOM = 48

FIRST_WORDS = {"topic": "about", "persona": "from", "style": "written", LENGTH: "length"}
"""How a slot's line names the axes that are ours; others go by their own names."""
MIDDLING_HINT = "takes a second look: the point comes among side details or in unusual words"
BEND = (
    "Where the points of a row cannot go together in a text that somebody would really send, keep "
    "the right answer and drop whatever is least natural:"
)
VARIETY = (
    "Let them differ as inputs do that are picked at random from a year of real ones: other people "
    "and places, other things that it is about, other words, other beginnings."
)
EDGE_HINT = "at the edge of the task: the usual reading would be wrong, and a rule decides"


@dataclass(frozen=True)
class PromptBuilder:
    """Puts generation calls into words."""

    task: Task
    axes: Mapping[str, Axis]
    policy: TaskPolicy

    @classmethod
    def of(cls, task: Task, policy: TaskPolicy) -> PromptBuilder:
        return cls(task, {axis.name: axis for axis in make_axes(task, policy)}, policy)

    def request(self, call: GenerationCall, teacher: TeacherProtocol) -> Request:
        return teacher.request(
            "generate",
            self.messages(call),
            schema=self.schema(call),
            params=self.params,
            ordinal=call.ordinal,
        )

    def schema(self, call: GenerationCall) -> Mapping[str, Any] | None:
        """The form of the answer; none where it is read as text.

        The number of rows is told in words. `minItems` over 1 is refused by some providers.
        """
        if self.task.config.generation == "chat" or self.task.parser is not None:
            return None
        numbers = _numbers(call.slots)
        rows = {
            "type": "array",
            "items": self.task.row_schema,
            "description": f"Exactly {len(numbers)}, with the numbers {', '.join(numbers)}."
            if len(numbers) > 1
            else "Exactly one, with the number 1.",
        }
        whole = object_schema({"examples": rows})
        definitions = self.task.row_definitions
        return whole | ({"$defs": definitions} if definitions else {})

    def messages(self, call: GenerationCall) -> list[Message]:
        if self.task.config.generation == "chat":
            return list(self._chat_turns(call))
        return [
            {"role": "system", "content": self._system_prompt},
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

    @functools.cached_property
    def _system_prompt(self) -> str:
        policy = self.policy.for_writers(self.task.config.decision_rules)
        meanings = untold_meanings(self.task, self.policy)
        if meanings:
            listed = "\n".join(f"- {meanings.get(label, label)}" for label in self.task.labels)
            policy = f"The labels:\n{listed}\n\n{policy}"
        facts = {"instruction": self.task.instruction, "policy": policy}
        return self.task.prompts.render(GENERATION, **facts)

    def _chat_turns(self, call: GenerationCall) -> Iterator[Message]:
        if CHAT_SYSTEM in self.task.prompts.templates:
            yield {"role": "system", "content": self.task.prompts.render(CHAT_SYSTEM)}
        for seed in call.shown:
            yield {"role": "user", "content": self._turn(_label_alone(call.slots[0].cell))}
            written = shorten(seed) if self.task.generates_outputs else seed.input
            yield {"role": "assistant", "content": written}
        yield {"role": "user", "content": self._turn(call.slots[0].cell)}

    def _turn(self, cell: Cell) -> str:
        label = "" if cell.label is None else self._says(LABEL, cell.label)
        asked = [self.task.prompts.render(CHAT_TURN, label=label)]
        if self.task.generates_outputs:
            asked.append(f"Its output is one of: {', '.join(self.task.labels)}.")
        asked += [f"{axis}: {self._says(axis, value)}" for axis, value in cell.besides_label()]
        return "\n".join(asked)

    def _user_prompt(self, call: GenerationCall) -> str:
        return "\n\n".join(part for part in self._parts(call) if part)

    def _parts(self, call: GenerationCall) -> Iterator[str]:
        if call.shown:
            yield "Examples:\n\n" + "\n\n".join(map(shorten, call.shown))
        yield self._order(call)
        if call.avoid:
            listed = "\n".join(f"- {_first_words(text)}" for text in call.avoid)
            yield f"These are written already; take other situations and openings:\n{listed}"
        if call.elsewhere:
            yield f"Other calls write about: {'; '.join(call.elsewhere)}."
        if call.cues:
            yield "So many inputs with this answer have it already, do without: " + (
                "; ".join(call.cues) + "."
            )
        yield self._form(call) + f"\nThis is batch {call.turn + 1}."

    def _order(self, call: GenerationCall) -> str:
        """How many inputs, with which answer, and a line for what each is to be."""
        n = len(call.slots)
        what = "one new input" if n == 1 else f"{n} new inputs"
        lines = [f"Write {what}{self._right_answer(call.label, n)}."]
        if self.task.generates_outputs:
            which = f": one of {', '.join(self.task.labels)}" if self.task.labels else ""
            lines.append(f"Give the right output with each{which}.")
        if n > 1 and self.task.config.coverage:
            lines.append(VARIETY)
        described = [self._describe(slot) for slot in call.slots]
        if any(described):
            lines.append(BEND)
            lines += [f"{n}. {text or 'as you like'}" for n, text in enumerate(described, start=1)]
        return "\n".join(lines)

    def _right_answer(self, label: str | None, n: int) -> str:
        if label is None:
            return ""
        others = ", ".join(other for other in self.task.labels if other != label)
        whose = "whose right answer is" if n == 1 else "that all have the right answer"
        apart = f" and clearly none of: {others}" if others else ""
        return f' {whose} "{label}"{apart}'

    def _describe(self, slot: Slot) -> str:
        """What the row of a slot is to be, and what was wrong with earlier attempts at it."""
        cell = slot.cell
        parts: list[str] = []
        for axis, value in cell.besides_label():
            if axis == DIFFICULTY and value in self.task.config.difficulty_mix:
                parts += self._difficulty(cell)
            elif axis == OUTPUT or axis.startswith(f"{OUTPUT}."):
                parts.append(self._says(axis, value))
            elif axis != NEIGHBOUR and self._says(axis, value):
                parts.append(f"{FIRST_WORDS.get(axis, axis)}: {self._says(axis, value)}")
        parts += [f"an earlier attempt was rejected: {why}" for why in slot.rejected]
        return "; ".join(part for part in parts if part)

    def _difficulty(self, cell: Cell) -> Iterator[str]:
        level, neighbour = cell.get(DIFFICULTY), cell.get(NEIGHBOUR)
        if level == MIDDLING and cell.get(OUTPUT) is None:
            yield MIDDLING_HINT
        elif level == BOUNDARY and cell.label is not None and neighbour is not None:
            rules = rules_between(self.task, self.policy, cell.label, neighbour)
            deciding = f" (what decides: {' '.join(rules)})" if rules else ""
            yield f'touches on "{neighbour}" too, and yet is clearly "{cell.label}"{deciding}'
        elif level == BOUNDARY and cell.get(OUTPUT) is None:
            yield EDGE_HINT

    def _says(self, axis: str, value: str) -> str:
        return self.axes[axis].says(value)

    def _form(self, call: GenerationCall) -> str:
        if self.task.parser is not None:
            return ""
        output = ', "output": …' if self.task.generates_outputs else ""
        n = len(call.slots)
        many = "" if n == 1 else f", with {n} rows, one for each number"
        return f'Answer with JSON: {{"examples": [{{"slot": 1, "input": "…"{output}}}]}}{many}.'


def as_text(messages: Sequence[Message]) -> str:
    """The messages of a call as one text, to read."""
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages)


def shorten(seed: Seed) -> str:
    return f"Input: {seed.input[:LONGEST_SHOWN]}\nOutput: {seed.output[:LONGEST_SHOWN]}"


def _first_words(text: str) -> str:
    words = text.split()
    return " ".join(words[:AVOIDED_WORDS]) + (" …" if len(words) > AVOIDED_WORDS else "")


def _numbers(slots: Sequence[Slot]) -> list[str]:
    return [str(n) for n, _ in enumerate(slots, start=1)]


def _label_alone(cell: Cell) -> Cell:
    return Cell(tuple(pair for pair in cell.values if pair[0] == LABEL))
