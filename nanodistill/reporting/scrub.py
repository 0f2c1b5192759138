"""Take keys, tokens and this machine's folders out of every text of the report.

Rows are the user's own and otherwise stay as they are. A key that is neither known here
nor has a known shape is not found.
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


class Scrubber:
    """Cleans texts, also inside lists and dicts."""

    def __init__(self, secrets: Iterable[str], folders: Iterable[Path]) -> None:
        self._redact = Redactor(secrets)
        # The longest first, so that a folder inside another one is matched whole.
        names = sorted({str(f) for f in folders if f.parts[1:]}, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, names))
        self._folders = re.compile(rf"(?<![\w.])(?:{alternatives})(?![\w.-])((?:/[^\s\"'`<>]*)?)")

    @classmethod
    def of(cls, config: DistillationConfig) -> Scrubber:
        """For the run of `config` on this machine."""
        return cls(secrets_in(dict(config)) | known_secrets(), own_folders(config))

    def clean(self, value: Any) -> Any:
        """The JSON `value` with all its texts cleaned, keys of objects included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        return value

    def text(self, value: str) -> str:
        redacted = KEY_SHAPES.sub(HIDDEN, self._redact(value))
        return self._folders.sub(
            lambda path: f"…/{path[1].rstrip('/').rpartition('/')[2]}", redacted
        )


def own_folders(config: DistillationConfig) -> set[Path]:
    """Folders whose names identify this machine or its user."""
    run = config.run_folder.absolute()
    own = {Path.home(), Path.cwd(), Path(tempfile.gettempdir()), run.parent, run.resolve().parent}
    named = (config.student, str(config.teacher).removeprefix("mlx/"))
    models = (expanded(name) for name in named)
    return own | {model.parent for model in models if model.is_absolute()}
