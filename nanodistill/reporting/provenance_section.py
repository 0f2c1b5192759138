"""Where everything comes from: hashes, names and versions to find it again by.

What the teacher was asked and what that cost, stage by stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill import __version__
from nanodistill.config import DistillationConfig
from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.provenance import INPUTS, public_config
from nanodistill.evaluation.eval_models import DISPLAY_NAMES
from nanodistill.journal import UsageTotals, read_journal
from nanodistill.reporting.evaluation_data import Evaluation
from nanodistill.reporting.report_tables import (
    UNKNOWN,
    Table,
    TableCell,
    code,
    dollars,
    facts,
    in_minutes,
    number,
    text,
)
from nanodistill.reporting.scrub import without_folder
from nanodistill.run_dir import RunFolder

TOLD_ELSEWHERE = frozenset({"name", "instruction", "output_dir", *INPUTS})


def lineage(
    config: DistillationConfig, manifest: Manifest | None, found: Evaluation | None, made: str
) -> list[Table]:
    sheets = [_run(config, found, made)]
    if manifest is not None:
        sheets += [_dataset(manifest), _libraries(manifest)]
    return sheets


def settings(config: DistillationConfig) -> Table:
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


def _run(config: DistillationConfig, found: Evaluation | None, made: str) -> Table:
    rows: list[tuple[str, TableCell | None]] = [
        ("run", text(config.name)),
        ("report made", text(made)),
        ("NanoDistill", text(__version__)),
        ("teacher", code(config.teacher)),
        ("student", code(found.student if found else without_folder(config.student))),
    ]
    if found is not None:
        rows.append(("judged run", code(found.run)))
        rows += [
            (f"weights of the {DISPLAY_NAMES[name]}", code(identity))
            for name, identity in found.identities.items()
        ]
        rows.append(("decoding", text(f"greedy, at most {found.max_new_tokens} new tokens")))
    return facts("Run and models", rows)


def _dataset(manifest: Manifest) -> Table:
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


def _libraries(manifest: Manifest) -> Table:
    rows = [(name, code(version)) for name, version in manifest.libraries.items()]
    return facts("Versions that the dataset was made with", rows)


COLUMNS = (
    "stage", "calls", "answered", "told to wait", "failed", "retried", "mended", "tokens in",
    "tokens out", "cost", "time a call",
)  # fmt: skip


@dataclass(frozen=True)
class Spend:
    """`total` in words; `sheet` by stage; `answers` of the teacher, None where not known."""

    total: str
    sheet: Table
    answers: int | None


def spend(run: RunFolder, manifest: Manifest | None) -> Spend | None:
    """From the run's journal; where the data came from elsewhere, from its manifest.

    Raises:
        CorruptFileError: the journal can't be read.
    """
    if run.journal.exists():
        with read_journal(run.journal) as journal:
            stages = journal.sums()
        return _of_journal(stages) if stages else None
    return _of_manifest(manifest) if manifest and manifest.teacher else None


def _of_journal(stages: dict[str, UsageTotals]) -> Spend:
    total = sum(stages.values(), UsageTotals())
    every = {**stages, "in all": total} if len(stages) > 1 else stages
    rows = tuple(_row(stage, sums) for stage, sums in every.items())
    sheet = Table("Teacher calls of this run, from its journal", COLUMNS, rows, _note(total))
    return Spend(dollars(total.known_cost), sheet, total.answered)


def _note(total: UsageTotals) -> str:
    if not total.unpriced:
        return ""
    unpriced = f"The price of {total.unpriced:,} of {total.answered:,} answers is not known"
    return (
        f"{unpriced}; the others cost {dollars(total.cost_usd)}."
        if total.cost_usd
        else f"{unpriced}."
    )


def _row(stage: str, sums: UsageTotals) -> tuple[TableCell, ...]:
    # A teacher that counts no tokens (a function) is not one that used none.
    counted = sums.usage.total_tokens > 0 or sums.answered == 0
    return (
        text(stage),
        number(sums.calls),
        number(sums.answered),
        number(sums.refused),
        number(sums.failed),
        number(sums.retries),
        number(sums.repairs + sums.longer),
        number(sums.usage.prompt_tokens if counted else None),
        number(sums.usage.completion_tokens if counted else None),
        TableCell(dollars(sums.known_cost), "number"),
        TableCell(in_minutes(sums.seconds / sums.calls) if sums.calls else "–", "number"),
    )


def _of_manifest(manifest: Manifest) -> Spend:
    usage, calls = manifest.usage, manifest.calls
    counted = usage if usage and usage.prompt_tokens + usage.completion_tokens else None
    rows = [
        ("calls made", number(calls.made if calls else None)),
        ("calls reused", number(calls.reused if calls else None)),
        ("tokens in", number(counted.prompt_tokens if counted else None)),
        ("tokens out", number(counted.completion_tokens if counted else None)),
        ("cost", text(dollars(manifest.cost_usd) if manifest.cost_usd is not None else UNKNOWN)),
    ]
    sheet = facts("Teacher calls behind the dataset, as its manifest tells", rows)
    return Spend(dollars(manifest.cost_usd), sheet, calls.made if calls else None)
