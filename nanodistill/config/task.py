"""What is to be learned, from what, by whom, and where it goes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator
from pydantic_core import PydanticCustomError

from nanodistill.config.ranges import Range
from nanodistill.config.settings import InputPath, ObjectRef, Settings
from nanodistill.config.wording import shown
from nanodistill.textfiles import path_problem

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
RESERVED_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)
"""What Windows keeps for devices, whatever follows after a dot."""


Rows = list[dict[str, Any]] | str | Path


class TaskSettings(Settings):
    """Name, seed, instruction, models and output of a run."""

    name: str = Field(description="Name of the run and of its folder: 1 to 100 characters.")
    seed: Annotated[Rows, InputPath()] = Field(
        description="Seed examples: a list of input/output rows, a file "
        "(JSONL, JSON, CSV, parquet) or a Hub dataset id."
    )
    instruction: str = Field(
        description="What the student is to do, in at least 10 characters; "
        "it becomes the system message of every row."
    )
    teacher: Annotated[str, InputPath()] = Field(
        default="claude-sonnet-4-5",
        description="Any LiteLLM model id, mlx/MODEL for a local model, "
        "or python:module:function for a callable.",
    )
    student: Annotated[str, InputPath()] = Field(
        default="mlx-community/Llama-3-8B-Instruct-4bit",
        description="Model to train: a Hub id, an MLX folder, a GGUF file or an embedded name.",
    )
    augment_factor: Annotated[int, Range(1, 500)] = Field(
        default=50, description="Rows wanted for each seed: the run keeps seeds x this many."
    )
    output_dir: Annotated[str | Path, InputPath(always=True)] = Field(
        default="./outputs", description="Folder that holds the run's folder."
    )
    response_model: Annotated[type[BaseModel] | str | None, ObjectRef()] = Field(
        default=None,
        description="Pydantic model of the output, or module:Class naming one; "
        "outputs are JSON checked against it.",
    )
    random_seed: Annotated[int, Range(0)] = Field(
        default=0, description="Seed of the plan, the split, the sampling and the training."
    )

    @field_validator("name")
    @classmethod
    def _is_folder_name(cls, name: str) -> str:
        if not 1 <= len(name) <= 100:
            raise PydanticCustomError(
                "name_length", "has {n} characters, must have 1 to 100", {"n": len(name)}
            )
        reserved = name.split(".")[0].lower() in RESERVED_NAMES
        if not SAFE_NAME.match(name) or reserved or name.endswith("."):
            raise PydanticCustomError(
                "name_unsafe",
                "{name} is no safe folder name: use letters, digits, '.', '_' and '-', "
                "beginning with a letter or digit and not ending with '.'{reserved}",
                {"name": repr(name), "reserved": "; Windows reserves this one" * reserved},
            )
        return name

    @field_validator("instruction")
    @classmethod
    def _says_something(cls, instruction: str) -> str:
        if len(instruction.strip()) < 10:
            raise PydanticCustomError(
                "instruction_short",
                "has {n} characters, must have at least 10",
                {"n": len(instruction.strip())},
            )
        return instruction

    @field_validator("seed")
    @classmethod
    def _has_rows(
        cls, seed: list[dict[str, Any]] | str | Path
    ) -> list[dict[str, Any]] | str | Path:
        if isinstance(seed, list) and not seed:
            raise PydanticCustomError("seed_empty", "has no rows, must have at least one")
        return seed

    @field_validator("output_dir")
    @classmethod
    def _is_a_folder(cls, output_dir: str | Path) -> str | Path:
        wrong = path_problem(output_dir)
        if wrong is None and os.path.isfile(os.path.expanduser(output_dir)):
            wrong = "is a file, and should be a folder"
        if wrong is not None:
            told = {"is": shown(str(output_dir)), "wrong": wrong}
            raise PydanticCustomError("no_folder", "{is} {wrong}", told)
        return output_dir

    @field_validator("teacher", "student")
    @classmethod
    def _names_a_model(cls, name: str) -> str:
        if not name.strip():
            raise PydanticCustomError("no_model", "is empty, must name a model")
        return name.strip()
