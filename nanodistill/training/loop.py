"""What stays the same through a run, and how its validations are taken and compared.

Training, inside mlx-lm's own loop.

`mlx_lm.tuner.trainer.train` steps through batches, accumulates, averages over
workers and compiles the step. It takes a loss, an optimizer and a generator of
batches, and through those comes all that it lacks: the generator deals out
updates (batches.py), seeds each batch, and wakes up after each update, which is
where a run records, validates, saves, pauses and stops. Returning from it ends
the loop. Its own validation, reports and saves are not used: it validates
before the last update and saves files that a crash leaves torn.

Going on is exact because nothing but the state in a checkpoint decides what
comes next: weights, optimizer, and the number of updates made, from which data
order and dropout follow. A `Session` is one way through the loop; a roll-back
ends it and begins another from the last checkpoint with a smaller rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.tuner.trainer import TrainingArgs
from mlx_lm.tuner.trainer import train as mlx_lm_train

from nanodistill.errors import MemoryLimitError, VerificationError
from nanodistill.hardware import GIB
from nanodistill.training import adapters
from nanodistill.training.batches import (
    BatchSampler,
    Rows,
    TrainingBatch,
    batches_for_scoring,
    batches_of_update,
)
from nanodistill.training.checkpoints import ADAPTER, Checkpoint, Checkpoints, State, Validation
from nanodistill.training.forward import Forward
from nanodistill.training.metrics_log import MetricsWriter
from nanodistill.training.optimizer import LOSS, NORM, TrackedOptimizer, build_optimizer
from nanodistill.training.resource_guard import ResourceGuard
from nanodistill.training.tokenize import TokenRows
from nanodistill.training.training_options import TrainingOptions

if TYPE_CHECKING:
    from mlx.nn.layers.base import Module


class StopRequested(Exception):
    """A person, or the death of the command, asks training to end."""


@dataclass(frozen=True)
class TrainingContext:
    """All that stays the same through a run.

    `batches` of `micro_batch` rows make an update; widths of batches are multiples of
    `multiple`. `hold_memory` is called inside mlx-lm's loop, which has just set a limit of its
    own.
    """

    model: Module
    options: TrainingOptions
    forward: Forward
    deal: BatchSampler
    train: TokenRows
    valid: TokenRows | None
    micro_batch: int
    multiple: int
    score: Callable[[], float] | None
    checkpoints: Checkpoints
    adapter: Path
    adapter_config: str
    metrics: MetricsWriter
    guard: ResourceGuard
    stop_asked: Callable[[], bool]
    hold_memory: Callable[[], None]

    def look(self) -> None:
        """Return when work may go on.

        Raises:
            MemoryLimitError: it may not.
            StopAsked: it should not.
        """
        self.guard.check()
        if self.stop_asked():
            raise StopRequested

    @property
    def batches(self) -> int:
        """Batches to an update."""
        return math.ceil(self.options.rows_per_update / self.micro_batch)


class MovingStats:
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


def mean_loss(course: TrainingContext) -> float:
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


Ending = Literal["done", "early", "stopped"]

SMALLER = 0.25
"""What a roll-back does to the learning rate."""
SMOOTHING = 0.9
DIVERGENCE_FACTOR = 1.5
MARGIN = 4.0
"""A smoothed loss of so many times the untrained student's, and so many nats, is no loss of
learning. The margin is wide, as the first loss may be of few rows that happen to be easy."""
TICK_SECONDS = 2.0
NEVER = 1 << 60


class DivergedError(Exception):
    """Training went wrong in a way that a smaller learning rate may mend."""


def run(course: TrainingContext, found: Checkpoint | None) -> tuple[Ending, State]:
    """Train to the end, or until stopping is asked for, from `found` or from the beginning.

    Raises:
        MemoryLimitError: the guard stopped it, after a checkpoint.
        VerificationError: it diverged, again after a roll-back.
    """
    stored = found is not None
    while True:
        session = Session(course, found, stored=stored)
        try:
            return session.run(), session.state
        except DivergedError as diverged:
            found, stored = _rolled_back(course, session.state, str(diverged)), False


def _rolled_back(course: TrainingContext, state: State, what: str) -> Checkpoint:
    if state.rollbacks:
        raise VerificationError(
            f"Training diverged again after a roll-back: {what}. "
            f"The best checkpoint so far is kept.",
            next_step="Set a smaller learning_rate, or a warm-up (warmup_steps), and train again.",
        )
    found = course.checkpoints.latest()
    if found is None:
        raise AssertionError("a run begins with a checkpoint")
    smaller = replace(found.state, rate=found.state.rate * SMALLER, rollbacks=1)
    text = (
        f"{what}: going back to update {smaller.update} with "
        f"{smaller.rate:g} times the learning rate"
    )
    course.metrics.write("said", state.update, text=text, level="warning")
    return replace(found, state=smaller)


class Session:
    """One way through mlx-lm's loop, from a checkpoint or the beginning."""

    def __init__(self, course: TrainingContext, found: Checkpoint | None, *, stored: bool) -> None:
        self.course = course
        self.deal = course.deal
        self.total = course.options.updates(self.deal.updates_per_epoch)
        self.state = State() if found is None else found.state
        config = course.options.mlx_lm(self.total)
        self.updates = TrackedOptimizer(
            build_optimizer(config, self.state.rate), course.options.settings.max_grad_norm
        )
        if found is not None:
            course.model.load_weights(list(found.adapter().items()), strict=False)
        self.updates.start(course.model, None if found is None else found.optimizer())
        self._ending: Ending = "stopped"
        self._recent = MovingStats()
        self._begun = monotonic() - self.state.seconds
        self._unsaved = not stored
        self._told = monotonic()

    def run(self) -> Ending:
        arguments = self.arguments()
        mlx_lm_train(
            self.course.model,
            self.updates,
            train_dataset=self.course.train,
            val_dataset=None,
            args=arguments,
            loss=self._loss,
            iterate_batches=self._batches,
        )
        Path(arguments.adapter_file).unlink()
        return self._ending

    def arguments(self) -> TrainingArgs:
        """What mlx-lm's loop goes by; its own reports, validations and saves never come."""
        course = self.course
        left = (self.total - self.state.update) * course.batches
        return TrainingArgs(
            batch_size=course.micro_batch,
            iters=left + 1,  # so that the generator wakes up after the last update too
            grad_accumulation_steps=course.batches,
            steps_per_report=NEVER,
            steps_per_eval=NEVER,
            steps_per_save=NEVER,
            adapter_file=str(course.adapter.parent / ".mlx-lm-last.safetensors"),
            clear_cache_threshold=course.options.beyond.clear_cache_threshold or 0,
        )

    def _loss(self, _: Module, *batch: mx.array) -> tuple[mx.array, mx.array]:
        loss, count = self.course.forward.loss(*batch)
        self.updates.add_loss(mx.stop_gradient(loss))
        return loss, count

    def _batches(self, **_: Any) -> Iterator[tuple[mx.array, ...]]:
        """Called by mlx-lm's loop; what stands after `yield` runs after that batch's step."""
        try:
            self._begin()
            while self.state.update < self.total and not self._out_of_patience():
                rows = self.deal.rows_of(self.state.update)
                for place, batch in enumerate(self._batches_of(rows)):
                    self._look()
                    mx.random.seed(self._seed_of(place))
                    yield self.course.forward.arrays("train", batch)
                self._after_update(rows)
            self._finish()
        except StopRequested:
            self._save()
        except MemoryLimitError:
            self._save()
            raise

    def _look(self) -> None:
        """A pause is no time spent on training."""
        since = monotonic()
        with self._recent.not_counted():
            self.course.look()
        self._begun += monotonic() - since

    def _batches_of(self, rows: Rows) -> Iterator[TrainingBatch]:
        course = self.course
        return batches_of_update(course.train, rows, course.batches, course.multiple)

    def _begin(self) -> None:
        self.course.hold_memory()
        self._save()
        if self._is_due(self._eval_every):
            done = {validation.update for validation in self.state.validations}
            if self.state.update not in done:
                self._validate()
        self._save()
        self._recent = MovingStats()

    @property
    def _eval_every(self) -> int:
        valid = self.course.valid
        return self.course.options.eval_every(self.total, 0 if valid is None else len(valid))

    def _is_due(self, every: int) -> bool:
        return self.state.update == self.total or self.state.update % every == 0

    def _seed_of(self, place: int) -> int:
        """The seed of dropout in one batch, by update and place in it."""
        return (self.course.options.seed * 1_000_003 + self.state.update) * 257 + place

    def _after_update(self, rows: Rows) -> None:
        state, figures = self.state, self.updates.state
        loss, norm = figures[LOSS].item() / self.course.batches, figures[NORM].item()
        state.update += 1
        state.seconds = monotonic() - self._begun
        state.rows += len(rows)
        state.tokens += int(self.course.train.lengths[rows].sum())
        self._unsaved = True
        self._check(loss, norm)
        self._recent.add(loss, norm, len(rows), int(self.course.train.lengths[rows].sum()))
        self._tell()
        with self._recent.not_counted():
            if self._is_due(self._eval_every):
                self._validate()
            if self._is_due(self.course.options.save_every(self.total)):
                self._save()

    def _check(self, loss: float, norm: float) -> None:
        state = self.state
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(
                f"update {state.update} had a loss of {loss} and a gradient of {norm}"
            )
        if state.first_loss is None:
            state.first_loss = state.smoothed_loss = loss
        before = state.first_loss if state.smoothed_loss is None else state.smoothed_loss
        state.smoothed_loss = SMOOTHING * before + (1 - SMOOTHING) * loss
        if state.smoothed_loss > DIVERGENCE_FACTOR * state.first_loss + MARGIN:
            raise DivergedError(
                f"after update {state.update} the loss is {state.smoothed_loss:.2f}, "
                f"much more than the {state.first_loss:.2f} of the beginning"
            )

    def _tell(self) -> None:
        """A record of the latest updates when one is due, else a tick now and then."""
        if self._is_due(self.course.options.log_every(self.total)):
            self._record("train")
            self._recent = MovingStats()
        elif monotonic() - self._told > TICK_SECONDS:
            self._record("tick")

    def _record(self, kind: str) -> None:
        state = self.state
        self.course.metrics.write(
            kind,
            state.update,
            **self._recent.figures(),
            smoothed=state.smoothed_loss,
            learning_rate=self.updates.learning_rate.item(),
            memory_gb=self.course.guard.memory / GIB,
            mlx_peak_gb=mx.get_peak_memory() / GIB,
            rows=state.rows,
            tokens=state.tokens,
            epoch=state.update / self.deal.updates_per_epoch,
            total=self.total,
            seconds=state.seconds,
            seconds_left=self._seconds_left(),
        )
        self._told = monotonic()

    def _seconds_left(self) -> float:
        return self.state.seconds / self.state.update * (self.total - self.state.update)

    def _validate(self) -> None:
        course, state = self.course, self.state
        if course.valid is None:
            return
        since = monotonic()
        course.model.eval()
        loss = mean_loss(course)
        score = None if course.score is None else course.score()
        course.model.train()
        if state.first_loss is None:
            state.first_loss = loss
        if not math.isfinite(loss):
            raise DivergedError(f"after update {state.update} the validation loss is {loss}")
        found = Validation(state.update, loss, score)
        better = is_better(found, state.best)
        state.validations.append(found)
        self._unsaved = True
        course.metrics.write(
            "valid", state.update, loss=loss, score=score, best=better,
            seconds=monotonic() - since, total=self.total,
        )  # fmt: skip
        if better:
            state.best = found
            self._save()

    def _save(self) -> None:
        if not self._unsaved:
            return
        course, state = self.course, self.state
        weights = adapters.trainable(course.model)
        path = course.checkpoints.write(state, weights, self.updates.flat_state())
        self._unsaved = False
        course.metrics.write("checkpoint", state.update, path=path.name)
        course.metrics.sync()
        untrained = state.update == 0
        if not untrained and (state.best is None or state.best.update == state.update):
            self._hand_out(path)

    def _hand_out(self, checkpoint: Path) -> None:
        """Make a checkpoint's weights the run's adapter."""
        weights, config = checkpoint / ADAPTER, self.course.adapter_config
        adapters.write_adapter(self.course.adapter, weights, config)

    def _out_of_patience(self) -> bool:
        patience = self.course.options.settings.early_stopping_patience
        best, validations = self.state.best, self.state.validations
        if patience is None or best is None:
            return False
        return sum(v.update > best.update for v in validations) >= patience

    def _finish(self) -> None:
        self._ending = "done" if self.state.update == self.total else "early"
        self._save()
        best = self.state.best
        chosen = self.state.update if best is None else best.update
        self._hand_out(self.course.checkpoints.at(chosen).path)
