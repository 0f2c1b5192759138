"""What training will need: memory, disk and time, before anything is loaded.

Rough, and meant to be: they say whether something is worth starting. Memory is
the weights in the form that they will have, the trained weights with gradients
and optimizer state, and the activations that the backward pass keeps, which
only the trained layers do. Time goes by multiplications and by what the machine
does of them in a second: measured on a CPU, from a table for Apple's GPUs.

What a preflight looks at, and what it says of it: problems stop, findings are told.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import thread_time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nanodistill.errors import Problem
from nanodistill.hardware import GIB, Hardware, free_memory
from nanodistill.training.adapters import UNTRAINABLE, ModelMetadata
from nanodistill.training.batches import BatchSampler, padding_share
from nanodistill.training.resource_guard import ResourceLimits, ResourceUsage
from nanodistill.training.tokenize import TokenizedSplit, TokenRows
from nanodistill.training.training_options import TrainingOptions

if TYPE_CHECKING:
    from nanodistill.run_dir import RunFolder


PROCESS_BYTES = 350 << 20
"""Python, MLX and the libraries, in the command and the child together."""
MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1, "muon": 1, "adafactor": 0}
CHECKPOINTS_KEPT = 3
GPU_SHARE, CPU_SHARE = 0.35, 0.25
"""What training reaches of a GPU's peak, and of what all cores could do at small products."""
SIDE, PRODUCTS = 96, 300
"""Of the products that tell a core's speed: a few thousandths of a second."""


@dataclass(frozen=True)
class Workload:
    """The work of one run.

    Of a batch: its rows, the widest row's tokens, the targets. Of the whole run: tokens through
    the layers below the trained ones, tokens trained, targets trained, tokens validated.
    """

    rows: int
    width: int
    targets: int
    below_tokens: int
    trained_tokens: int
    trained_targets: int
    scored_tokens: int


@dataclass(frozen=True)
class ResourceEstimate:
    """Bytes and seconds; `seconds` is None where the machine's speed is unknown."""

    weights: int
    trained: int
    activations: int
    disk: int
    seconds: float | None

    @property
    def memory(self) -> int:
        return PROCESS_BYTES + self.weights + self.trained + self.activations


def estimate(
    facts: ModelMetadata, options: TrainingOptions, load: Workload, hardware: Hardware
) -> ResourceEstimate:
    layers = min(facts.layers, options.settings.lora_layers)
    layers = facts.layers if options.beyond.all_layers else layers
    trained = trained_parameters(facts, options, layers)
    state = 2 + MOMENTS[options.settings.optimizer]
    wide = hardware.kind == "cpu"
    return ResourceEstimate(
        weights=facts.parameters * 4 if wide else facts.bytes,
        trained=trained * 4 * state,
        activations=_activations(facts, options, load, layers, 4 if wide else 2),
        disk=CHECKPOINTS_KEPT * trained * 4 * (state - 1) + 4 * load.trained_tokens,
        seconds=_seconds(facts, load, layers, hardware),
    )


def trained_parameters(facts: ModelMetadata, options: TrainingOptions, layers: int) -> int:
    """Weights that training changes."""
    chosen = [m for m in facts.matrices if m.layer >= facts.layers - layers]
    if options.settings.fine_tune_type == "full":
        return sum(m.outputs * m.inputs for m in chosen)
    names = options.settings.target_modules
    paths = None if names is None else facts.paths_of(names)
    rank = options.settings.lora_rank
    return sum(rank * (m.outputs + m.inputs) for m in chosen if paths is None or m.module in paths)


def _activations(
    facts: ModelMetadata, options: TrainingOptions, load: Workload, layers: int, size: int
) -> int:
    """What is alive in the backward pass at its fullest."""
    tokens = load.rows * load.width
    block = 8 * facts.hidden + 5 * facts.intermediate + 2 * facts.heads * load.width
    kept = facts.hidden if options.settings.gradient_checkpointing else block
    logits = 3 * 4 * load.targets * facts.vocabulary
    return tokens * size * (kept * layers + 2 * block) + logits


def _seconds(facts: ModelMetadata, load: Workload, layers: int, hardware: Hardware) -> float | None:
    speed = speed_of(hardware)
    if speed is None:
        return None
    head = facts.vocabulary * facts.hidden
    layer = max(1, facts.parameters - head) / facts.layers
    below = (facts.layers - layers) * layer * load.below_tokens
    trained = layers * layer * (2 * load.trained_tokens + load.scored_tokens)
    return 2 * (below + trained + 2 * head * load.trained_targets) / speed


