"""Statistics of a version's rows, and the sections of its card that show them.

`distinct` is distinct-n (Li et al. 2016, arXiv:1510.03055): different word n-grams of the inputs
over all of them. It falls as text grows, so it is taken over the same number of rows in every
version: the first thousand training rows by id, which is as good as chance. `distinct_over` says
how many there were.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from nanodistill.dataset.manifest import CellCount, Manifest, Statistics
from nanodistill.dataset.markdown import cell, prose, table
from nanodistill.dataset.quality import quality_facts
from nanodistill.dataset.rows import Row

WORD = re.compile(r"\w+")
ORDERS = (1, 2, 3)
DISTINCT_OVER = 1000
MEASURED = ("input", "thinking", "output")


class StatsAccumulator:
    """Sums over rows as they are written: train, valid and test, each in order of id."""

    def __init__(self, labels: Collection[str] | None) -> None:
        self._labels = labels
        self._outputs: dict[str, Counter[str]] = defaultdict(Counter)
        self._sources: Counter[str] = Counter()
        self._thinking_from: Counter[str] = Counter()
        self._cells: Counter[str] = Counter()
        self._lengths: dict[str, array[int]] = {name: array("L") for name in MEASURED}
        self._grams: dict[int, Counter[tuple[str, ...]]] = {n: Counter() for n in ORDERS}
        self._sampled = 0
        self._confidence = (0.0, 1.0, 0)

    def add(self, row: Row, split: str) -> None:
        if self._labels is not None:
            self._outputs[split][row["output"]] += 1
        if split == "test":
            return
        self._sources[row["source"]] += 1
        self._cells[row["cell"]] += 1
        if row["thinking_from"] is not None:
            self._thinking_from[row["thinking_from"]] += 1
        for name in MEASURED:
            if row[name] is not None:
                self._lengths[name].append(len(row[name]))
        if split == "train" and self._sampled < DISTINCT_OVER:
            self._sample(row["input"])
        if row["confidence"] is not None:
            total, lowest, n = self._confidence
            self._confidence = (total + row["confidence"], min(lowest, row["confidence"]), n + 1)

    def _sample(self, text: str) -> None:
        words = WORD.findall(text.lower())
        for n, grams in self._grams.items():
            grams.update(zip(*(words[i:] for i in range(n)), strict=False))
        self._sampled += 1

    def result(self) -> Statistics:
        total, lowest, measured = self._confidence
        outputs = {split: dict(c.most_common()) for split, c in self._outputs.items()}
        return Statistics(
            outputs=None if self._labels is None else outputs,
            sources=dict(sorted(self._sources.items())),
            thinking_from=dict(sorted(self._thinking_from.items())),
            cells=dict(sorted(self._cells.items())),
            lengths={name: spread(found) for name, found in self._lengths.items() if found},
            distinct={
                f"distinct_{n}": round(len(grams) / grams.total(), 4)
                for n, grams in self._grams.items()
                if grams
            },
            distinct_over=self._sampled,
            confidence=(round(total / measured, 4), lowest) if measured else None,
        )


def spread(values: Sequence[int]) -> tuple[int, int, int]:
    """Median, 95th percentile and largest, each one of the values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[last // 2], ordered[round(last * 0.95)], ordered[-1]


CELLS_SHOWN = 12
OUTPUTS_SHOWN = 40
ACCOUNT = ("requested", "kept", "rejected", "failed")
THINKING_FROM = {
    "teacher": "written by the teacher when asked to think",
    "native": "the teacher's own reasoning, sent beside its answer",
    "rationalized": "written by the teacher with the answer in view",
    "user": "the user's",
}


def rows_section(manifest: Manifest) -> str:
    figures = manifest.statistics
    told = [_test(manifest), _sources(manifest), _thinking(manifest)]
    if figures.outputs is not None:
        told.append(_outputs(figures.outputs))
    told.append(
        table(
            ("length in characters (train, valid)", "median", "95th percentile", "longest"),
            [(name, *spread) for name, spread in figures.lengths.items()],
        )
    )
    told.append(_distinct(figures))
    return "\n\n".join(filter(None, told))


def _thinking(manifest: Manifest) -> str:
    found = manifest.statistics.thinking_from
    rows = [(THINKING_FROM[name], n) for name, n in found.items()]
    return table(("thinking", "rows"), rows) if rows else ""


def _distinct(figures: Statistics) -> str:
    shares = ", ".join(f"distinct-{name[-1]} {part:.3f}" for name, part in figures.distinct.items())
    return (
        f"Variety of the inputs: {shares} (different word n-grams over all of them, in "
        f"{figures.distinct_over} training rows)."
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


def _cells(cells: Mapping[str, CellCount]) -> str:
    """The account by place in the plan: by the values of each axis, where there are many places."""
    accounts = {name: account.figures for name, account in cells.items()}
    planned = [name for name in accounts if "=" in name]
    if not planned:
        return ""
    if len(planned) > CELLS_SHOWN:
        sums_by_axis = by_axis({name: accounts[name] for name in planned})
        rows = [(cell(axis), cell(value), *sums) for (axis, value), sums in sums_by_axis.items()]
        rows += [(cell(name), "", *accounts[name]) for name in accounts if name not in planned]
        places = f"The coverage plan came to {len(planned)} places. Their account by axis:"
        return f"{places}\n\n" + table(("axis", "value", *ACCOUNT), rows)
    rows_by_cell = [(cell(name), *account) for name, account in accounts.items()]
    return table(("place in the coverage plan", *ACCOUNT), rows_by_cell)


def by_axis(cells: Mapping[str, tuple[int, ...]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Cells are called "axis=value; axis=value"."""
    sums: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, account in cells.items():
        for place in name.split("; "):
            axis, _, value = place.partition("=")
            so_far = sums.get((axis, value), (0,) * len(account))
            sums[axis, value] = tuple(map(sum, zip(so_far, account, strict=True)))
    return dict(sorted(sums.items()))


def quality_section(manifest: Manifest) -> str:
    rows = [(name, prose(found)) for name, found in quality_facts(manifest)]
    return table(("check", "found"), rows) if rows else ""


def making_section(manifest: Manifest) -> str:
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
    told += [_cells(manifest.cells), _stages(manifest), _split(manifest)]
    told += [f"Note: {prose(note)}" for note in manifest.notes]
    return "\n\n".join(filter(None, told))


def _account(manifest: Manifest) -> str:
    rejected, failed = sum(manifest.counts.rejected.values()), sum(manifest.failed.values())
    wanted = f"{manifest.wanted} rows were wanted. " if manifest.wanted is not None else ""
    why = manifest.stopped_because
    stopped = f" Generation ended: {prose(why)}." if why else ""
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
        "one teacher call are on the same side."
    )


def share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _and_more(n: int, what: str) -> str:
    return f"\n\nAnd {n} more {what}." if n > 0 else ""
