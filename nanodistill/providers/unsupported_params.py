"""What a teacher does not take, left out once it was refused.

A provider that refuses a parameter (a temperature, `max_tokens`, a seed, …) has said no to one
thing, not to the run. What it named is left out of what is sent from then on, or sent by the
other name that it goes by; that is told once and kept with the run. A request's key stays that
of the request as it was planned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanodistill.config.synthesis_fields import LIMIT_NAMES
from nanodistill.errors import CallError
from nanodistill.types import canonical_json

MAY_NAME_ONE = frozenset({"parameter", "bad_request", "not_found", "context_length"})
BY_VALUE = frozenset({"temperature"})
"""Of these another value may be taken: 0.0 is refused where 0.7 or 1 is not."""
OF_VALUE = re.compile(
    r"too (large|high|big|small|low)|must be (at|less|greater|no|between|in|strictly|positive|>|<)"
    r"|out of range|should be (less|greater|between)|at most|exceed|larger than|greater than",
    re.IGNORECASE,
)
IS_A_WORD = frozenset({"n", "seed", "stop", "tools", "user", "stream", "logprobs", "thinking"})
"""Names that may stand in any sentence: only as a quoted name are they meant."""


@dataclass
class LeftOut:
    """The parameters that one teacher has refused.

    `on_change` hears what was left out or is sent by another name, before the next attempt.
    """

    on_change: Callable[[str], None]
    _names: dict[str, str | None] = field(default_factory=dict)
    _values: list[tuple[str, str]] = field(default_factory=list)

    def sent(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` without what the teacher does not take."""
        if not (self._names or self._values):
            return dict(params)
        named = ((self._name(name), value) for name, value in params.items())
        return {
            name: value
            for name, value in named
            if name is not None and (name, canonical_json(value)) not in self._values
        }

    def learn(self, error: CallError, params: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
        """Take note of a refusal of `params`, which went as `sent`.

        Whether they would go in another way now, be it because of this or of an earlier refusal.
        """
        if error.kind not in MAY_NAME_ONE:
            return False
        if self.sent(params) == sent and (name := self._refused(error, params, sent)) is not None:
            self._leave_out(name, sent[name], error)
        return self.sent(params) != sent

    def to_note(self) -> str:
        return json.dumps({"names": self._names, "values": self._values})

    def recall(self, note: str) -> None:
        """Go on with what `to_note` wrote."""
        held = json.loads(note)
        self._names = dict(held["names"])
        self._values = [(name, value) for name, value in held["values"]]

    def _name(self, name: str) -> str | None:
        found: str | None = name
        while found is not None and found in self._names:
            found = self._names[found]
        return found

    def _refused(
        self, error: CallError, params: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> str | None:
        """The parameter that was sent and is refused, where the error names one."""
        found = named_in(error, {*params, *sent})
        if found is not None and found not in sent:
            found = self._name(found)
        limits_only = error.kind == "context_length"
        if found not in sent or (limits_only and found not in LIMIT_NAMES):
            return None
        return found

    def _leave_out(self, name: str, value: Any, error: CallError) -> None:
        said = error.message
        if name in BY_VALUE or OF_VALUE.search(said):
            self._values.append((name, canonical_json(value)))
            self.on_change(f"{name} = {value} is left out: {said}")
            return
        self._names[name] = other = self._other_name(name)
        how = "is left out" if other is None else f"is sent as {other}"
        self.on_change(f"{name} {how}: {said}")

    def _other_name(self, name: str) -> str | None:
        """What a limit on an answer is called too, unless that was refused before."""
        if name not in LIMIT_NAMES:
            return None
        (other,) = (each for each in LIMIT_NAMES if each != name)
        return None if other in self._names else other


def named_in(error: CallError, names: Iterable[str]) -> str | None:
    """Which of `names` an error is about: the one that it says, or that comes first in its text."""
    known = set(names)
    param = error.param.rpartition(".")[2]
    if param in known:
        return param
    places = {name: place for name in known if (place := _place(name, error.message)) >= 0}
    return min(places, key=lambda name: (places[name], -len(name)), default=None)


def _place(name: str, text: str) -> int:
    named = re.escape(name)
    quoted = re.search(rf"['\"`]{named}['\"`:=]", text)
    plain = None if name in IS_A_WORD else re.search(rf"(?<![\w.-]){named}(?![\w-])", text)
    found = [match.start() for match in (quoted, plain) if match is not None]
    return min(found, default=-1)
