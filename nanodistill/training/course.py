"""What stays the same through a run, and how its validations are taken and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from nanodistill.training.batches import Deal, batches_for_scoring
from nanodistill.training.checkpoints import Checkpoints, Validation
from nanodistill.training.forward import Forward
from nanodistill.training.guard import Guard
from nanodistill.training.metrics import MetricsWriter
from nanodistill.training.options import TrainingOptions
from nanodistill.training.tokens import TokenRows

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module


class StopAsked(Exception):
    """A person, or the death of the command, asks training to end."""


@dataclass(frozen=True)
class Course:
    """All that stays the same through a run.

    `batches` of `micro_batch` rows make an update; widths of batches are multiples of
    `multiple`. `hold_memory` is called inside mlx-lm's loop, which has just set a limit of its
    own.
    """

    model: Module
    options: TrainingOptions
    forward: Forward
    deal: Deal
    train: TokenRows
    valid: TokenRows | None
    micro_batch: int
    multiple: int
    score: Callable[[], float] | None
    checkpoints: Checkpoints
    adapter: Path
    adapter_config: str
    metrics: MetricsWriter
    guard: Guard
    stop_asked: Callable[[], bool]
    hold_memory: Callable[[], None]

    def look(self) -> None:
        """Return when work may go on.

        Raises:
            MemoryLimit: it may not.
            StopAsked: it should not.
        """
        self.guard.check()
        if self.stop_asked():
            raise StopAsked

    @property
    def batches(self) -> int:
        """Batches to an update."""
        return math.ceil(self.options.rows_per_update / self.micro_batch)


class Recent:
    """The updates since the last record, and the time they took."""

    def __init__(self) -> None:
        self._since = monotonic()
        self._rows = self._tokens = self._updates = 0
        self._loss = 0.0
        self._norm = 0.0

    def add(self, loss: float, norm: float, rows: int, tokens: int) -> None:
        self._updates += 1
        self._loss += loss
        self._norm = norm
        self._rows += rows
        self._tokens += tokens

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """For work that is no training."""
        since = monotonic()
        yield
        self._since += monotonic() - since

    def figures(self) -> dict[str, float]:
        seconds = max(1e-9, monotonic() - self._since)
        return {
            "loss": self._loss / self._updates,
            "gradient_norm": self._norm,
            "tokens_per_second": self._tokens / seconds,
            "rows_per_second": self._rows / seconds,
        }


def mean_loss(course: Course) -> float:
    """Mean loss of the validation rows' target tokens."""
    valid = course.valid
    if valid is None:
        raise AssertionError("no validation rows")
    total, count = 0.0, 0
    for batch in batches_for_scoring(valid, course.multiple):
        course.look()
        arrays = course.forward.arrays("valid", batch)
        loss, _ = course.forward.loss(*arrays)
        total += float(loss)
        count += batch.target_tokens
    return total / count


def is_better(found: Validation, best: Validation | None) -> bool:
    """By score where there is one, a tie going to the smaller loss; else by loss."""
    if best is None:
        return True
    if found.score is None or best.score is None:
        return found.loss < best.loss
    return (found.score, -found.loss) > (best.score, -best.loss)
