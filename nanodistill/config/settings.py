"""What all parts of the configuration share: frozen, strict, flat.

`Settings` comes first in every part, so that `allow_out_of_range` is known when
the ranges of the other fields are checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from nanodistill.config.nearest import nearest


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


def several(kind: str, each: Sequence[tuple[str, str]]) -> PydanticCustomError:
    """An error of a table with several problems: the key of each, or "", and what is wrong."""
    said = "; ".join(f"{key}: {what}" if key else what for key, what in each)
    return PydanticCustomError(kind, "{said}", {"said": said, EACH: list(each)})


def is_named(chosen: object, known: Sequence[str], of_ones_own: str) -> None:
    """
    Raises:
        PydanticCustomError: `chosen` is a text that is none of `known` and names no Python code.
    """
    if isinstance(chosen, str) and chosen not in known and ":" not in chosen:
        choices = f"{', '.join(known)} or {of_ones_own}"
        facts = {"is": repr(chosen), "near": nearest(chosen, known), "choices": choices}
        raise PydanticCustomError("no_such_name", "is {is}{near}; must be {choices}", facts)


EACH = "each"


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
