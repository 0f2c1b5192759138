"""A teacher that knows its trade, made of a hash and a few words, with faults that can be set.

The task is to sort messages into four queues. Each queue has words of its own,
so that the teacher can tell from a message alone where it belongs: it writes
messages for a queue, answers messages, explains answers, describes the task.
What it says depends on what it is asked and on nothing else, and it keeps a
list of all that it was asked.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from nanodistill.errors import RequestRejectedError
from nanodistill.types import Completion, Request, Usage

WORDS = {
    "billing": ["invoice", "refund", "charged", "card", "price", "subscription", "fee"],
    "bug": ["crashes", "error", "frozen", "broken", "glitch", "blank", "stuck"],
    "account": ["password", "login", "profile", "email", "username", "sign", "locked"],
    "shipping": ["parcel", "courier", "delivery", "tracking", "package", "arrived", "address"],
}
LABELS = list(WORDS)
SUBJECTS = ["phone", "laptop", "desk", "camera", "order", "plan", "kettle", "bicycle", "printer"]
VERBS = ["since", "because", "although", "after", "before", "while", "when", "until"]
INSTRUCTION = "Sort the customer's message into one of four queues: " + ", ".join(LABELS) + "."

SEEDS = [
    {
        "input": f"Please look at my {WORDS[label][n]} and the {SUBJECTS[n]}, number {n}{i}.",
        "output": label,
    }
    for n in range(3)
    for i, label in enumerate(LABELS)
]


def right_label(text: str) -> str | None:
    """The queue of a message: the one that most of its words are of."""
    words = re.findall(r"[a-z]+", text.lower())
    counts = Counter({label: sum(word in own for word in words) for label, own in WORDS.items()})
    label, n = counts.most_common(1)[0]
    return label if n else None


def message(label: str, dice: random.Random) -> str:
    about = dice.sample(WORDS[label], 3)
    subject, verb = dice.choice(SUBJECTS), dice.choice(VERBS)
    names = [
        f"{dice.choice('bcdfgklmnprst')}{dice.choice('aeiou')}{dice.randrange(1000)}" for _ in "12"
    ]
    return (
        f"My {subject} {names[0]}: {about[0]} and {about[1]} {verb} {names[1]}, {about[2]} again."
    )


@dataclass
class Writer:
    """The teacher. Shares are chances for each message, told by a hash of the request.

    Attributes:
        repeats: messages that are always the same one.
        mislabels: messages written for another queue than asked.
        leaks: a test message to slip in, with the chance `leak_share`.
        short: batches that lack their last row.
        broken: rows without an input.
        refuses: generation calls that the provider refuses.
        wrong: answers that are another queue than the right one.
        reasoning: answers come without thinking, which is sent beside them.
    """

    repeats: float = 0.0
    mislabels: float = 0.0
    leaks: str = ""
    leak_share: float = 0.0
    short: float = 0.0
    broken: float = 0.0
    refuses: float = 0.0
    wrong: float = 0.0
    reasoning: bool = False
    asked: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Any:
        self.asked.append(request)
        dice = random.Random(request.key)
        answer = getattr(self, f"_{request.stage}")
        return answer(request, dice)

    def stages(self) -> Counter[str]:
        return Counter(request.stage for request in self.asked)

    def prompts(self) -> str:
        """Everything that it was ever told, as one text."""
        return "\n".join(turn["content"] for request in self.asked for turn in request.messages)

    def _policy(self, request: Request, dice: random.Random) -> Any:
        assert request.schema is not None
        topics = {label: [f"{label} {n}" for n in "123"] for label in LABELS}
        lists = {
            "topics": ["money", "devices", "travel"],
            "label_notes": [
                {"label": label, "meaning": f"all of {label}", "topics": topics[label]}
                for label in LABELS
            ],
            "styles": ["terse", "polite"],
            "personas": ["a student", "a shop"],
            "decision_rules": [
                {"labels": ["bug", "billing"], "rule": "A broken payment page is a bug."}
            ],
        }
        return {
            name: lists.get(name, []) if form["type"] == "array" else f"about {name}"
            for name, form in request.schema["properties"].items()
        }

    def _generate(self, request: Request, dice: random.Random) -> Any:
        if dice.random() < self.refuses:
            raise RequestRejectedError("refusal", "I would rather not")
        order = request.messages[-1]["content"]
        if request.schema is None:
            if found := re.findall(r"Write a new example of (\w+)", order):
                return self._message(found[0], dice)
            label = dice.choice(LABELS)
            return f"Input: {self._message(label, dice)}\nOutput: {label}"
        (label,) = re.findall(r'right answer (?:is )?"(\w+)"', order) or [dice.choice(LABELS)]
        wished = re.search(r"Write (\d+|one) new", order)
        n = 1 if wished is None or wished[1] == "one" else int(wished[1])
        rows: list[dict[str, Any]] = [
            {"slot": slot, "input": self._message(label, dice)} for slot in range(1, n + 1)
        ]
        if "output" in request.schema["properties"]["examples"]["items"]["properties"]:
            outputs = request.schema["properties"]["examples"]["items"]["properties"]["output"]
            told = "enum" in outputs
            rows = [row | {"output": label if told else self._whole(row["input"])} for row in rows]
        rows = [row if dice.random() >= self.broken else row | {"input": ""} for row in rows]
        return {"examples": rows[:-1] if dice.random() < self.short else rows}

    def _message(self, label: str, dice: random.Random) -> str:
        if dice.random() < self.repeats:
            return f"The same old story of the {WORDS[label][0]} and the {WORDS[label][1]}."
        if dice.random() < self.leak_share:
            return self.leaks
        if dice.random() < self.mislabels:
            label = dice.choice([other for other in LABELS if other != label])
        return message(label, dice)

    def _whole(self, text: str) -> dict[str, Any]:
        label = right_label(text) or "bug"
        return {"reasoning": f"It speaks of {label}.", "queue": label, "urgent": "again" in text}

    def _answer(self, request: Request, dice: random.Random) -> Any:
        label = right_label(request.messages[-1]["content"]) or "bug"
        if dice.random() < self.wrong:
            label = dice.choice([other for other in LABELS if other != label])
        if request.schema is not None:
            whole = self._whole(request.messages[-1]["content"]) | {"queue": label}
            return (
                {"thinking": f"It is {label}.", "output": whole}
                if "thinking" in request.schema["properties"]
                else whole
            )
        if self.reasoning:
            return Completion(label, "stop", Usage(7, 3), reasoning=f"Beside it: {label}.")
        if "<thinking>" in request.messages[0]["content"]:
            return f"<thinking>\nIts words are those of {label}.\n</thinking>\n\n{label}"
        return f"{label.capitalize()}."

    _trace = _blind = _check = _recheck = _answer

    def _rationalize(self, request: Request, dice: random.Random) -> Any:
        return "One can see it from the words."

    def _judge(self, request: Request, dice: random.Random) -> Any:
        text, _, output = request.messages[-1]["content"].partition("Output:")
        return {"reason": "by its words", "right": f"{right_label(text)}" in output}
