"""The student's tokenizer as files: special tokens, `tokenizer_kwargs`, chat template.

Whoever loads an export has the files and no run file, so what `tokenizer_kwargs` change is written
into tokenizer_config.json, where loaders read such values. Without kwargs the files are the base's
to the byte.

With the instruction baked into the chat template, a conversation without a system message of its
own begins with the one the student was trained on. The template's own text stays as it is, after
two statements of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nanodistill.exporting.mlx_folder import copy_beside
from nanodistill.models.chat_templates import (
    JINJA,
    SETTINGS,
    has_template,
    read_template,
    with_place_for_system,
    without_given_date,
)
from nanodistill.run_dir import read_json, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
if TYPE_CHECKING:
    from nanodistill.exporting.trained_adapter import TrainedAdapter


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


OF_LOADING = {
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
    "trust_remote_code", "use_fast",
}  # fmt: skip
"""What says where a tokenizer is loaded from, and nothing of the tokenizer."""


def write_tokenizer(source: TrainedAdapter, folder: Path) -> None:
    """Put tokenizer, template and licence of the student into `folder`."""
    copy_beside(source.base.path, folder)
    apply_kwargs(folder, source.tokenizer_kwargs)
    settle_template(folder)


@contextmanager
def tokenizer_folder(source: TrainedAdapter) -> Iterator[Path]:
    """A folder with the same, for as long as the block lasts."""
    with TemporaryDirectory() as folder:
        write_tokenizer(source, Path(folder))
        yield Path(folder)


def settle_template(folder: Path) -> None:
    """Have the chat template in `folder` say what it said in training, whatever program reads it:
    with a place for the system message, and without a date of that program's own."""
    if not has_template(folder):
        return
    template = read_template(folder)
    placed = with_place_for_system(template, special_tokens(folder))
    settled = without_given_date(placed)
    if settled != template:
        put_template(folder, settled)


def apply_kwargs(folder: Path, kwargs: Mapping[str, Any]) -> None:
    """Write `kwargs` into the settings of the tokenizer in `folder`."""
    values = {name: value for name, value in kwargs.items() if name not in OF_LOADING}
    if not values:
        return
    template = values.get("chat_template")
    if isinstance(template, str):
        (folder / JINJA).write_text(template, encoding="utf-8")
        del values["chat_template"]
    write_json(folder / SETTINGS, read_json(folder / SETTINGS) | values)


def with_instruction(template: str, instruction: str) -> str:
    """`template` with `instruction` as the system message of conversations that have none."""
    message = f"{{'role': 'system', 'content': {_literal(instruction)}}}"
    return (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{message}] + messages -%}}"
        "{%- endif -%}" + template
    )


def bake(folder: Path, instruction: str) -> None:
    """Put `instruction` into the chat template of `folder`."""
    put_template(folder, with_instruction(read_template(folder), instruction))


def put_template(folder: Path, template: str) -> None:
    """Make `template` the default one of `folder`, where the one before it lies."""
    if (folder / JINJA).is_file():
        (folder / JINJA).write_text(template, encoding="utf-8")
        return
    settings = read_json(folder / SETTINGS)
    write_json(folder / SETTINGS, settings | {"chat_template": _swapped(settings, template)})


def _swapped(settings: dict[str, Any], baked: str) -> Any:
    held = settings["chat_template"]
    if isinstance(held, str):
        return baked
    return [each | {"template": baked} if each["name"] == "default" else each for each in held]


def _literal(text: str) -> str:
    """A string of Jinja, which reads backslashes as JSON does; other letters as they are."""
    return json.dumps(text, ensure_ascii=False)
