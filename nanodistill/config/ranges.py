"""Ranges of numeric fields, in one place for checking, documents and help texts.

The seed analysis fixes ranges that suit a laptop. A machine with room may go
beyond an upper bound with `allow_out_of_range = true`; a bound that is a matter
of arithmetic (a share of 1) stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_core.core_schema import ValidationInfo

LARGEST = 2**63 - 1
"""What a whole number in SQLite, parquet and MLX's random state holds at most."""

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for `Annotated[int, Range(1, 64)]`.

    `open_ends` leaves out the bounds themselves. `liftable` says whether
    `allow_out_of_range` lifts the upper one.
    """

    low: float
    high: float | None = None
    open_ends: bool = False
    liftable: bool = True

    def __str__(self) -> str:
        if self.high is None:
            return f"over {self.low:g}" if self.open_ends else f"{self.low:g} or more"
        if self.open_ends:
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
        too_low = value <= self.low if self.open_ends else value < self.low
        if too_low or (self._exceeds(value) and not self._lifted(info)):
            hint = " (allow_out_of_range = true lifts the upper bound)"
            offer = hint if self._exceeds(value) and self.liftable else ""
            raise PydanticCustomError(
                "out_of_range",
                "is {value}, must be {range}{offer}",
                {"value": value, "range": str(self), "offer": offer},
            )
        return value

    def _exceeds(self, value: float) -> bool:
        if self.high is None:
            return False
        return value >= self.high if self.open_ends else value > self.high

    def _lifted(self, info: ValidationInfo) -> bool:
        return self.liftable and bool(info.data.get("allow_out_of_range"))


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def no_truth_value(value: Any) -> Any:
    """Refuse `true` for a number, which Python would take for 1."""
    if isinstance(value, bool):
        what = {"value": "true" if value else "false"}
        raise PydanticCustomError("no_number", "is {value}, must be a number", what)
    return value
