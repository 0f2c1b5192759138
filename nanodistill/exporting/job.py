"""What an export asks its child process for, and what comes back.

One JSON object each way. The child holds the model; its memory is given back
with it, and it gets the fast BLAS whatever the caller has imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

MlxForm = Literal["as base", "8 bits", "unquantized"]
GgufType = Literal["f16", "q8_0"]
Form = MlxForm | GgufType
Written = Form | Literal["plain"]
"""`plain` is unpacked as a whole: Hugging Face weights, for other programs to read."""


@dataclass(frozen=True, slots=True)
class Job:
    """Fuse `adapter` into the model in folder `base` and write it to `target`.

    MLX forms write weights and config.json into the folder `target`; GGUF
    types the whole file. `settings` are a GGUF file's: its name, chat template
    and the folder with its tokenizer.
    """

    base: str
    adapter: str
    form: Written
    target: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: how many modules the adapter changed, and the size in bytes."""

    changed: int
    size: int
