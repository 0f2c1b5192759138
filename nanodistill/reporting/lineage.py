"""Where everything comes from: hashes, names and versions to find it again by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nanodistill import __version__
from nanodistill.config import DistillationConfig
from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.provenance import INPUTS, public_config
from nanodistill.evaluation.contenders import SHOWN_AS
from nanodistill.reporting.judged import Evaluation
from nanodistill.reporting.privacy import without_folder
from nanodistill.reporting.sheets import Cell, Sheet, code, facts, text

TOLD_ELSEWHERE = frozenset({"name", "instruction", "output_dir", *INPUTS})


def lineage(
    config: DistillationConfig, manifest: Manifest | None, found: Evaluation | None, made: str
) -> list[Sheet]:
    sheets = [_run(config, found, made)]
    if manifest is not None:
        sheets += [_dataset(manifest), _libraries(manifest)]
    return sheets


def settings(config: DistillationConfig) -> Sheet:
    """All settings of the run, fit to be read by anybody: no key, no folder, no rows."""
    shown: Mapping[str, Any] = config.to_json() | public_config(config)
    rows = [
        (name, code(json.dumps(_without_folders(value), ensure_ascii=False)))
        for name, value in shown.items()
        if name not in TOLD_ELSEWHERE
    ]
    return facts("All settings", rows)


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return without_folder(value)
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def _run(config: DistillationConfig, found: Evaluation | None, made: str) -> Sheet:
    rows: list[tuple[str, Cell | None]] = [
        ("run", text(config.name)),
        ("report made", text(made)),
        ("NanoDistill", text(__version__)),
        ("teacher", code(config.teacher)),
        ("student", code(found.student if found else without_folder(config.student))),
    ]
    if found is not None:
        rows.append(("judged run", code(found.run)))
        rows += [
            (f"weights of the {SHOWN_AS[name]}", code(identity))
            for name, identity in found.identities.items()
        ]
        rows.append(("decoding", text(f"greedy, at most {found.max_new_tokens} new tokens")))
    return facts("Run and models", rows)


def _dataset(manifest: Manifest) -> Sheet:
    inputs = [
        (f"{what} file" if source.name else what, code(_source(source.name, source.rows)))
        for what, source in manifest.inputs.items()
    ]
    return facts(
        "Dataset",
        [
            ("version", code(manifest.name)),
            ("fingerprint", code(manifest.fingerprint)),
            ("parents", code(", ".join(manifest.parents) or "none")),
            ("made", text(manifest.created)),
            ("made by", text(manifest.made_by)),
            ("teacher", code(manifest.teacher) if manifest.teacher else text("none was asked")),
            ("settings of the data", code(manifest.config_hash or "unknown")),
            *inputs,
            *(
                (f"{what}, SHA-256", code(source.sha256))
                for what, source in manifest.inputs.items()
            ),
        ],
    )


def _source(name: str | None, rows: int) -> str:
    return f"{name}, {rows:,} rows" if name else f"{rows:,} rows"


def _libraries(manifest: Manifest) -> Sheet:
    rows = [(name, code(version)) for name, version in manifest.libraries.items()]
    return facts("Versions that the dataset was made with", rows)
