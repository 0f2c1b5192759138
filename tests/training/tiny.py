"""A student of a few thousand random weights whose tokens are bytes, and rows to train it on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.models.blas import load_fast_blas

load_fast_blas()

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END, BEGIN = "<|im_start|>", "<|im_end|>", "<|begin|>"
INSTRUCTION = "Say which."
LABELS = ("billing", "bug", "account", "shipping")
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}


def make_student(
    folder: Path, *, template: str = TEMPLATE, spread: float = 0.05, **shape: Any
) -> Path:
    """An MLX folder with a random model of the kind that `shape` names."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    folder.mkdir(parents=True)
    size = _write_tokenizer(folder, template)
    config = {**SHAPE, "vocab_size": size, "eos_token_id": size - 1, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    kind, arguments = _get_classes(config)
    model = kind(arguments.from_dict(config))
    weights: dict[str, mx.array] = {
        name: mx.random.normal(array.shape) * spread if array.ndim > 1 else array
        for name, array in dict(tree_flatten(model.parameters())).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def _write_tokenizer(folder: Path, template: str) -> int:
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteDecoder()
    tokenizer.add_special_tokens([BEGIN, START, END])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=END
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def make_row(text: str, output: str, thinking: str | None = None) -> dict[str, Any]:
    answer = output if thinking is None else f"<thinking>{thinking}</thinking>{output}"
    messages = [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": text},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "input": text, "output": output, "thinking": thinking}


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of varied length whose output follows from their first word."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.choice(LABELS)
        rest = " ".join(chance.choices(("it", "will", "not", "do", "that"), k=chance.randint(1, 9)))
        rows.append(make_row(f"{label[:2]} {rest}", label))
    return rows


@dataclass(frozen=True)
class Rows:
    """What the trainer takes of a dataset version, without a folder of parquet files."""

    splits: dict[str, list[dict[str, Any]]]
    fingerprint: str = "f" * 64
    name: str = "v0001-ffffffff"
    path: Path = field(default=Path("datasets/v0001-ffffffff"))
    manifest: Any = field(
        default_factory=lambda: SimpleNamespace(
            labels=LABELS, response_schema=None, thinking_format="none"
        )
    )

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        return iter(self.splits[split])


def some_rows(train: int = 22, valid: int = 6) -> Rows:
    return Rows({"train": make_rows(train, 1), "valid": make_rows(valid, 2)})


def make_config(student: Path, output: Path, **settings: Any) -> DistillationConfig:
    """A run of a few quick updates; the guard lets other work on this machine be."""
    chosen = {
        "batch_size": 4,
        "learning_rate": 1e-2,
        "lora_layers": 2,
        "max_memory_gb": 64,
        "memory_hard_limit_gb": 64,
        "cpu_capacity_percent": 1.0,
    }
    return DistillationConfig(
        name="tiny",
        seed=[{"input": "a", "output": "b"}],
        instruction=INSTRUCTION,
        student=str(student),
        output_dir=str(output),
        **(chosen | settings),
    )
