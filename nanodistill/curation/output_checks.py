"""Checks of outputs that a policy offers and code can run: formats, allowed values, quotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.types import Seed, Trace
from nanodistill.values import as_value, normalized

Holds = Callable[[str, str], bool]
"""Whether a check holds for an input and a value of its output."""


class CheckLike(Protocol):
    """What a check is made of; see `policy.OutputCheck`."""

    @property
    def field(self) -> str: ...
    @property
    def check(self) -> Literal["in_input", "matches", "one_of"]: ...
    @property
    def value(self) -> str: ...


@dataclass(frozen=True)
class OutputCheckFilter:
    """Refuses rows whose output breaks one of the checks. Null and missing fields pass."""

    checks: Sequence[tuple[CheckLike, Holds]]
    name: str = "output checks"

    def __call__(self, row: Trace) -> Trace | Rejected:
        for check, holds in self.checks:
            for value in _values(check.field, row.output):
                if not holds(row.input, value):
                    where = f"{check.field} " if check.field else ""
                    what = f"{where}'{value[:80]}' breaks {check.check} {check.value[:80]}"
                    return Rejected("output_check", what.strip())
        return row


def usable_checks(
    checks: Sequence[CheckLike], seeds: Sequence[Seed]
) -> tuple[list[tuple[CheckLike, Holds]], list[str]]:
    """The checks that hold for every seed, and for each of the others why it is not used.

    The seeds are the user's word: a check that one of them breaks is wrong.
    """
    usable: list[tuple[CheckLike, Holds]] = []
    dropped = []
    for check in checks:
        where = f"{check.check} {check.value}".strip() + (f" of {check.field}" * bool(check.field))
        try:
            holds = _compiled(check)
        except SchemaError:
            dropped.append(f"{where}: its pattern can't be read")
            continue
        broken = next((seed for seed in seeds if not _holds_for(check, holds, seed)), None)
        if broken is None:
            usable.append((check, holds))
        else:
            dropped.append(f"{where}: the seed {broken.input[:60]!r} breaks it")
    return usable, dropped


def _holds_for(check: CheckLike, holds: Holds, seed: Seed) -> bool:
    return all(holds(seed.input, value) for value in _values(check.field, seed.output))


def _compiled(check: CheckLike) -> Holds:
    if check.check == "in_input":
        return lambda text, value: normalized(value) in normalized(text)
    if check.check == "one_of":
        allowed = {normalized(value) for value in check.value.split("|")}
        return lambda _, value: normalized(value) in allowed
    # pydantic's patterns are Rust's: linear in the text, whatever a teacher comes up with.
    pattern = StringConstraints(pattern=rf"\A(?:{check.value})\z")
    adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, pattern])

    def matches(_: str, value: str) -> bool:
        try:
            adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    return matches


def _values(field: str, output: str) -> Iterator[str]:
    """The texts that a check is about: the whole output, or what its field holds."""
    if not field:
        yield output
        return
    value = as_value(output, otherwise=None)
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, str | int | float):
        yield str(value)
