"""The README.md of a model: what it is for, how good it is, where it comes from, how to run it.

The card depends on manifests and results alone: the same model gives the same card. Its figures are
those of `nanodistill eval`, with their intervals. What was not measured is said not to be. Texts of
the user are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.dataset import Manifest
from nanodistill.dataset.markdown import cell, code_text, fenced, table
from nanodistill.evaluation.eval_models import DISPLAY_NAMES
from nanodistill.exporting.export_manifest import Lineage, Task
from nanodistill.exporting.parity import Parity
from nanodistill.models.resolve import Kind
from nanodistill.stats import SIGNIFICANT

LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
FUSED_EXAMPLE = """\
from mlx_lm import generate, load

model, tokenizer = load("{repo}")
"""
ADAPTER_EXAMPLE = """\
from huggingface_hub import snapshot_download
from mlx_lm import generate, load
{imported}
adapter = snapshot_download("{repo}")
model, tokenizer = load({base}, adapter_path=adapter)
"""
ASKING = """\
messages = {messages}
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(generate(model, tokenizer, prompt, max_tokens={tokens}))"""


@dataclass(frozen=True)
class Shown:
    """All that a card is made of. `dataset` and `results` are None where they are not at hand."""

    repo: str
    name: str
    form: Literal["adapter", "fused"]
    base_kind: Kind
    lineage: Lineage
    task: Task
    dataset: Manifest | None
    results: Mapping[str, Any] | None
    parity: Mapping[str, Any] | None = None


def card_of(shown: Shown) -> str:
    """The card as Markdown with its YAML header."""
    parts = [header(shown), f"# {shown.name}\n\n{_intended(shown)}"]
    parts += [f"## {title}\n\n{write(shown)}" for title, write in SECTIONS]
    return "\n\n".join(parts) + "\n"


def header(shown: Shown) -> str:
    """The YAML that the Hub reads."""
    licence = shown.lineage.licence
    known = LICENCES.get(licence or "")
    lines = ["---", "library_name: mlx", f"license: {known or 'other'}"]
    if not known:
        lines.append(f"license_name: {json.dumps(licence or 'not-stated')}")
    if shown.base_kind == "hub":
        relation = "adapter" if shown.form == "adapter" else "finetune"
        base = shown.lineage.base.partition("@")[0]
        lines += [f"base_model: {json.dumps(base)}", f"base_model_relation: {relation}"]
    lines += [
        f"pipeline_tag: {'text-classification' if shown.task.labels else 'text-generation'}",
        "tags:",
        "- mlx",
        "- nanodistill",
        *(["- lora"] if shown.form == "adapter" else []),
    ]
    return "\n".join([*lines, "---"])


def _intended(shown: Shown) -> str:
    what = "A LoRA adapter on" if shown.form == "adapter" else "A model fine-tuned from"
    told = (
        f"{what} `{code_text(shown.lineage.base)}`, distilled for one task, which was the system "
        f"message of every training row:\n\n{fenced(shown.task.instruction)}"
    )
    if shown.task.labels:
        labels = ", ".join(f"`{code_text(label)}`" for label in shown.task.labels)
        told += f"\n\nIt answers with one of: {labels}."
    return told


def _results(shown: Shown) -> str:
    if shown.results is None:
        return "These weights were not evaluated."
    found = shown.results
    rows = [
        (DISPLAY_NAMES[name], _percent(score), _interval(score), score["unreadable"])
        for name, score in found["models"].items()
    ]
    told = [
        f"On {found['n']} {_SPLITS[found['on']]} of dataset version "
        f"`{found['dataset']['version']}`, greedy, {cell(found['metric']['measure'])}:",
        table(("model", "score", "95% interval", "unreadable"), rows),
        found["verdict"][:1].upper() + found["verdict"][1:] + ".",
    ]
    if shown.parity is not None:
        scored = Parity.from_json(dict(shown.parity))
        told.append(f"The exported files were scored again: {scored}.")
    return "\n\n".join(told)


def _percent(score: Mapping[str, Any]) -> str:
    return f"{100 * score['value']:.1f}%"


def _interval(score: Mapping[str, Any]) -> str:
    return f"{100 * score['low']:.1f}% to {100 * score['high']:.1f}%"


_SPLITS = {
    "test": "test rows",
    "valid": "validation rows (which training was steered by, so this is no test)",
}


def _use(shown: Shown) -> str:
    asked = [{"role": "user", "content": "The text to answer."}]
    if not shown.task.instruction_in_template:
        asked.insert(0, {"role": "system", "content": shown.task.instruction})
    asking = ASKING.format(messages=_listed(asked), tokens=shown.task.max_new_tokens)
    code = fenced(_loading(shown) + "\n" + asking, "python")
    told = f"With `pip install {_packages(shown)}`:\n\n{code}"
    if shown.base_kind in ("folder", "gguf") and shown.form == "adapter":
        told += f"\n\n`{code_text(shown.lineage.base)}` is a local model: put its folder there."
    if shown.task.train_on == "cot" and shown.task.thinking_format != "none":
        told += (
            "\n\nThe answer holds its thinking first, in the thinking format "
            f"`{code_text(shown.task.thinking_format)}`."
        )
    return told


def _loading(shown: Shown) -> str:
    if shown.form == "fused":
        return FUSED_EXAMPLE.format(repo=shown.repo)
    embedded = shown.base_kind == "embedded"
    name, _, revision = shown.lineage.base.partition("@")
    base = json.dumps(name) + (f", revision={json.dumps(revision)}" if revision else "")
    return ADAPTER_EXAMPLE.format(
        repo=shown.repo,
        base=f"str(resolve_model({base}).path)" if embedded else base,
        imported="from nanodistill.models.resolve import resolve_model\n" if embedded else "",
    )


def _packages(shown: Shown) -> str:
    embedded = shown.form == "adapter" and shown.base_kind == "embedded"
    return "nanodistill" if embedded else "mlx-lm"


def _listed(messages: list[dict[str, str]]) -> str:
    lines = ",\n".join(f"    {json.dumps(each, ensure_ascii=False)}" for each in messages)
    return f"[\n{lines},\n]"


def _data(shown: Shown) -> str:
    lineage, data = shown.lineage, shown.dataset
    teacher = f"`{code_text(lineage.teacher)}`" if lineage.teacher else "none"
    told = [f"Dataset version `{lineage.dataset}`; teacher: {teacher}."]
    if data is not None:
        counts = data.counts
        told.append(
            f"{counts.train} training, {counts.valid} validation and {counts.test} test rows; "
            f"{data.requested} were asked for, {sum(counts.rejected.values())} were rejected and "
            f"{sum(data.failed.values())} failed. Sources of the kept rows: "
            + ", ".join(f"{n} {name}" for name, n in data.statistics.sources.items())
            + "."
        )
    return "\n\n".join(told)


def _terms(shown: Shown) -> str:
    licence = shown.lineage.licence
    told = [
        f"- The base model's licence: {cell(licence)}."
        if licence
        else "- The base model's licence is not known to this tool; it applies to this model too."
    ]
    if shown.lineage.teacher:
        told.append(
            "- The terms of the teacher's provider apply to what it wrote, also to training other "
            "models on it; read them before you publish or use this model."
        )
    told.append("- The user's own examples carry whatever terms they came with.")
    return "\n".join(told)


def _limits(shown: Shown) -> str:
    told = ["It was trained for the one task above; how it does on anything else was not measured."]
    if shown.lineage.teacher:
        told.append("It learned from rows that a model wrote, with their errors and leanings.")
    if shown.results is None:
        told.append("How often it is right was not measured.")
    elif shown.results["paired"]["p"] >= SIGNIFICANT:
        told.append("The rows that were scored do not tell it from its base.")
    return "\n".join(f"- {line}" for line in told)


def _lineage(shown: Shown) -> str:
    lineage = shown.lineage
    rows = [
        ("base", f"`{code_text(lineage.base)}`"),
        ("base identity", f"`{code_text(lineage.base_identity)}`"),
        ("training run", f"`{lineage.run}`"),
        ("adapter SHA-256", f"`{lineage.adapter_sha256}`"),
        ("dataset version", f"`{lineage.dataset}`"),
        ("dataset fingerprint", f"`{lineage.fingerprint}`"),
    ]
    return table(("", ""), rows)


SECTIONS: tuple[tuple[str, Callable[[Shown], str]], ...] = (
    ("Results", _results),
    ("Use", _use),
    ("Data and teacher", _data),
    ("Licences and terms", _terms),
    ("Limits", _limits),
    ("Lineage", _lineage),
)
