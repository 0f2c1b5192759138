"""JSON outputs, field by field.

Gold and output are taken apart into leaves by path. The score of a row is the
share of right leaves among all paths that either of them has: a field left out
counts as wrong, and so does one that was made up. Leaves are equal

- as numbers: whole ones exactly, fractions within the tolerance (true is no number);
- as texts, after normalization; a gold text of more than `LONG_TEXT` words is
  free text, and counts by its chrF similarity;
- otherwise, if they are the same.

A field that is null counts as missing. A list that the schema says has no order (see
`values`) is compared in the order of the gold answer's.

Left out is a field in which the schema has the model reason (`REASONING`): no two
answers have it alike, and it is not what was asked for.

An output that is no JSON scores 0. One code fence around it is taken off, for
every model.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanodistill.metrics.row_metrics import Pair, similarity
from nanodistill.values import MISSING, arranged, as_value, is_near, is_number, normalized

LONG_TEXT = 8
REASONING = ("reasoning", "thinking", "chain_of_thought", "thought", "thoughts", "rationale")
FENCE = re.compile(r"\s*```[\w-]*\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)
ABSENT = object()


@dataclass(frozen=True)
class FieldAccuracy:
    """`schema` is the JSON schema of the outputs, where the dataset has one."""

    tolerance: float
    schema: Mapping[str, Any] | None = None

    name = "json"
    measure = "field accuracy"

    def score(self, output: str, gold: str) -> float:
        by_path = self._compared(output, gold)
        return sum(by_path.values()) / len(by_path)

    def details(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        fields: defaultdict[str, list[float]] = defaultdict(list)
        whole = 0
        for output, gold in pairs:
            by_path = self._compared(output, gold)
            whole += all(score == 1 for score in by_path.values())
            for path, score in by_path.items():
                fields[re.sub(r"\[\d+\]", "[]", path)].append(score)
        return {
            "whole_object": whole / len(pairs),
            "valid_json": _share(_parsed(output) is not ABSENT for output, _ in pairs),
            "schema_valid": self._schema_valid(pairs),
            "fields": {
                path: {"accuracy": sum(scores) / len(scores), "n": len(scores)}
                for path, scores in sorted(fields.items())
            },
        }

    def _compared(self, output: str | None, gold: str) -> dict[str, float]:
        """Score of each path that gold or output has."""
        wanted = self._leaves(_parsed(gold))
        found = _parsed(output)
        found = arranged(found, _parsed(gold), self.schema)
        said = {} if found is ABSENT else self._leaves(found)
        made_up = {path: leaf for path, leaf in said.items() if leaf is not None}
        return {
            path: self._leaf_score(said.get(path), wanted.get(path))
            for path in {**wanted, **made_up}
        }

    def _leaves(self, value: object) -> dict[str, object]:
        fields = self.schema["properties"] if self.schema and "properties" in self.schema else {}
        unjudged = {name for name in REASONING if name in fields}
        if isinstance(value, dict) and value.keys() - unjudged:
            value = {name: item for name, item in value.items() if name not in unjudged}
        return dict(leaves(value))

    def _leaf_score(self, found: object, wanted: object) -> float:
        if is_number(found) and is_number(wanted):
            return float(is_near(found, wanted, self.tolerance))  # type: ignore[arg-type]
        if isinstance(found, str) and isinstance(wanted, str):
            if normalized(found) == normalized(wanted):
                return 1.0
            return similarity(found, wanted) if len(wanted.split()) > LONG_TEXT else 0.0
        return float(type(found) is type(wanted) and found == wanted)

    def _schema_valid(self, pairs: Sequence[Pair]) -> float | None:
        if self.schema is None:
            return None
        from jsonschema import validators

        checker = validators.validator_for(self.schema)(self.schema)
        found = [_parsed(output) for output, _ in pairs]
        return _share(value is not ABSENT and checker.is_valid(value) for value in found)


def is_json_object(text: str) -> bool:
    """Whether `text` is a JSON object or list."""
    return isinstance(_parsed(text), dict | list)


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Paths such as `lines[0].name` and what stands there; empty containers are leaves."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            if item is not MISSING:
                yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _parsed(text: str | None) -> object:
    if text is None:
        return ABSENT
    fenced = FENCE.match(text)
    return as_value(fenced[1] if fenced else text, otherwise=ABSENT)


def _share(flags: Iterable[bool]) -> float:
    known = list(flags)
    return sum(known) / len(known)
