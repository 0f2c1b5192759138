"""Watches the kept rows of a run for features that give their answers away."""

from __future__ import annotations

from collections.abc import Mapping

from nanodistill.curation.cues import Cue, CueRow, find_cues
from nanodistill.curation.minhash import words_of
from nanodistill.synthesis.coverage import LABEL, Cell
from nanodistill.synthesis.task import Task
from nanodistill.types import Trace
from nanodistill.values import as_value

TELLING_AXES = ("topic", "neighbour", "output")
"""Axes that may tell the answer, because they belong to it."""
MOST_TOLD = 3
"""Cues that one prompt asks to do without; a longer list becomes the subject of the texts."""


class CueWatch:
    """Cues in the rows that were added, and which of them are new since the last look."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rows: list[CueRow] = []
        self._told: set[tuple[str, str]] = set()
        self.cues: list[Cue] = []
        hints = " ".join(task.label_hints.values())
        self._subject = set(words_of(f"{task.instruction} {hints}"))
        for seed in task.seeds:
            self._subject.update(words_of(seed.input))

    def add(self, cell: Cell, row: Trace) -> None:
        axes = {
            axis: value
            for axis, value in cell.values
            if axis != LABEL and axis.split(".")[0] not in TELLING_AXES
        }
        self._subject.update(words_of(cell.get("topic") or ""))
        self._rows.append(CueRow(row.input, self._answers(row), axes))

    def look(self) -> list[Cue]:
        """Search all rows; the cues that were not told before."""
        self.cues = find_cues(self._rows, self._subject)
        new = [cue for cue in self.cues if (cue.feature, cue.answer) not in self._told]
        self._told.update((cue.feature, cue.answer) for cue in new)
        return new

    def by_label(self) -> Mapping[str | None, tuple[str, ...]]:
        """What calls of each label are to do without; of all calls, where there are no labels."""
        cues: dict[str | None, tuple[str, ...]] = {}
        for cue in self.cues:
            label = cue.answer if self._task.labels else None
            text = cue.feature if self._task.labels else f"{cue.feature}, of {cue.answer}"
            known = cues.get(label, ())
            if len(known) < MOST_TOLD and not cue.feature.startswith("was ordered"):
                cues[label] = (*known, f"the input {text}")
        return cues

    def _answers(self, row: Trace) -> dict[str, str]:
        """The answers that a cue could predict: the label, or what fields hold."""
        task = self._task
        if task.labels:
            return {"": row.output}
        output = as_value(row.output, otherwise=None)
        if task.response is None or not isinstance(output, dict):
            return {}
        answers = {}
        for name, field in task.response.fields().items():
            value = output.get(name)
            if field.values:
                answers[name] = f"those with `{name}` {value}"
            elif field.nullable:
                state = "null" if value is None else "given"
                answers[name] = f"those with `{name}` {state}"
        return answers
