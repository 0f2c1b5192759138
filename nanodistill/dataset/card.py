"""README.md of a version: what is in it, how it came about, and how to use it.

The card is a function of the manifest and of nothing else, so that it can be made
again anywhere. What is not known is said to be unknown. Texts of the user and of
models are shown as text: they can't open a tag, a table cell or a fence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nanodistill.dataset.manifest import Manifest, Statistics
from nanodistill.dataset.markdown import cell, code_text, fenced, prose, table

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MADE_BY = {
    "synthesis": "Rows were written by a teacher model from a few seed examples and an "
    "instruction, then filtered.",
    "training_data": "Rows were brought by the user and filtered. No model wrote any of them.",
    "edit": "This version is an earlier one, mended by hand.",
}
CELLS_SHOWN = 60
OUTPUTS_SHOWN = 40
UNKNOWN = "unknown"
EXAMPLE = """from datasets import load_dataset

rows = load_dataset(".")  # this folder, or the dataset's id on the Hub
print(rows["train"][0]["messages"])"""


def card_of(manifest: Manifest) -> str:
    """The card as Markdown with its YAML header."""
    parts = [header(manifest), f"# {manifest.name}\n\n{_summary(manifest)}"]
    for title, write in SECTIONS:
        if text := write(manifest):
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def header(manifest: Manifest) -> str:
    """The YAML that tells the Hub and `datasets` where the splits are."""
    task = "text-classification" if manifest.labels else "text-generation"
    lines = [
        "---",
        f"pretty_name: {json.dumps(manifest.name)}",
        "license: other",
        "license_name: not-stated",
        "task_categories:",
        f"- {task}",
        "size_categories:",
        f"- {size_category(manifest)}",
        "tags:",
        "- nanodistill",
        *(["- synthetic"] if manifest.teacher else []),
        "configs:",
        "- config_name: default",
        "  default: true",
        "  data_files:",
    ]
    for split in ("train", "valid", "test"):
        if getattr(manifest.counts, split):
            lines += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    if manifest.counts.rejected:
        lines += ["- config_name: rejected", "  data_files:"]
        lines += ["  - split: rejected", "    path: rejected/*.parquet"]
    return "\n".join([*lines, "---"])


def size_category(manifest: Manifest) -> str:
    rows = manifest.counts.kept + manifest.counts.test
    return next((name for limit, name in SIZES if rows < limit), "n>1M")


def _summary(manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"{MADE_BY[manifest.made_by]} "
        f"{counts.train} training, {counts.valid} validation and {counts.test} test rows.\n\n"
        f"The task, which is the system message of every row:\n\n{fenced(manifest.instruction)}"
    )


def _use(manifest: Manifest) -> str:
    return (
        f"{fenced(EXAMPLE, 'python')}\n\n"
        "`messages` is what a student is trained on; `input`, `thinking` and `output` are its "
        f"parts, put together in the thinking format `{manifest.thinking_format}`."
    )


def _rows(manifest: Manifest) -> str:
    counts, figures = manifest.counts, manifest.statistics
    told = [_test(manifest), _sources(manifest)]
    if figures.outputs is not None:
        told.append(_outputs(figures.outputs))
    told.append(
        table(
            ("length in characters", "median", "95th percentile", "longest"),
            [(name, *spread) for name, spread in figures.lengths.items()],
        )
    )
    told.append(_distinct(figures))
    told.append(_confidence(manifest))
    if len(figures.cells) > 1:
        told.append(_cells(figures.cells, counts.kept))
    return "\n\n".join(told)


def _distinct(figures: Statistics) -> str:
    shares = ", ".join(f"{name[-1]}: {part:.3f}" for name, part in figures.distinct.items())
    return (
        "Different word n-grams of the inputs over all of them (distinct-n over "
        f"{figures.distinct_over} rows): {shares}."
    )


def _test(manifest: Manifest) -> str:
    if not manifest.has_test:
        return (
            "There is no test split. Figures taken on `valid` are no test: its rows come from the "
            "same source as the training rows."
        )
    source = {
        "user": "The test rows are the user's own file, whole.",
        "holdout_seeds": "The test rows are seeds that no prompt has shown.",
        None: "Where the test rows come from is not stated.",
    }
    return source[manifest.test_source]


def _sources(manifest: Manifest) -> str:
    sources = manifest.statistics.sources
    return "Kept rows by source: " + ", ".join(f"{n} {name}" for name, n in sources.items()) + "."


def _outputs(outputs: Mapping[str, Mapping[str, int]]) -> str:
    totals: dict[str, int] = {}
    for found in outputs.values():
        for output, n in found.items():
            totals[output] = totals.get(output, 0) + n
    ordered = sorted(totals, key=lambda output: (-totals[output], output))
    splits = [split for split in ("train", "valid", "test") if split in outputs]
    rows = [
        (cell(output), *(outputs[split].get(output, 0) for split in splits))
        for output in ordered[:OUTPUTS_SHOWN]
    ]
    return table(("output", *splits), rows) + _and_more(len(ordered) - OUTPUTS_SHOWN, "outputs")


def _confidence(manifest: Manifest) -> str:
    measured = manifest.statistics.confidence
    if measured is None:
        return "The teacher's agreement with itself was not measured: `confidence` is null."
    mean, lowest = measured
    return (
        "`confidence` is the share of a row's samples that gave its output: "
        f"{mean:.2f} on average, {lowest:.2f} at least."
    )


def _cells(cells: Mapping[str, int], kept: int) -> str:
    ordered = sorted(cells, key=lambda name: (-cells[name], name))
    rows = [
        (cell(name) or "(none: seeds, user rows)", cells[name], share(cells[name], kept))
        for name in ordered[:CELLS_SHOWN]
    ]
    shown = table(("place in the coverage plan", "rows", "share"), rows)
    return shown + _and_more(len(ordered) - CELLS_SHOWN, "places")


def _making(manifest: Manifest) -> str:
    told = [_account(manifest)]
    if manifest.counts.rejected:
        told.append(
            "Rejected rows are kept, with the reason and the text that caused it, in the "
            "configuration `rejected`.\n\n"
            + table(("reason", "rows"), [(cell(k), n) for k, n in manifest.counts.rejected.items()])
        )
    else:
        told.append("No row was rejected, so there is no configuration `rejected`.")
    if manifest.failed:
        told.append(table(("failed calls", "rows lost"), list(manifest.failed.items())))
    told += [_stages(manifest), _split(manifest), _agreement(manifest)]
    told += [f"Note: {prose(note)}" for note in manifest.notes]
    return "\n\n".join(filter(None, told))


def _account(manifest: Manifest) -> str:
    rejected, failed = sum(manifest.counts.rejected.values()), sum(manifest.failed.values())
    wanted = f"{manifest.wanted} rows were wanted. " if manifest.wanted is not None else ""
    why = manifest.stopped_because
    stopped = f" It ended early: {prose(why)}." if why else ""
    return (
        f"{wanted}{manifest.requested} candidate rows: {manifest.counts.kept} kept, "
        f"{rejected} rejected, {failed} lost to failed calls.{stopped}"
    )


def _stages(manifest: Manifest) -> str:
    if not manifest.stages:
        return ""
    rows = [(cell(step.stage), step.reached, step.refused) for step in manifest.stages]
    return table(("step", "rows that reached it", "refused"), rows)


def _split(manifest: Manifest) -> str:
    split = manifest.split
    if split is None:
        return ""
    return (
        f"Validation is {share(manifest.counts.valid, manifest.counts.kept)} of the kept rows "
        f"({split.val_split:.0%} wanted), {split.valid_groups} of {split.groups} groups: rows of "
        "one teacher call and near-duplicates are on the same side."
    )


def _agreement(manifest: Manifest) -> str:
    found = manifest.agreement
    if found is None:
        return ""
    return (
        f"Asked without seeing the answers, the teacher agreed with {found.agreed} of {found.of} "
        f"seeds (95%: {found.low:.0%} to {found.high:.0%})."
    )


def _teacher(manifest: Manifest) -> str:
    if manifest.teacher is None:
        return ""
    return (
        f"Teacher: `{code_text(manifest.teacher)}`. The terms of its provider apply to what it "
        "wrote, also to training other models on it; read them before you publish or use this "
        f"dataset.\n\n{_spend(manifest)}"
    )


def _spend(manifest: Manifest) -> str:
    usage, calls, cost = manifest.usage, manifest.calls, manifest.cost_usd
    made = calls and f"{calls.made} made, {calls.reused} reused, {calls.retried} attempts repeated"
    rows = [
        ("calls", made or UNKNOWN),
        ("prompt tokens", usage.prompt_tokens if usage else UNKNOWN),
        ("completion tokens", usage.completion_tokens if usage else UNKNOWN),
        ("cost in USD", UNKNOWN if cost is None else f"{cost:.4f}"),
    ]
    return table(("spent", ""), rows)


def _prompts(manifest: Manifest) -> str:
    shown = [f"### {prose(stage)}\n\n{fenced(text)}" for stage, text in manifest.prompts.items()]
    if manifest.policy is not None:
        policy = json.dumps(manifest.policy, indent=2, ensure_ascii=False)
        shown.append(f"### The task as the teacher described it\n\n{fenced(policy, 'json')}")
    return "\n\n".join(shown)


def _lineage(manifest: Manifest) -> str:
    parents = ", ".join(f"`{parent}`" for parent in manifest.parents) or "none"
    rows: list[Sequence[Any]] = [
        ("version", f"`{manifest.name}`"),
        ("fingerprint", f"`{manifest.fingerprint}`"),
        ("parents", parents),
        ("created", manifest.created),
        ("settings", f"`{manifest.config_hash}`" if manifest.config_hash else "unknown"),
    ]
    for what, source in manifest.inputs.items():
        name = f"{cell(source.name)}, " if source.name else ""
        rows.append((what, f"{name}{source.rows} rows, `{source.sha256}`"))
    rows += [(library, version) for library, version in manifest.libraries.items()]
    return table(("", ""), rows) + "\n\n`nanodistill dataset verify FOLDER` checks every hash."


def _limits(manifest: Manifest) -> str:
    told = [
        "The licence is not stated by this tool: the rows come from the user's examples"
        + (" and a teacher model." if manifest.teacher else "."),
        "The language of the rows was not determined.",
    ]
    if manifest.teacher:
        told.append(
            "Rows written by a model carry its errors and leanings; no person has read them all."
        )
    return "\n".join(f"- {line}" for line in told)


SECTIONS: tuple[tuple[str, Callable[[Manifest], str]], ...] = (
    ("Use", _use),
    ("Rows", _rows),
    ("How it was made", _making),
    ("Teacher", _teacher),
    ("Limits", _limits),
    ("Lineage", _lineage),
    ("Prompts", _prompts),
)


def share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _and_more(n: int, what: str) -> str:
    return f"\n\nAnd {n} more {what}." if n > 0 else ""