def speed_of(hardware: Hardware) -> float | None:
    """Operations a second that training can count on; None if there is no telling."""
    if hardware.kind == "cpu":
        return CPU_SHARE * hardware.cores * measured_speed()
    return None if hardware.tflops is None else GPU_SHARE * hardware.tflops * 1e12


def measured_speed() -> float:
    """Operations of float32 products in a second of one core, by numpy's BLAS.

    In seconds of this thread, and small enough that the BLAS keeps to it: so other work on the
    machine does not change what is measured.
    """
    left, right = np.ones((2, SIDE, SIDE), np.float32)
    product = np.empty((SIDE, SIDE), np.float32)
    return max(2 * SIDE**3 * PRODUCTS / _timed(left, right, product) for _ in range(3))


Floats = NDArray[np.float32]


def _timed(left: Floats, right: Floats, product: Floats) -> float:
    since = thread_time()
    for _ in range(PRODUCTS):
        np.matmul(left, right, out=product)
    return thread_time() - since


MOST_DROPPED = 0.1


@dataclass(frozen=True)
class SplitReport:
    """One split under the student's tokenizer. `too_long` and `forged` rows are dropped; `numbers`
    are the places of the others in the split."""

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
    forged: Sequence[str]

    @classmethod
    def of(cls, encoded: TokenizedSplit, longest: int, *, mask_prompt: bool) -> SplitReport:
        """`no_room` counts those of the too long whose prompt alone fills `longest`."""
        examples = encoded.examples
        short = [n for n, example in enumerate(examples) if len(example.tokens) <= longest]
        numbers = [n for n in short if n not in encoded.forged]
        fits = [examples[n] for n in numbers]
        kept = fits if mask_prompt else [example.unmasked() for example in fits]
        return cls(
            rows=TokenRows.of(kept),
            numbers=numbers,
            all_lengths=[len(example.tokens) for example in encoded.examples],
            too_long=len(encoded.examples) - len(short),
            forged=tuple(encoded.forged.values()),
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
    splits: Mapping[str, SplitReport], options: TrainingOptions, facts: ModelMetadata
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
    forged = [mark for report in splits.values() for mark in report.forged]
    if len(forged) > MOST_DROPPED * total:
        problems.append(
            Problem(
                "student",
                f"writes turns in plain text, such as '{forged[0]}', and {len(forged)} of {total} "
                "rows hold that in their input (more than a tenth): choose a student whose turns "
                "are marked by tokens of their own, or take such text out of the rows",
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


def held_already(in_use: ResourceUsage, limits: ResourceLimits) -> list[Problem]:
    """What is to be said where training would wait for memory that only this process can free."""
    held = in_use.memory / GIB
    if held <= limits.max_memory_gb:
        return []
    said = f"is {limits.max_memory_gb:g}, and this process and those it started hold {held:.1f} GiB"
    way_out = "training would pause at once; raise it, or train in a process of its own"
    return [Problem("max_memory_gb", f"{said} already: {way_out}")]


def too_big(needed: ResourceEstimate, limits: ResourceLimits) -> Problem:
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
        all_rows = len(report.all_lengths)
        rows = f"{len(report.rows)}" + f" of {all_rows}" * (len(report.rows) < all_rows)
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
    if report.forged:
        remarks.append(
            f"{len(report.forged)} left out whose input begins a turn of its own: "
            f"'{report.forged[0]}', which the chat template writes in plain text"
        )
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
    splits: Mapping[str, SplitReport],
    deal: BatchSampler,
    options: TrainingOptions,
    facts: ModelMetadata,
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
    needed: ResourceEstimate,
    limits: ResourceLimits,
    run: RunFolder,
    hardware: Hardware,
    in_use: ResourceUsage,
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


def _memory_remark(memory: float, free: float, limits: ResourceLimits) -> str:
    if memory > limits.memory_hard_limit_gb:
        return "more than memory_hard_limit_gb: training would stop; a smaller batch helps"
    if memory > limits.max_memory_gb:
        return "more than max_memory_gb: training would pause; a smaller batch helps"
    return "more than is free: other programs would be pushed out" if memory > free else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return "a few seconds" if seconds < 10 else f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
