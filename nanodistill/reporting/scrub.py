"""Nothing of this machine in the file: keys, tokens and folders are taken out of every text.

The rows are the user's own and stay as they are but for keys (those that are known here, and
what has the shape of one) and this machine's own folders. A key that nothing here knows and
that has no known shape is not found.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanodistill.config import DistillationConfig
from nanodistill.hub.secret_scan import KEY_SHAPES, known_secrets
from nanodistill.secrets import HIDDEN, Redactor, secrets_in
from nanodistill.text_files import expanded

ELSEWHERE = "…/"


class Scrubber:
    """Cleans texts, also inside lists and tables."""

    def __init__(self, secrets: Iterable[str], folders: Iterable[Path]) -> None:
        self._redact = Redactor(secrets)
        self._folders = _pattern(folders)

    @classmethod
    def of(cls, config: DistillationConfig) -> Scrubber:
        """For the run of `config` on this machine."""
        return cls(secrets_in(dict(config)) | known_secrets(), own_folders(config))

    def clean(self, value: Any) -> Any:
        """`value` (JSON) with all its texts cleaned, those that name things too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        return value

    def text(self, value: str) -> str:
        shown = KEY_SHAPES.sub(HIDDEN, self._redact(value))
        return self._folders.sub(_last_name, shown)


def own_folders(config: DistillationConfig) -> set[Path]:
    """Folders whose names tell of this machine or its user."""
    run = config.run_folder.absolute()
    own = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), run.parent, run.resolve().parent}
    named = (config.student, str(config.teacher).removeprefix("mlx/"))
    models = (expanded(name) for name in named)
    return own | {model.parent for model in models if model.is_absolute()}


def without_folder(name: str) -> str:
    """A model's or file's name, without the folders of this machine that it may begin with."""
    return f"{ELSEWHERE}{Path(name).name}" if Path(name).is_absolute() else name


def _pattern(folders: Iterable[Path]) -> re.Pattern[str]:
    """One of `folders`, and in a group what follows it."""
    longest_first = sorted({str(f) for f in folders if f.parts[1:]}, key=len, reverse=True)
    named = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?<![\w.])(?:{named})(?![\w.-])((?:/[^\s\"'`<>]*)?)")


def _last_name(found: re.Match[str]) -> str:
    name = found[1].rstrip("/").rpartition("/")[2]
    return f"{ELSEWHERE}{name}"
