"""A tokenizer's special tokens: their texts, and those that end an answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.runfolder import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that tokenizer_config.json names, by `bos_token` and so on."""
    settings = read_json(folder / "tokenizer_config.json")
    named = {name: settings.get(name) for name in NAMES}
    return {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in named.items()
        if value is not None
    }


def end_tokens(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer, the tokenizer's own first."""
    eos = special_tokens(folder).get("eos_token")
    told = [config.get("eos_token_id"), _generation(folder).get("eos_token_id")]
    ids = [tokenizer.token_to_id(eos)] if eos is not None else []
    for held in told:
        ids += held if isinstance(held, list) else [held]
    return list(dict.fromkeys(token for token in ids if token is not None))


def adds_bos(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether the tokenizer puts its BOS token before any text."""
    bos = special_tokens(folder).get("bos_token")
    return bos is not None and tokenizer.encode("a").tokens[0] == bos


def adds_eos(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether the tokenizer puts its EOS token behind any text."""
    eos = special_tokens(folder).get("eos_token")
    return eos is not None and tokenizer.encode("a").tokens[-1] == eos


def _generation(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}
