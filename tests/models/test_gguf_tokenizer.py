"""Tokenizers from GGUF metadata, against what llama.cpp made of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.tiny import Tiny, byte_level, sentencepiece, weights, write_gguf
from nanodistill.errors import ModelError
from nanodistill.models.gguf.convert import convert_gguf
from nanodistill.models.gguf.tokenizer_files import PRE_TOKENIZERS

GOLDEN = json.loads((Path(__file__).parent / "llama_cpp_tokens.json").read_text())
CASES = [(name, case["ids"]) for case in GOLDEN["tokens"] for name in case["tokenizers"]]


def tokenizer_called(name: str) -> dict[str, Any]:
    if name == "sentencepiece":
        return sentencepiece()
    if name.startswith("sentencepiece"):
        return sentencepiece(**{"ggml.add_space_prefix": False, "ggml.add_eos_token": True})
    metadata = byte_level(name.partition(",")[0])
    if name.endswith("BOS not told"):
        del metadata["ggml.add_bos_token"]
    return metadata


def converted(folder: Path, metadata: dict[str, Any], arch: str = "llama") -> Any:
    from mlx_lm.utils import load_tokenizer

    tiny = Tiny(arch=arch)
    source = folder / "tiny.gguf"
    write_gguf(source, tiny, weights(tiny, len(metadata["ggml.tokens"])), metadata)
    target = folder / "mlx"
    target.mkdir()
    convert_gguf(source, target)
    config = json.loads((target / "config.json").read_text())
    return load_tokenizer(target, eos_token_ids=config["eos_token_id"])


@pytest.mark.parametrize(("name", "ids"), CASES, ids=[name for name, _ in CASES])
def test_tokens_are_llama_cpps(name: str, ids: list[list[int]], tmp_path: Path) -> None:
    tokenizer = converted(tmp_path, tokenizer_called(name))
    assert [tokenizer.encode(text) for text in GOLDEN["texts"]] == ids


def test_every_way_of_cutting_text_is_compared() -> None:
    assert set(PRE_TOKENIZERS) <= {name for name, _ in CASES}


@pytest.mark.parametrize("name", ["smollm", "llama-bpe", "tekken", "sentencepiece"])
def test_text_comes_back_from_its_tokens(name: str, tmp_path: Path) -> None:
    tokenizer = converted(tmp_path, tokenizer_called(name))
    for text in ("hello the world\n\n\n", "ünïcødé 你好 🙂", "  two  spaces "):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokens) == text


def test_composed_characters_for_the_models_that_expect_them(tmp_path: Path) -> None:
    """llama.cpp leaves this out; Qwen's own tokenizer composes."""
    tokenizer = converted(tmp_path, byte_level("qwen2"), "qwen2")
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_the_chat_template_and_the_ends_come_along(tmp_path: Path) -> None:
    tokenizer = converted(tmp_path, byte_level())
    tokens = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True
    )
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokens) == text
    assert tokenizer.eos_token_ids == {2, 0}
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "user\nhello\nassistant\n"


def test_an_end_of_turn_that_the_file_names_is_an_end(tmp_path: Path) -> None:
    tokenizer = converted(tmp_path, byte_level("smollm", **{"ggml.eot_token_id": 77}))
    assert tokenizer.eos_token_ids == {2, 0, 77}


@pytest.mark.parametrize(
    ("metadata", "arch", "words"),
    [
        (byte_level("some-new-model"), "llama", "'some-new-model'.*smollm"),
        (byte_level("gpt-2"), "qwen2", "'gpt-2'.*only deepseek-r1-qwen, qwen2"),
        (byte_level(**{"ggml.model": "bert"}), "llama", "kind 'bert'.*gpt2, llama"),
        (sentencepiece(), "qwen2", "kind 'llama'.*architecture"),
    ],
    ids=["pre", "pre of the architecture", "kind", "kind of the architecture"],
)
def test_what_is_not_known_is_refused(
    metadata: dict[str, Any], arch: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        converted(tmp_path, metadata, arch)
