"""What all parts of the configuration share: frozen, strict, flat, with ranges and suggestions.

The seed analysis fixes ranges that suit a laptop. A machine with more room may go beyond an upper
bound with `allow_out_of_range = true`; a bound that is arithmetic (a share of 1) stays. `Settings`
comes first in every part, so that `allow_out_of_range` is known when other fields are checked.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_core.core_schema import ValidationInfo


def suggest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a known name is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""


LARGEST = 2**63 - 1
"""What a whole number in SQLite, parquet and MLX's random state holds at most."""

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated[int, Range(1, 64)]`.

    `exclusive` leaves out the bounds themselves. `overridable` says whether
    `allow_out_of_range` lifts the upper one.
    """

    low: float
    high: float | None = None
    exclusive: bool = False
    overridable: bool = True

    def __str__(self) -> str:
        if self.high is None:
            return f"over {self.low:g}" if self.exclusive else f"{self.low:g} or more"
        if self.exclusive:
            return f"between {self.low:g} and {self.high:g}, both excluded"
        return f"{self.low:g} to {self.high:g}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.chain_schema(
            [
                core_schema.no_info_plain_validator_function(no_truth_value),
                core_schema.with_info_after_validator_function(self._check, handler(source)),
            ]
        )

    def _check(self, value: float | None, info: ValidationInfo) -> float | None:
        if value is None:
            return value
        if abs(value) > LARGEST or not math.isfinite(value):
            what = {"value": shortened(str(value)), "range": str(self), "most": LARGEST}
            told = "is {value}, must be {range}"
            told += ", and no more than {most}" * (self.high is None)
            raise PydanticCustomError("no_usable_number", told, what)
        too_low = value <= self.low if self.exclusive else value < self.low
        if too_low or (self._exceeds(value) and not self._lifted(info)):
            hint = " (allow_out_of_range = true lifts the upper bound)"
            offer = hint if self._exceeds(value) and self.overridable else ""
            raise PydanticCustomError(
                "out_of_range",
                "is {value}, must be {range}{offer}",
                {"value": value, "range": str(self), "offer": offer},
            )
        return value

    def _exceeds(self, value: float) -> bool:
        if self.high is None:
            return False
        return value >= self.high if self.exclusive else value > self.high

    def _lifted(self, info: ValidationInfo) -> bool:
        return self.overridable and bool(info.data.get("allow_out_of_range"))


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def no_truth_value(value: Any) -> Any:
    """Refuse `true` for a number, which Python would take for 1."""
    if isinstance(value, bool):
        what = {"value": "true" if value else "false"}
        raise PydanticCustomError("no_number", "is {value}, must be a number", what)
    return value


@dataclass(frozen=True)
class InputPath:
    """Marks a field whose text may be a path: relative to the run file that holds it.

    With `always` it is one; otherwise it is where something by that name exists
    (a model name may be a Hub id, a prompt may be the text itself).
    """

    always: bool = False


@dataclass(frozen=True)
class ObjectRef:
    """Marks a field that names Python code as `module:name` or `file.py:name`."""


def multi_error(kind: str, each: Sequence[tuple[str, str]]) -> PydanticCustomError:
    """An error of a table with several problems: the key of each, or "", and what is wrong."""
    said = "; ".join(f"{key}: {what}" if key else what for key, what in each)
    return PydanticCustomError(kind, "{said}", {"said": said, PROBLEMS: list(each)})


def is_named(chosen: object, known: Sequence[str], of_ones_own: str) -> None:
    """
    Raises:
        PydanticCustomError: `chosen` is a text that is none of `known` and names no Python code.
    """
    if isinstance(chosen, str) and chosen not in known and ":" not in chosen:
        choices = f"{', '.join(known)} or {of_ones_own}"
        facts = {"is": repr(chosen), "near": suggest(chosen, known), "choices": choices}
        raise PydanticCustomError("no_such_name", "is {is}{near}; must be {choices}", facts)


PROBLEMS = "each"


class Settings(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        validate_default=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    allow_out_of_range: bool = Field(
        default=False,
        description="Lift the upper bounds of numeric fields, on a machine with room for more.",
    )
