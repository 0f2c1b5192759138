"""Cost and lineage in the report: teacher calls by stage; hashes, names and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill import __version__
from nanodistill.config import DistillationConfig
from nanodistill.console import duration
from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.provenance import INPUTS, public_config
from nanodistill.evaluation.eval_models import DISPLAY_NAMES
from nanodistill.formatting import dollars
from nanodistill.journal import UsageTotals, read_journal
from nanodistill.reporting.evaluation_data import Evaluation
from nanodistill.reporting.report_tables import (
    DASH,
    Table,
    TableCell,
    code,
    fact_table,
    number,
    text,
    without_folder,
)
from nanodistill.run_dir import RunFolder

SHOWN_ELSEWHERE = frozenset({"name", "instruction", "output_dir", *INPUTS})
CALL_COLUMNS = (
    "stage", "calls", "answered", "rate-limited", "failed", "retried", "repaired", "tokens in",
    "tokens out", "cost", "time per call",
)  # fmt: skip


@dataclass(frozen=True)
class Spend:
    """`total` in words, a table by stage, and the teacher's `answers`, None if unknown."""

    total: str
    table: Table
    answers: int | None


def read_spend(run: RunFolder, manifest: Manifest | None) -> Spend | None:
    """Cost from the run's journal, or from the manifest of data that came from elsewhere.

    Raises:
        CorruptFileError: the journal can't be read.
    """
    if run.journal.exists():
        with read_journal(run.journal) as journal:
            stages = journal.sums()
        return _spend_of_journal(stages) if stages else None
    return _spend_of_manifest(manifest) if manifest and manifest.teacher else None


def _spend_of_journal(stages: dict[str, UsageTotals]) -> Spend:
    total = sum(stages.values(), UsageTotals())
    note = ""
    if total.unpriced:
        note = f"The price of {total.unpriced:,} of {total.answered:,} answers is unknown"
        note += f"; the others cost {dollars(total.cost_usd)}." if total.cost_usd else "."
    by_stage = {**stages, "total": total} if len(stages) > 1 else stages
    rows = tuple(_call_row(stage, sums) for stage, sums in by_stage.items())
    table = Table("Teacher calls of this run, from its journal", CALL_COLUMNS, rows, note)
    return Spend(dollars(total.known_cost), table, total.answered)


def _call_row(stage: str, sums: UsageTotals) -> tuple[TableCell, ...]:
    # A teacher that counts no tokens (a function) is not one that used none.
    counts_tokens = sums.usage.total_tokens > 0 or sums.answered == 0
    seconds = sums.seconds / sums.calls if sums.calls else None
    return (
        text(stage),
        number(sums.calls),
        number(sums.answered),
        number(sums.refused),
        number(sums.failed),
        number(sums.retries),
        number(sums.repairs + sums.longer),
        number(sums.usage.prompt_tokens if counts_tokens else None),
        number(sums.usage.completion_tokens if counts_tokens else None),
        TableCell(dollars(sums.known_cost), "number"),
        DASH if seconds is None else TableCell(duration(seconds), "number"),
    )


def _spend_of_manifest(manifest: Manifest) -> Spend:
    usage, calls = manifest.usage, manifest.calls
    counted = usage if usage and usage.prompt_tokens + usage.completion_tokens else None
    facts = [
        ("calls made", number(calls.made if calls else None)),
        ("calls reused", number(calls.reused if calls else None)),
        ("tokens in", number(counted.prompt_tokens if counted else None)),
        ("tokens out", number(counted.completion_tokens if counted else None)),
        ("cost", text(dollars(manifest.cost_usd))),
    ]
    table = fact_table("Teacher calls behind the dataset, from its manifest", facts)
    return Spend(dollars(manifest.cost_usd), table, calls.made if calls else None)


def lineage_tables(
    config: DistillationConfig,
    manifest: Manifest | None,
    evaluation: Evaluation | None,
    created: str,
) -> list[Table]:
    student = evaluation.results.student if evaluation else without_folder(config.student)
    facts = [
        ("run", text(config.name)),
        ("report created", text(created)),
        ("NanoDistill", text(__version__)),
        ("teacher", code(config.teacher)),
        ("student", code(student)),
    ]
    if evaluation is not None:
        saved = evaluation.results
        limit = saved.decoding.max_new_tokens
        facts.append(("evaluated run", code(saved.run)))
        facts += [
            (f"weights of the {DISPLAY_NAMES[name]}", code(identity))
            for name, identity in saved.identities.items()
        ]
        facts.append(("decoding", text(f"greedy, at most {limit} new tokens")))
    tables = [fact_table("Run and models", facts)]
    if manifest is not None:
        libraries = [(name, code(version)) for name, version in manifest.libraries.items()]
        tables.append(_dataset_facts(manifest))
        tables.append(fact_table("Library versions behind the dataset", libraries))
    return tables


def _dataset_facts(manifest: Manifest) -> Table:
    inputs, hashes = [], []
    for what, source in manifest.inputs.items():
        rows = f"{source.rows:,} rows"
        name = f"{what} file" if source.name else what
        inputs.append((name, code(f"{source.name}, {rows}" if source.name else rows)))
        hashes.append((f"{what}, SHA-256", code(source.sha256)))
    facts = [
        ("version", code(manifest.name)),
        ("fingerprint", code(manifest.fingerprint)),
        ("parents", code(", ".join(manifest.parents) or "none")),
        ("created", text(manifest.created)),
        ("created by", text(manifest.made_by)),
        ("teacher", code(manifest.teacher) if manifest.teacher else text("none")),
        ("config hash", code(manifest.config_hash or "unknown")),
    ]
    return fact_table("Dataset", [*facts, *inputs, *hashes])


def settings_table(config: DistillationConfig) -> Table:
    """All settings of the run, fit for anybody to read: no key, no folder, no rows."""
    shown: Mapping[str, Any] = config.to_json() | public_config(config)
    return fact_table(
        "All settings",
        [
            (name, code(json.dumps(_without_folders(value), ensure_ascii=False)))
            for name, value in shown.items()
            if name not in SHOWN_ELSEWHERE
        ],
    )


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return without_folder(value)
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value
