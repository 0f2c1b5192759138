"""What must not leave this machine: keys, local paths and people's addresses.

What we wrote ourselves (manifest, card, configs) is refused with any of the three in it. Rows are
the user's own: a key of this environment is refused there too; what only looks like a key, a local
path or an address is pointed out. Vocabularies and licences come from the base model, and weights
are numbers: those are searched for known keys alone.

A key that is unknown here and has no known shape is not found.
"""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from nanodistill.errors import InputError
from nanodistill.events import Listener, Notice
from nanodistill.hub.upload_bundle import UploadBundle, chunks
from nanodistill.secrets import Redactor

OF_THE_BASE = ("tokenizer*", "vocab*", "merges.txt", "*.tiktoken", "LICENSE*", "NOTICE*")
KEY_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|gsk_[A-Za-z0-9]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
ADDRESS = re.compile(
    r"[A-Za-z0-9._%+-]+@(?!example\.)(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![A-Za-z0-9])"
)
PERSONS_FOLDERS = r"/(?:home|Users)/[\w.-]+|/root(?=/)|[A-Za-z]:\\+Users\\+[\w.-]+"
SHOWN = 10
WHAT = {
    "secret": "a key or token of this environment",
    "key": "what looks like a key",
    "path": "a path of this machine",
    "address": "an e-mail address",
}


@dataclass(frozen=True)
class Finding:
    """Something found at `where`. `text` is fit to be shown: of a key only its beginning."""

    where: str
    kind: str
    text: str
    in_rows: bool = False

    @property
    def is_refused(self) -> bool:
        return self.kind == "secret" or not self.in_rows

    def __str__(self) -> str:
        shown = f" ({self.text})" if self.text else ""
        return f"{self.where}: {WHAT[self.kind]}{shown}"


def check(
    parcel: UploadBundle, *, secrets: Iterable[str], allowed: Iterable[str], on_event: Listener
) -> None:
    """Scan `parcel` and say what was found.

    Args:
        secrets: known beside those of the environment.
        allowed: texts that the user says may be public.

    Raises:
        InputError: something that must not leave this machine was found.
    """
    found = scan(parcel, secrets=secrets, allowed=allowed)
    refused = [one for one in found if one.is_refused]
    if refused:
        raise InputError(
            f"{parcel.name} was not pushed; it holds what should not leave this machine:\n"
            + _lines(refused),
            next_step="Take it out and make the version anew, or, where a path or an address "
            "is meant to be public, say so: --allow TEXT",
        )
    if found:
        on_event(Notice(f"in rows that are being pushed:\n{_lines(found)}", "warning"))


def scan(
    parcel: UploadBundle, *, secrets: Iterable[str] = (), allowed: Iterable[str] = ()
) -> list[Finding]:
    """Everything in `parcel` that should not be public, in the order of its files."""
    search = Search(Redactor([*secrets, *known_secrets()]), local_paths(), tuple(allowed))
    found: list[Finding] = []
    for path, content in sorted(parcel.files.items()):
        found += _in_file(path, content, search, parcel.user_texts)
    return found


@dataclass(frozen=True)
class Search:
    """What to look for."""

    redact: Redactor
    paths: re.Pattern[str]
    allowed: tuple[str, ...]

    def secret(self, text: str) -> bool:
        return self.redact(text) != text

    def shapes(self, text: str) -> Iterator[tuple[str, str]]:
        """Keys by their shape, paths and addresses in `text`, with how to show them."""
        for allowed in self.allowed:
            text = text.replace(allowed, "")
        for key in KEY_SHAPES.findall(text):
            yield "key", f"{key[:4]}…"
        for path in self.paths.findall(text):
            yield "path", path
        for address in ADDRESS.findall(text):
            yield "address", address


def known_secrets() -> set[str]:
    """Keys in the environment and the Hub's token, wherever it is kept."""
    import os

    from huggingface_hub import get_token

    from nanodistill.secrets import secrets_in

    token = get_token()
    return secrets_in(dict(os.environ)) | ({token} if token else set())


def local_paths() -> re.Pattern[str]:
    """Folders that tell of this machine, and those that anybody's home would be in."""
    own = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
    named = [re.escape(f"{folder}/") for folder in own if folder.parts[1:]]
    return re.compile(rf"(?<![\w.:/-])(?:{'|'.join([PERSONS_FOLDERS, *sorted(named)])})[^\s\"'`)]*")


def _in_file(
    path: str, content: Path | bytes, search: Search, user_texts: Iterable[str]
) -> Iterator[Finding]:
    if path.endswith(".parquet"):
        yield from _in_rows(path, content, search)
    elif path.endswith(".safetensors"):
        yield from _in_text(path, _safetensors_header(content), search)
    elif path.endswith(".gguf") or any(fnmatch(path, name) for name in OF_THE_BASE):
        whole = b"".join(chunks(content)) if not path.endswith(".gguf") else b""
        if search.secret(whole.decode(errors="replace")):
            yield Finding(path, "secret", "")
    else:
        text = b"".join(chunks(content)).decode(errors="replace")
        yield from _in_text(path, text, search, user_texts)


def _in_text(
    path: str, text: str, search: Search, user_texts: Iterable[str] = ()
) -> Iterator[Finding]:
    if search.secret(text):
        lines = [n for n, line in enumerate(text.splitlines(), 1) if search.secret(line)]
        yield Finding(f"{path}, line {lines[0]}" if lines else path, "secret", "")
    for own in filter(None, user_texts):
        for written in (own, json.dumps(own, ensure_ascii=False)[1:-1]):
            text = text.replace(written, "\n" * written.count("\n"))
    for number, line in enumerate(text.splitlines(), 1):
        for kind, shown in search.shapes(line):
            yield Finding(f"{path}, line {number}", kind, shown)


def _in_rows(path: str, content: Path | bytes, search: Search) -> Iterator[Finding]:
    import io

    import pyarrow.parquet as pq

    source = io.BytesIO(content) if isinstance(content, bytes) else content
    seen: set[tuple[str, str]] = set()
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield from _in_row(path, row, search, seen)


def _in_row(
    path: str, row: dict[str, Any], search: Search, seen: set[tuple[str, str]]
) -> Iterator[Finding]:
    """Each finding once for a file: `messages` repeat what other columns hold."""
    text = "\n".join(_strings(row))
    found = [("secret", "")] if search.secret(text) else []
    for one in [*found, *search.shapes(text)]:
        if one not in seen:
            seen.add(one)
            yield Finding(f"{path}, row {row.get('id', '?')}", *one, in_rows=True)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _safetensors_header(content: Path | bytes) -> str:
    """The names and notes before the weights."""
    first = next(chunks(content), b"")
    (length,) = struct.unpack("<Q", first[:8]) if len(first) >= 8 else (0,)
    return first[8 : 8 + length].decode(errors="replace")


def _lines(found: list[Finding]) -> str:
    lines = [f"  {one}" for one in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more")
    return "\n".join(lines)
