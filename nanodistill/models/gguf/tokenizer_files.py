"""The tokenizer in a GGUF file's metadata, written as Hugging Face's.

There are two kinds. Byte-level BPE ("gpt2") splits text before merging in a way that
the file only names (`tokenizer.ggml.pre`), so the patterns must be known here.
SentencePiece's BPE ("llama") has no merges: they follow from the scores of its pieces.
An unknown name is an error, because a guess would tokenize most text correctly and some
of it not.

Generation ends at the file's EOS, end of turn and end of message, and at the control
tokens that llama.cpp takes for an end by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

    from nanodistill.models.gguf.convert import GgufFile

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Patterns by name, each splitting what the one before it left (llama.cpp, src/llama-vocab.cpp).
PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2,),
    "phi-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "starcoder": (r"\p{N}", GPT2),
    "refact": (r"\p{N}", GPT2),
    "command-r": (r"\p{N}", GPT2),
    "llama-bpe": (LLAMA3,),
    "llama3": (LLAMA3,),
    "llama-v3": (LLAMA3,),
    "falcon3": (LLAMA3,),
    "dbrx": (LLAMA3,),
    "smaug-bpe": (LLAMA3,),
    "qwen2": (QWEN2,),
    "deepseek-r1-qwen": (QWEN2,),
    "stablelm2": (QWEN2,),
    "tekken": (TEKKEN,),
}
# These take a piece of text that is in the vocabulary as it is, without merging.
WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}
# These add BOS unless the file says otherwise.
BOS_BY_DEFAULT = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"}
# Models with these were trained on composed characters (Unicode's NFC).
COMPOSED = {"qwen2", "deepseek-r1-qwen"}
# Architectures for which transformers splits text in its own way, whatever tokenizer.json says, and
# the names of that way.
TRANSFORMERS_SPLITS: Mapping[str, set[str]] = {"qwen2": COMPOSED}

ENDS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
)

CONTROL, USER_DEFINED = 3, 4  # of gguf.TokenType


def write_tokenizer(file: GgufFile, folder: Path) -> dict[str, Any]:
    """Write tokenizer.json and tokenizer_config.json; return the token ids for config.json."""
    kind = str(file["tokenizer.ggml.model"])
    tokens = [str(token) for token in file["tokenizer.ggml.tokens"]]
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        known = ", ".join(sorted(builders))
        raise ModelError(f"{file.path}: tokenizer kind {kind!r} is not supported, only {known}")
    if kind != "gpt2" and file["general.architecture"] in TRANSFORMERS_SPLITS:
        raise ModelError(f"{file.path}: tokenizer kind {kind!r} does not fit its architecture")
    tokenizer = builders[kind](file, tokens)
    tokenizer.add_tokens(list(_added_tokens(file, tokens)))
    _add_template(tokenizer, file, tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(_settings(file, tokens), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    bos = _token_id(file, tokens, "bos")
    ids: dict[str, Any] = {"eos_token_id": _end_ids(file, tokens)}
    return ids if bos is None else ids | {"bos_token_id": bos}


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    name = _pre_name(file)
    halves = (str(merge).partition(" ") for merge in file["tokenizer.ggml.merges"])
    merges = [(left, right) for left, _, right in halves]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=name in WHOLE_WORDS_FIRST,
        )
    )
    if name in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer_of(PRE_TOKENIZERS[name])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_name(file: GgufFile) -> str:
    name = str(file.get("tokenizer.ggml.pre", "default"))
    usable = TRANSFORMERS_SPLITS.get(str(file["general.architecture"]), set(PRE_TOKENIZERS))
    if name not in usable:
        known = ", ".join(sorted(usable))
        raise ModelError(
            f"{file.path}: pre-tokenizer {name!r} is not supported for its architecture, only "
            f"{known}",
            next_step="Use the model's Hugging Face repository or an MLX folder instead.",
        )
    return name


def pre_tokenizer_of(patterns: Sequence[str]) -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    steps: list[PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def _sentencepiece(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = [float(score) for score in file["tokenizer.ggml.scores"]]
    unknown = int(file.get("tokenizer.ggml.unknown_token_id", 0))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=_merges(tokens, scores),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    space = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *space] if prefix else space
    )
    strip = [decoders.Strip(content=" ", left=1, right=0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every way to merge two pieces into another, the best score of the result first."""
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [
        (-scores[i], ids[token[:cut]], ids[token[cut:]])
        for i, token in enumerate(tokens)
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [(tokens[left], tokens[right]) for _, left, right in sorted(merges)]


def _added_tokens(file: GgufFile, tokens: Sequence[str]) -> Iterator[AddedToken]:
    from tokenizers import AddedToken

    for token, kind in zip(tokens, file["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, USER_DEFINED):
            yield AddedToken(token, special=kind == CONTROL, normalized=False)


def _add_template(tokenizer: Tokenizer, file: GgufFile, tokens: Sequence[str]) -> None:
    """Add BOS before and EOS after plain text, if the file says so."""
    from tokenizers import processors

    sentencepiece = file["tokenizer.ggml.model"] == "llama"
    bos_default = sentencepiece or file.get("tokenizer.ggml.pre", "") in BOS_BY_DEFAULT
    before = _added_around(file, tokens, "bos", default=bos_default)
    after = _added_around(file, tokens, "eos", default=False)
    sequence: list[Any] = [] if sentencepiece else [processors.ByteLevel(trim_offsets=False)]
    if before or after:
        first = [*(tokens[i] for i in before), "$A", *(tokens[i] for i in after)]
        second = [f"{'$B' if step == '$A' else step}:1" for step in first]
        special = [(tokens[i], i) for i in (*before, *after)]
        sequence.append(
            processors.TemplateProcessing(
                single=first, pair=[*first, *second], special_tokens=special
            )
        )
    if sequence:
        tokenizer.post_processor = processors.Sequence(sequence)


def _added_around(
    file: GgufFile, tokens: Sequence[str], which: str, *, default: bool
) -> tuple[int, ...]:
    """The token to add before ("bos") or after ("eos") plain text, or none."""
    is_added = bool(file.get(f"tokenizer.ggml.add_{which}_token", default))
    token = _token_id(file, tokens, which)
    return (token,) if is_added and token is not None else ()


def _token_id(file: GgufFile, tokens: Sequence[str], which: str) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    if key not in file:
        return None
    value = int(file[key])
    return value if 0 <= value < len(tokens) else None


def _end_ids(file: GgufFile, tokens: Sequence[str]) -> list[int]:
    named = [_token_id(file, tokens, which) for which in ("eos", "eot", "eom")]
    kinds = file["tokenizer.ggml.token_type"]
    usual = [i for i, token in enumerate(tokens) if token in ENDS and kinds[i] == CONTROL]
    return list(dict.fromkeys([token for token in named if token is not None] + usual))


def _settings(file: GgufFile, tokens: Sequence[str]) -> dict[str, Any]:
    special = {
        f"{name}_token": tokens[token]
        for name, which in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (token := _token_id(file, tokens, which)) is not None
    }
    if "eos_token" in special:
        special.setdefault("pad_token", special["eos_token"])
    template = file.get("tokenizer.chat_template", None)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(file[f"{file['general.architecture']}.context_length"]),
        **special,
        **({"chat_template": str(template)} if template else {}),
    }
