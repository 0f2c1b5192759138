"""A folder's tokenizer.json as GGUF metadata.

GGUF stores how text is split before merging only as a name (`tokenizer.ggml.pre`). We find it by
trying: the name whose splitting, as the reader implements it, agrees with the tokenizer's own on a
text with something of everything. If none agrees there is no name, and a guess would tokenize most
text correctly and some of it not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.errors import ModelError
from nanodistill.exporting.tokenizer_export import adds_bos, adds_eos, end_tokens, special_tokens
from nanodistill.models.gguf.tokenizer_files import (
    CONTROL,
    PRE_TOKENIZERS,
    USER_DEFINED,
    WHOLE_WORDS_FIRST,
    pre_tokenizer_of,
)

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, UNUSED, BYTE = 1, 2, 5, 6
SPACE = "▁"

PROBE = (
    "Hello, world! It's 3.14159 or 1234567 times I'LL they've don't\n\n\n \t  indented\r\n"
    "CamelCase snake_case kebab-case ALLCAPS miXed123abc 12ab\u00b2\u00bd\u2167 5\u0663 "
    "na\u00efve cafe\u0301 \u0130stanbul \u01c5 \u02b0 \u4f60\u597d\u4e16\u754c \u3053\u3093 "
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 "
    "\U0001f600\U0001f468\u200d\U0001f469 "
    "$100% #tag @user a/b\\c <|x|> {'k': \"v\"}; //comment\n  \n!!\n...  end  \u00a0x\u3000y "
    "\n/path/to \n\n/ 's 'S 'LL'd x'y ''' --- ___ 1,000.00"
)
EDGES = ("", " ", "  ", "\n", "a ", " a", "1", "é")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their kinds. Scores for SentencePiece, merges for byte-level BPE."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str] | None
    scores: list[float] | None


def add_tokenizer(
    writer: GGUFWriter, folder: Path, config: Mapping[str, Any], template: str | None
) -> None:
    """All of the tokenizer in `folder`, for a model with `config`, with `template` for chats.

    Raises:
        ModelError: it is of a kind that GGUF can't hold.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no tokenizer.json, which the GGUF writer reads.")
    tokenizer = Tokenizer.from_file(str(file))
    vocabulary = read_vocabulary(tokenizer, int(config["vocab_size"]), file)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(_prefixes_space(tokenizer))
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    _add_special(writer, tokenizer, folder, config)
    if template is not None:
        writer.add_chat_template(template)


def read_vocabulary(tokenizer: Tokenizer, size: int, file: Path) -> Vocabulary:
    """The vocabulary, filled up to `size`, which is the number of rows of the embedding."""
    described = json.loads(tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise ModelError(f"{file} is a {model['type']} tokenizer; the GGUF writer knows BPE.")
    by_id = {id: token for token, id in tokenizer.get_vocab(with_added_tokens=True).items()}
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(size)]
    kinds = [NORMAL if id in by_id else UNUSED for id in range(size)]
    for added in described["added_tokens"]:
        if added["id"] < size:
            kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    merges = [_merge(merge) for merge in model["merges"]]
    if not model.get("byte_fallback"):
        _check_normalizer(described, file)
        pre = find_pre_name(tokenizer, bool(model.get("ignore_merges")), file)
        return Vocabulary("gpt2", pre, tokens, kinds, [" ".join(m) for m in merges], None)
    for id, token in enumerate(tokens):
        if kinds[id] == NORMAL and len(token) == 6 and token.startswith("<0x"):
            kinds[id] = BYTE
    if model.get("unk_token") in tokens:
        kinds[tokens.index(model["unk_token"])] = UNKNOWN
    return Vocabulary("llama", "default", tokens, kinds, None, scores_of(tokens, merges))


def _merge(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def scores_of(tokens: Iterable[str], merges: Iterable[tuple[str, str]]) -> list[float]:
    """SentencePiece's scores, whose order is that of the merges: the earlier, the higher."""
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    return [-float(rank[token]) if token in rank else 0.0 for token in tokens]


def find_pre_name(tokenizer: Tokenizer, whole_words_first: bool, file: Path) -> str:
    """GGUF's name for the way in which `tokenizer` cuts text.

    Raises:
        ModelError: it has none that we know.
    """
    own = tokenizer.pre_tokenizer
    for name, patterns in PRE_TOKENIZERS.items():
        if (name in WHOLE_WORDS_FIRST) != whole_words_first or own is None:
            continue
        known = pre_tokenizer_of(patterns)
        if all(_pieces(own, text) == _pieces(known, text) for text in (PROBE, *EDGES)):
            return name
    raise ModelError(
        f"{file} cuts text in a way that has no name in GGUF which NanoDistill knows "
        f"({', '.join(PRE_TOKENIZERS)}).",
        next_step="llama.cpp's converter may know it: see --converter in "
        "docs/serving-and-export.md.",
    )


def _pieces(pre_tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def _check_normalizer(described: Mapping[str, Any], file: Path) -> None:
    """llama.cpp normalizes nothing for byte-level BPE. NFC changes no composed text, and Qwen's
    own GGUF files leave it out too."""
    normalizer = described["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise ModelError(f"{file} normalizes text ({normalizer['type']}), which GGUF can't say.")


def _prefixes_space(tokenizer: Tokenizer) -> bool:
    first = tokenizer.encode("a", add_special_tokens=False).tokens[0]
    return bool(first.startswith(SPACE))


def _add_special(
    writer: GGUFWriter, tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any]
) -> None:
    own = {name: tokenizer.token_to_id(text) for name, text in special_tokens(folder).items()}
    ends = [*end_tokens(tokenizer, folder, config), None, None, None]
    named = {
        writer.add_bos_token_id: own.get("bos_token"),
        writer.add_unk_token_id: own.get("unk_token"),
        writer.add_pad_token_id: own.get("pad_token"),
        writer.add_eos_token_id: ends[0],
        writer.add_eot_token_id: ends[1],
        writer.add_eom_token_id: ends[2],
    }
    for add, token in named.items():
        if token is not None:
            add(token)
    writer.add_add_bos_token(adds_bos(tokenizer, folder))
    writer.add_add_eos_token(adds_eos(tokenizer, folder))
