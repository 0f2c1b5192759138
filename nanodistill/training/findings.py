"""What a preflight looks at, and what it says of it: problems stop, findings are told."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nanodistill.errors import Problem
from nanodistill.hardware import GIB, Hardware, free_memory
from nanodistill.training.batches import Deal, padding_share
from nanodistill.training.encode import Encoded
from nanodistill.training.estimates import PROCESS_BYTES, Estimate
from nanodistill.training.guard import InUse, Limits
from nanodistill.training.modelfacts import UNTRAINABLE, ModelFacts
from nanodistill.training.options import TrainingOptions
from nanodistill.training.tokens import TokenRows

if TYPE_CHECKING:
    from nanodistill.runfolder import RunFolder

MOST_DROPPED = 0.1


@dataclass(frozen=True)
class SplitReport:
    """One split under the student's tokenizer. `too_long` rows are dropped; `numbers` are the
    places of the others in the split."""

    rows: TokenRows
    numbers: Sequence[int]
    all_lengths: Sequence[int]
    too_long: int
    no_room: int
    empty: int
    joined: int
    unended: int
    double_bos: bool
    moves_system: bool

    @classmethod
    def of(cls, encoded: Encoded, longest: int, *, mask_prompt: bool) -> SplitReport:
        """`no_room` counts those of the too long whose prompt alone fills `longest`."""
        examples = encoded.examples
        numbers = [n for n, example in enumerate(examples) if len(example.tokens) <= longest]
        fits = [examples[n] for n in numbers]
        kept = fits if mask_prompt else [example.unmasked() for example in fits]
        return cls(
            rows=TokenRows.of(kept),
            numbers=numbers,
            all_lengths=[len(example.tokens) for example in encoded.examples],
            too_long=len(encoded.examples) - len(fits),
            no_room=sum(example.prompt >= longest for example in encoded.examples),
            empty=encoded.empty,
            joined=encoded.joined,
            unended=encoded.unended,
            double_bos=encoded.double_bos,
            moves_system=encoded.moves_system,
        )


@dataclass(frozen=True)
class Finding:
    """A line of the table: what was looked at, what was found, and what is to be said of it."""

    what: str
    found: str
    remark: str = ""


def problems_of(
    splits: Mapping[str, SplitReport], options: TrainingOptions, facts: ModelFacts
) -> list[Problem]:
    settings, problems = options.settings, []
    total = sum(len(report.all_lengths) for report in splits.values())
    dropped = sum(report.too_long for report in splits.values())
    longest = max((n for report in splits.values() for n in report.all_lengths), default=0)
    if not splits["train"].all_lengths:
        problems.append(Problem("dataset", "has no training rows"))
    elif dropped and (settings.long_rows == "error" or dropped > MOST_DROPPED * total):
        prompts = sum(report.no_room for report in splits.values())
        why = 'long_rows is "error"' if settings.long_rows == "error" else "more than a tenth"
        problems.append(
            Problem(
                "max_seq_length",
                f"is {settings.max_seq_length}: {dropped} of {total} rows are longer ({why}), "
                f"{prompts} of them in the prompt alone; max_seq_length = {longest} holds them all",
            )
        )
    if not splits["valid"].rows.prompts.size:
        steered = {
            "early_stopping_patience": settings.early_stopping_patience is not None,
            "best_by": settings.best_by == "score",
        }
        problems += [
            Problem(name, "needs validation rows, and the dataset has none")
            for name, is_set in steered.items()
            if is_set
        ]
    if facts.architecture in UNTRAINABLE:
        why = UNTRAINABLE[facts.architecture]
        problems.append(Problem("student", f"is a {facts.architecture} model: {why}"))
    return problems


def held_already(in_use: InUse, limits: Limits) -> list[Problem]:
    """What is to be said where training would wait for memory that only this process can free."""
    held = in_use.memory / GIB
    if held <= limits.max_memory_gb:
        return []
    said = f"is {limits.max_memory_gb:g}, and this process and those it started hold {held:.1f} GiB"
    way_out = "training would pause at once; raise it, or train in a process of its own"
    return [Problem("max_memory_gb", f"{said} already: {way_out}")]


def too_big(needed: Estimate, limits: Limits) -> Problem:
    return Problem(
        "memory_hard_limit_gb",
        f"is {limits.memory_hard_limit_gb:g}, and the student's weights alone take "
        f"{needed.weights / GIB:.1f} GiB: raise it, or choose a smaller student",
    )


def rows_found(splits: Mapping[str, SplitReport], options: TrainingOptions) -> list[Finding]:
    longest = options.settings.max_seq_length
    found = []
    for name, report in splits.items():
        if not report.all_lengths:
            found.append(Finding(f"{name} rows", "0", _without_valid() if name == "valid" else ""))
            continue
        middle, high = np.percentile(report.all_lengths, [50, 95])
        rows = f"{len(report.rows)}" + f" of {len(report.all_lengths)}" * (report.too_long > 0)
        said = f"{rows}; median {middle:.0f} tokens, 95% up to {high:.0f}, longest "
        said += f"{max(report.all_lengths)}; {int(report.rows.targets.sum())} to learn from"
        found.append(Finding(f"{name} rows", said, _rows_remark(report, longest)))
    return found


def _rows_remark(report: SplitReport, longest: int) -> str:
    remarks = []
    if report.too_long:
        left_out = f"{report.too_long} longer than max_seq_length = {longest} left out"
        no_room = f", {report.no_room} of them with no room for an answer" * (report.no_room > 0)
        remarks.append(left_out + no_room)
    if report.empty:
        remarks.append(f"{report.empty} with an empty output, of which silence is learned")
    return "; ".join(remarks)


def _without_valid() -> str:
    return "without validation rows the last weights are taken, not the best"


def template_found(splits: Mapping[str, SplitReport]) -> list[Finding]:
    joined = sum(report.joined for report in splits.values())
    unended = sum(report.unended for report in splits.values())
    remarks = []
    if any(report.moves_system for report in splits.values()):
        remarks.append(
            "it has no place for a system message; the instruction is put before the first "
            "user turn"
        )
    if joined:
        remarks.append(
            f"for {joined} rows the prompt is no beginning of the conversation's text; their "
            "answers are put behind the prompt as generation sees it"
        )
    if unended:
        remarks.append(f"it does not end {unended} answers; the end-of-text token is put there")
    if any(report.double_bos for report in splits.values()):
        remarks.append("it begins with two beginning-of-text tokens")
    return [Finding("chat template", "fits" if not remarks else "see", "; ".join(remarks))]


def plan_found(
    splits: Mapping[str, SplitReport], deal: Deal, options: TrainingOptions, facts: ModelFacts
) -> list[Finding]:
    settings = options.settings
    rows, batches = len(splits["train"].rows), settings.gradient_accumulation_steps
    per_epoch = deal.updates_per_epoch
    waste = padding_share(deal, batches, 1)
    plan = f"{options.updates(per_epoch)}, {per_epoch} to an epoch, of {options.rows_per_update} "
    plan += f"rows; {waste:.1%} padding"
    small = rows < options.rows_per_update
    asked = facts.layers if options.beyond.all_layers else settings.lora_layers
    depth = f"{min(asked, facts.layers)} of {facts.layers} ({settings.fine_tune_type})"
    clamped = f"lora_layers = {asked} is more than there are" if asked > facts.layers else ""
    said = f"{facts.architecture}, {facts.parameters / 1e6:,.0f} M weights in {facts.stored}"
    longest = int(splits["train"].rows.lengths.max())
    beyond = facts.context is not None and longest > facts.context
    return [
        Finding("updates", plan, "all rows fit into one update" if small else ""),
        Finding("layers trained", depth, clamped),
        Finding("student", said, f"reads {facts.context} tokens at most" if beyond else ""),
    ]


def machine_found(
    needed: Estimate, limits: Limits, run: RunFolder, hardware: Hardware, in_use: InUse
) -> list[Finding]:
    memory = (needed.memory + max(0, in_use.memory - PROCESS_BYTES)) / GIB
    free = free_memory() / GIB
    place = next(p for p in (run.root, *run.root.absolute().parents) if p.exists())
    disk = shutil.disk_usage(place).free
    busy = in_use.cpu > limits.cpu_share
    seconds = needed.seconds
    return [
        Finding("machine", hardware.describe()),
        Finding(
            "memory",
            f"about {memory:.1f} GiB of {limits.max_memory_gb:g} allowed; {free:.1f} are free",
            _memory_remark(memory, free, limits),
        ),
        Finding(
            "disk",
            f"about {needed.disk / GIB:.2f} GiB; {disk / GIB:.0f} are free",
            "not enough for the checkpoints" if needed.disk > disk else "",
        ),
        Finding(
            "load",
            f"{in_use.cpu:.0%} of the processors by everything else, cpu_capacity_percent is "
            f"{limits.cpu_share:.0%}",
            "training will pause until that is less" if busy else "",
        ),
        Finding("time", "unknown" if seconds is None else _duration(seconds)),
    ]


def _memory_remark(memory: float, free: float, limits: Limits) -> str:
    if memory > limits.memory_hard_limit_gb:
        return "more than memory_hard_limit_gb: training would stop; a smaller batch helps"
    if memory > limits.max_memory_gb:
        return "more than max_memory_gb: training would pause; a smaller batch helps"
    return "more than is free: other programs would be pushed out" if memory > free else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return "a few seconds" if seconds < 10 else f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
