"""What all parts of the configuration share: frozen, strict, flat.

`Settings` comes first in every part, so that `allow_out_of_range` is known when
the ranges of the other fields are checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


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
