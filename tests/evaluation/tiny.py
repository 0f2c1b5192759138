"""A student of a few thousand random weights, an adapter on it, and a dataset version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanodistill.dataset import DatasetVersion, VersionDraft, VersionFacts, write_version
from nanodistill.run_dir import RunFolder
from nanodistill.thinking import resolve_format
from nanodistill.types import Split, Trace

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
INSTRUCTION = "Sort the message into billing or bug."
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}


def make_model(folder: Path, seed: int = 0, **shape: Any) -> Path:
    """An MLX folder with a random Llama whose tokens are bytes."""
    import mlx.core as mx
    from mlx_lm.models import llama

    folder.mkdir(parents=True)
    size = _write_tokenizer(folder)
    config = {**SHAPE, "vocab_size": size, "eos_token_id": size - 1, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    mx.save_safetensors(str(folder / "model.safetensors"), _random(model.parameters()))
    return folder


def make_adapter(folder: Path, model: Path, seed: int = 1) -> Path:
    """A LoRA adapter with random weights, as a training run leaves one."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    folder.mkdir(parents=True)
    lora = {"rank": 2, "scale": 20.0, "dropout": 0.0}
    loaded, _ = load_model(model)
    loaded.freeze()
    linear_to_lora_layers(loaded, 2, lora)
    mx.random.seed(seed)
    mx.save_safetensors(
        str(folder / "adapters.safetensors"), _random(loaded.trainable_parameters())
    )
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def make_dataset(
    run: RunFolder, rows: Iterable[tuple[Split, Trace]], thinking_format: str = "none", **facts: Any
) -> DatasetVersion:
    """A version that holds `rows`."""
    rows = list(rows)
    kept = sum(split != "test" for split, _ in rows)
    described = {"labels": ("billing", "bug"), "requested": kept, **facts}
    return write_version(
        run,
        VersionDraft(
            rows=rows,
            rejected=(),
            shape=resolve_format(thinking_format),
            facts=VersionFacts(
                instruction=INSTRUCTION,
                thinking_format=thinking_format,
                made_by="synthesis",
                **described,
            ),
        ),
    )


def some_rows(test: int = 6, valid: int = 2, seeds: int = 4) -> list[tuple[Split, Trace]]:
    """Rows of two labels by turns: seeds and one synthetic row to train on, some to judge by."""

    def trace(kind: str, n: int, source: Any = "synthetic") -> Trace:
        return Trace(f"{kind} message {n}", "billing" if n % 2 else "bug", source)

    return [
        *(("train", trace("seed", n, "seed")) for n in range(seeds)),
        ("train", trace("train", 0)),
        *(("valid", trace("valid", n)) for n in range(valid)),
        *(("test", trace("test", n)) for n in range(test)),
    ]


def _random(parameters: Any) -> dict[str, Any]:
    """Random weights by name, in the shapes of a model's parameters."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    flat: list[tuple[str, Any]] = tree_flatten(parameters)  # type: ignore[assignment]
    return {name: mx.random.normal(weight.shape) for name, weight in flat}


def _write_tokenizer(folder: Path) -> int:
    """A tokenizer that knows bytes and the template's marks; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[1],
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return len(letters) + len(SPECIAL)
