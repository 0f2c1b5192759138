"""Outputs that are JSON of a pydantic model: its schema, and reading an output by it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from nanodistill.errors import ConfigError, Problem
from nanodistill.plugins import load_object
from nanodistill.values import arranged, as_value, forms_of

REASONING_FIELDS = ("reasoning", "thinking", "chain_of_thought", "thought", "thoughts", "rationale")


@dataclass(frozen=True)
class Read:
    """An output as the model writes it, or why it is none."""

    text: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseField:
    """A field of the output, as far as a plan of outputs looks at it.

    `values` are those of an enum, a literal or a boolean, empty for others.
    """

    values: tuple[Any, ...]
    nullable: bool
    is_list: bool
    is_free_text: bool


@dataclass(frozen=True)
class Response:
    """The shape of a run's outputs."""

    model: type[BaseModel]

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        return self.model.model_json_schema()

    @functools.cached_property
    def reasoning_field(self) -> str | None:
        """The model's own field for reasoning, where it has one that is a text."""
        fields = self.schema.get("properties", {})
        return next(
            (name for name in REASONING_FIELDS if fields.get(name, {}).get("type") == "string"),
            None,
        )

    def fields(self) -> dict[str, ResponseField]:
        """The output's own fields by name, in order; not the one for reasoning."""
        return {
            name: self._field(form)
            for name, form in self.schema.get("properties", {}).items()
            if name != self.reasoning_field
        }

    def _field(self, schema: Mapping[str, Any]) -> ResponseField:
        forms = list(forms_of(schema, self.schema))
        types = {form.get("type") for form in forms}
        values: list[Any] = []
        for form in forms:
            values += form.get("enum", [form["const"]] if "const" in form else [])
            values += [True, False] if form.get("type") == "boolean" else []
        is_text = "string" in types and not values and not any("format" in form for form in forms)
        return ResponseField(tuple(values), "null" in types, "array" in types, is_text)

    @functools.cached_property
    def _has_sets(self) -> bool:
        return '"uniqueItems"' in json.dumps(self.schema)

    def read(self, output: str) -> Read:
        """`output` checked and written the model's way."""
        try:
            checked = self.model.model_validate_json(output)
        except ValidationError as invalid:
            return Read(output, summary(invalid))
        return Read(self._in_order(checked.model_dump_json(), output))

    def _in_order(self, written: str, output: str) -> str:
        """`written` with its sets in `output`'s order: Python's own differs between processes."""
        if not self._has_sets:
            return written
        value = arranged(json.loads(written), as_value(output, otherwise=None), self.schema)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def inside(self, name: str, **others: str) -> dict[str, Any]:
        """The schema of an object with text fields `others` and the output at `name`, in order."""
        own = dict(self.schema)
        definitions = own.pop("$defs", None)
        fields: dict[str, Any] = {
            other: {"type": "string", "description": description}
            for other, description in others.items()
        }
        whole = object_schema(fields | {name: own})
        return whole | ({"$defs": definitions} if definitions else {})


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object that has exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def load_response(chosen: type[BaseModel] | str | None) -> Response | None:
    """The response model that a configuration names or holds.

    Raises:
        ConfigError: it is no pydantic model.
    """
    if chosen is None:
        return None
    found = load_object(chosen, field="response_model") if isinstance(chosen, str) else chosen
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        what = f"{found!r} is no pydantic model"
        raise ConfigError("The configuration does not hold:", [Problem("response_model", what)])
    return Response(found)


def summary(invalid: ValidationError) -> str:
    """What is wrong with an output, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'output'}: {error['msg']}"
        for error in invalid.errors(include_url=False, include_context=False)[:3]
    )


def as_json(text: str) -> Any:
    """`text` as a JSON value; itself where it is none, or none that can be compared."""
    return as_value(text, otherwise=text)
