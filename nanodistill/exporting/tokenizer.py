"""The student's tokenizer as files: the base's own, with what `tokenizer_kwargs` say in them.

A student is asked by the tokenizer that it was trained with. Whoever loads what was
exported has the files and no run file, so what the kwargs change is written into
tokenizer_config.json, which is where the loader has its own values from. Without any
the files are the base's to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nanodistill.exporting.folder import copy_beside
from nanodistill.exporting.special import special_tokens
from nanodistill.exporting.template import put_template
from nanodistill.models.templates import (
    JINJA,
    SETTINGS,
    has_template,
    read_template,
    with_place_for_system,
    without_given_date,
)
from nanodistill.runfolder import read_json, write_json

if TYPE_CHECKING:
    from nanodistill.exporting.source import Source

OF_LOADING = {
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
    "trust_remote_code", "use_fast",
}  # fmt: skip
"""What says where a tokenizer is loaded from, and nothing of the tokenizer."""


def write_tokenizer(source: Source, folder: Path) -> None:
    """Put tokenizer, template and licence of the student into `folder`."""
    copy_beside(source.base.path, folder)
    settle(folder, source.tokenizer_kwargs)
    settle_template(folder)


@contextmanager
def tokenizer_folder(source: Source) -> Iterator[Path]:
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


def settle(folder: Path, kwargs: Mapping[str, Any]) -> None:
    """Write `kwargs` into the settings of the tokenizer in `folder`."""
    values = {name: value for name, value in kwargs.items() if name not in OF_LOADING}
    if not values:
        return
    template = values.get("chat_template")
    if isinstance(template, str):
        (folder / JINJA).write_text(template, encoding="utf-8")
        del values["chat_template"]
    write_json(folder / SETTINGS, read_json(folder / SETTINGS) | values)
