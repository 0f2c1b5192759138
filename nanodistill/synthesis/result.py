"""What synthesis ended with, for the command's last line and for a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanodistill.curation.filter_pipeline import Tally
from nanodistill.dataset import DatasetVersion
from nanodistill.events import Table
from nanodistill.formatting import dollars
from nanodistill.synthesis.seed_agreement import SeedAgreement
from nanodistill.types import Trace, Usage

LONGEST_SHOWN = 160


@dataclass(frozen=True)
class SynthesisResult:
    """Counts, cost and the version that was made, or the rows of a preview.

    `requested = kept + rejected + failed`. `calls` are those of this session:
    `made`, `reused` from the journal, `retried` of those made.
    """

    wanted: int
    requested: int
    kept: int
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    by_cell: Mapping[str, Tally]
    calls: Mapping[str, int]
    usage: Usage
    cost_usd: float | None
    dataset: DatasetVersion | None
    stopped_because: str
    blind_check: SeedAgreement | None = None
    preview: tuple[Trace, ...] = ()

    def to_json(self) -> dict[str, Any]:
        version = self.dataset
        return {
            "wanted": self.wanted,
            "requested": self.requested,
            "kept": self.kept,
            "rejected": dict(self.rejected),
            "failed": dict(self.failed),
            "calls": dict(self.calls),
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
            },
            "cost_usd": self.cost_usd,
            "dataset": version
            and {
                "path": str(version.path),
                "version": version.name,
                "fingerprint": version.fingerprint,
            },
            "stopped_because": self.stopped_because,
            "preview": [
                {"input": row.input, "thinking": row.thinking, "output": row.output}
                for row in self.preview
            ],
        }

    def summary(self) -> str:
        rejected, failed = sum(self.rejected.values()), sum(self.failed.values())
        lines = [
            f"{self.kept} of {self.wanted} rows kept; {self.requested} requested, "
            f"{rejected} rejected{_by_reason(self.rejected)}, {failed} failed"
            f"{_by_reason(self.failed)}.",
            f"{self.calls['made']} calls made, {self.calls['reused']} taken from the journal"
            f"{'' if self.cost_usd is None else f', {dollars(self.cost_usd)}'}.",
        ]
        if self.stopped_because in WHY:
            lines.append(WHY[self.stopped_because])
        if self.dataset is not None:
            lines.append(f"Dataset {self.dataset.name} in {self.dataset.path}")
        return "\n".join(lines)

    def preview_table(self) -> Table:
        """The rows of a preview, to look at."""
        rows = tuple((_short(row.output), _short(row.input)) for row in self.preview)
        return Table("First rows", ("output", "input"), rows)


WHY = {
    "saturated": "Stopped short: new rows no longer added anything new.",
    "failing": "Stopped short: the last rounds brought hardly a row; see the warning for why.",
    "max_rounds": "Stopped short: max_rounds were run.",
    "preview": "A preview: no dataset was written, and what was asked counts for the whole run.",
}


def _by_reason(counts: Mapping[str, int]) -> str:
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f" ({', '.join(f'{reason} {n}' for reason, n in most_first)})" if counts else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 1] + "…"
