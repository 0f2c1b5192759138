"""The README.md of a version: what is in it, how it was made, and how to use it.

The card depends on the manifest alone, so it can be made again anywhere. What is unknown is called
unknown. Texts of users and models are escaped: they can't open a tag, a table cell or a fence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from nanodistill.dataset.describe import making_section, quality_section, rows_section
from nanodistill.dataset.manifest import Manifest
from nanodistill.dataset.markdown import cell, code_text, fenced, prose, table

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MADE_BY = {
    "synthesis": "Rows were written by a teacher model from a few seed examples and an "
    "instruction, then filtered.",
    "training_data": "Rows were brought by the user and filtered; no teacher was asked.",
    "edit": "This version is an earlier one, mended by hand.",
}
UNKNOWN = "unknown"
EXAMPLE = """from datasets import load_dataset

rows = load_dataset("{name}")  # the path of this folder, or its id on the Hub
print(rows["train"][0]["messages"])"""
PROMPTS = {
    "cot_system": "System message of a call that answers one input",
    "policy_extraction_system": "System message of the call that describes the task",
    "synthetic_generation_system": "System message of a call that writes new inputs",
    "chat_generation_system": "System message of a call that writes a new input",
    "chat_generation_turn": "What each user turn of a generation call asks for",
    "judge_system": "System message of a call that judges a row",
    "generation call": "A generation call, whole",
}


def card_of(manifest: Manifest) -> str:
    """The card as Markdown with its YAML header."""
    parts = [header(manifest), f"# {prose(_title(manifest))}\n\n{_summary(manifest)}"]
    for title, write in SECTIONS:
        if text := write(manifest):
            parts.append(f"## {title}\n\n{text}")
    return "\n\n".join(parts) + "\n"


def _title(manifest: Manifest) -> str:
    run = manifest.config.get("name")
    return f"{run} ({manifest.name})" if run else manifest.name


def header(manifest: Manifest) -> str:
    """The YAML that tells the Hub and `datasets` where the splits are."""
    task = "text-classification" if manifest.labels else "text-generation"
    lines = [
        "---",
        f"pretty_name: {json.dumps(_title(manifest))}",
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
        f"{fenced(EXAMPLE.replace('{name}', manifest.name), 'python')}\n\n"
        "`messages` is what a student is trained on; `input`, `thinking` and `output` are its "
        f"parts, put together in the thinking format `{manifest.thinking_format}`."
        + (
            f' `load_dataset("{manifest.name}", "rejected")` gives the rows that were turned down.'
            if manifest.counts.rejected
            else ""
        )
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
    # A teacher that counts no tokens (a function) is not one that used none.
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    prompt, completion = tokens if any(tokens) else (UNKNOWN, UNKNOWN)
    rows = [
        ("calls", made or UNKNOWN),
        ("prompt tokens", prompt),
        ("completion tokens", completion),
        ("cost in USD", UNKNOWN if cost is None else f"{cost:.4f}"),
    ]
    return table(("spent", ""), rows)


def _prompts(manifest: Manifest) -> str:
    shown = [
        f"### {prose(PROMPTS.get(stage, stage))}\n\n{fenced(text)}"
        for stage, text in manifest.prompts.items()
    ]
    if manifest.policy is not None:
        known = {name: said for name, said in manifest.policy.items() if said}
        policy = json.dumps(known, indent=2, ensure_ascii=False)
        shown.append(f"### The task as {_who_described(manifest)}\n\n{fenced(policy, 'json')}")
    return "\n\n".join(shown)


def _who_described(manifest: Manifest) -> str:
    if manifest.config.get("extract_policy") is False:
        return "derived from instruction and seeds"
    return "described by the teacher, or by hand"


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
    ("Rows", rows_section),
    ("Quality", quality_section),
    ("How it was made", making_section),
    ("Teacher", _teacher),
    ("Limits", _limits),
    ("Lineage", _lineage),
    ("Prompts", _prompts),
)
