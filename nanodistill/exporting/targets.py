"""What an export makes, where, and how it is scored.

    OUTPUT_DIR/NAME/model/                      --to mlx
    OUTPUT_DIR/NAME/gguf/f16/NAME-F16.gguf      --to gguf
    OUTPUT_DIR/NAME/ollama/Modelfile            --to ollama, the GGUF file beside it

Each has a nanodistill.json beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nanodistill.config import DistillationConfig
from nanodistill.events import Listener, Notice
from nanodistill.exporting import llama_cpp
from nanodistill.exporting.gguf_writer import check_writable, unwritable
from nanodistill.exporting.llama_cpp import convert, program_in
from nanodistill.exporting.mlx_folder import mlx_forms
from nanodistill.exporting.ollama import (
    TWO_TURNS,
    chat_template,
    context_length,
    modelfile,
    pieces_of,
)
from nanodistill.exporting.parity import Parity, ParityCheck
from nanodistill.exporting.tokenizer_export import (
    bake,
    tokenizer_folder,
    with_instruction,
    write_tokenizer,
)
from nanodistill.exporting.trained_adapter import TrainedAdapter
from nanodistill.exporting.worker import ExportJob, Form, GgufType, run_export_job
from nanodistill.models.chat_templates import read_template
from nanodistill.models.gguf.convert import convert_gguf
from nanodistill.run_dir import RunFolder, write_atomic

To = Literal["mlx", "gguf", "ollama"]
Reader = Literal["llama.cpp", "mlx"]

SCORED_BY_READING = (
    "the file is scored by reading it back: llama.cpp (pip install xllamacpp) is not installed"
)
NOT_READ_BACK = (
    "what the converter was given is scored, and not the file: NanoDistill can't read it back, "
    "and llama.cpp (pip install xllamacpp) is not installed"
)
DEQUANTIZED = "unpacked"
FIRST_TURN_ALONE = (
    "Ollama's template language can't say this chat template for more than one turn; "
    "the first turn is exact"
)


@dataclass(frozen=True)
class Options:
    """What a person may choose about an export.

    `bake_instruction` puts the instruction into the chat template, for
    conversations without a system message; `gguf_type` is how a GGUF file
    stores the weights; `converter` an environment with llama.cpp's converter, used
    in place of our own writer.
    """

    bake_instruction: bool = False
    gguf_type: GgufType = "f16"
    converter: Path | None = None


class Target(Protocol):
    """Something to build in a folder that will lie at `place`.

    `result` is what of it to name to a person, `how` what of the options
    decides what comes of it. The last of `forms` loses the least.
    """

    @property
    def to(self) -> To: ...

    @property
    def options(self) -> Options: ...

    @property
    def place(self) -> Path: ...

    @property
    def result(self) -> Path: ...

    @property
    def how(self) -> Mapping[str, Any]: ...

    @property
    def forms(self) -> tuple[Form, ...]: ...

    def build(self, form: Form, folder: Path) -> None: ...

    def score(self, gate: ParityCheck, folder: Path) -> Parity: ...


def target_for(
    to: To,
    config: DistillationConfig,
    run: RunFolder,
    source: TrainedAdapter,
    options: Options,
    on_event: Listener,
) -> Target:
    """The target that `to` names. Raises InputError if the student can't be written so."""
    if to == "mlx":
        return MlxTarget(run.model, source, options)
    if options.converter is None:
        check_writable(source.base_config, source.base_name)
    place = run.root / "ollama" if to == "ollama" else run.root / "gguf" / options.gguf_type
    reader: Reader = "llama.cpp" if llama_cpp.is_available() else "mlx"
    gguf = GgufTarget(place, source, options, config.name, on_event, reader)
    return gguf if to == "gguf" else OllamaTarget(gguf, config)


@dataclass(frozen=True)
class MlxTarget:
    """The folder that `mlx_lm.load` takes."""

    place: Path
    source: TrainedAdapter
    options: Options
    to: To = "mlx"

    @property
    def result(self) -> Path:
        return self.place

    @property
    def how(self) -> Mapping[str, Any]:
        return {"bake_instruction": self.options.bake_instruction}

    @property
    def forms(self) -> tuple[Form, ...]:
        return mlx_forms(self.source.base_config)

    def build(self, form: Form, folder: Path) -> None:
        base = self.source.base.path
        run_export_job(ExportJob(str(base), str(self.source.adapter), form, str(folder), {}))
        write_tokenizer(self.source, folder)
        if self.options.bake_instruction:
            bake(folder, self.source.instruction)

    def score(self, gate: ParityCheck, folder: Path) -> Parity:
        return gate.check(folder)


