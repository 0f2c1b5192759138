"""The Python reference names what is there, and everything that is public."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import nanodistill
from docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^::: (\S+)", PAGE, re.MULTILINE)


def found(dotted: str) -> Any:
    """The object of that name, or the module."""
    try:
        return import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return vars(import_module(module))[name]


@pytest.mark.parametrize("dotted", NAMED)
def test_what_the_reference_names_is_there(dotted: str) -> None:
    documented = found(dotted)
    assert isinstance(documented, ModuleType) or documented.__doc__


def test_every_public_name_is_in_the_reference() -> None:
    last = {dotted.rpartition(".")[2] for dotted in NAMED} | {"NanoDistillError"}
    missing = {name for name in nanodistill.__all__ if name.removesuffix("_async") not in last}
    assert not missing
    assert "nanodistill.errors" in NAMED