@dataclass(frozen=True)
class GgufTarget:
    """One file that llama.cpp loads. `reader` scores it: llama.cpp, or MLX by reading it back."""

    place: Path
    source: TrainedAdapter
    options: Options
    name: str
    on_event: Listener
    reader: Reader
    to: To = "gguf"

    @property
    def file(self) -> str:
        return f"{self.name}-{self.options.gguf_type.upper()}.gguf"

    @property
    def result(self) -> Path:
        return self.place / self.file

    @property
    def how(self) -> Mapping[str, Any]:
        return {
            "bake_instruction": self.options.bake_instruction,
            "gguf_type": self.options.gguf_type,
            "reader": self.reader,
            "converter": self.options.converter is not None,
        }

    @property
    def forms(self) -> tuple[Form, ...]:
        return (self.options.gguf_type,)

    def build(self, form: Form, folder: Path) -> None:
        if self.options.converter is None:
            base, adapter = str(self.source.base.path), str(self.source.adapter)
            with tokenizer_folder(self.source) as tokenizer:
                settings = {
                    "name": self.name,
                    "tokenizer": str(tokenizer),
                    "template": self._template(tokenizer),
                }
                run_export_job(ExportJob(base, adapter, form, str(folder / self.file), settings))
        else:
            self._convert(self.options.converter, folder)

    def _convert(self, environment: Path, folder: Path) -> None:
        """By llama.cpp's converter, which is given the whole model unpacked."""
        program = program_in(environment, self.on_event)
        unpacked = folder / DEQUANTIZED
        unpacked.mkdir()
        base, adapter = self.source.base.path, str(self.source.adapter)
        run_export_job(ExportJob(str(base), adapter, "plain", str(unpacked), {}))
        write_tokenizer(self.source, unpacked)
        if self.options.bake_instruction:
            bake(unpacked, self.source.instruction)
        convert(program, unpacked, folder / self.file, self.options.gguf_type, self.name)

    def score(self, gate: ParityCheck, folder: Path) -> Parity:
        """In llama.cpp, or by reading the file back, or, where that can't be read here, by what
        the converter was given."""
        given = folder / DEQUANTIZED
        try:
            if self.reader == "llama.cpp":
                return gate.check_in_llamacpp(folder / self.file)
            if unwritable(self.source.base_config) is not None:
                self.on_event(Notice(NOT_READ_BACK, "warning"))
                return gate.check(given)
            self.on_event(Notice(SCORED_BY_READING))
            return self._read_back(gate, folder)
        finally:
            shutil.rmtree(given, ignore_errors=True)

    def _read_back(self, gate: ParityCheck, folder: Path) -> Parity:
        read = folder / "read-back"
        read.mkdir()
        convert_gguf(folder / self.file, read)
        parity = gate.check(read)
        shutil.rmtree(read)
        return parity

    def _template(self, tokenizer: Path) -> str:
        template = read_template(tokenizer)
        if self.options.bake_instruction:
            return with_instruction(template, self.source.instruction)
        return template


@dataclass(frozen=True)
class OllamaTarget:
    """A GGUF file and the Modelfile that makes an Ollama model of it."""

    gguf: GgufTarget
    config: DistillationConfig
    to: To = "ollama"

    @property
    def options(self) -> Options:
        return self.gguf.options

    @property
    def place(self) -> Path:
        return self.gguf.place

    @property
    def result(self) -> Path:
        return self.place / "Modelfile"

    @property
    def how(self) -> Mapping[str, Any]:
        longest = {"max_seq_length": self.config.max_seq_length}
        return {**self.gguf.how, **longest}

    @property
    def forms(self) -> tuple[Form, ...]:
        return self.gguf.forms

    def build(self, form: Form, folder: Path) -> None:
        text = self._modelfile()
        self.gguf.build(form, folder)
        write_atomic(folder / "Modelfile", text.encode())

    def score(self, gate: ParityCheck, folder: Path) -> Parity:
        return self.gguf.score(gate, folder)

    def _modelfile(self) -> str:
        source, config = self.gguf.source, self.config
        with tokenizer_folder(source) as tokenizer:
            template = chat_template(tokenizer, source.base_config)
        pieces = pieces_of(template)
        if pieces.render(TWO_TURNS) != template.render(TWO_TURNS):
            self.gguf.on_event(Notice(FIRST_TURN_ALONE, "warning"))
        limit = int(source.base_config["max_position_embeddings"])
        longest = min(config.max_seq_length, limit)
        parameters = {
            "temperature": 0,
            "repeat_penalty": 1,
            "num_ctx": context_length(longest, config.max_new_tokens, limit),
            "num_predict": config.max_new_tokens,
        }
        return modelfile(self.gguf.file, pieces, source.instruction, template.ends, parameters)
