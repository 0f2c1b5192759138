"""Training inside mlx-lm's own loop: updates, validation, checkpoints, roll-back.

`mlx_lm.tuner.trainer.train` steps through batches, accumulates gradients and compiles
the step. It takes a loss, an optimizer and a generator of batches, and everything it
lacks comes in through those: the generator yields the batches of an update
(batches.py), seeds each, and regains control after the update, where a run records,
validates, saves, pauses and stops. Returning from the generator ends the loop.
mlx-lm's own validation, reports and saves are switched off: it validates before the
last update, and its files can be torn by a crash.

Resuming is exact because only the state in a checkpoint decides what comes next:
weights, optimizer, and the number of updates, from which row order and dropout follow.
A `Session` is one pass through mlx-lm's loop. Divergence ends it, and another starts
from the last checkpoint with a smaller learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.tuner.trainer import TrainingArgs
from mlx_lm.tuner.trainer import train as mlx_lm_train

from nanodistill.errors import MemoryLimitError, VerificationError
from nanodistill.hardware import GIB
from nanodistill.training.batches import (
    BatchSampler,
    Rows,
    batches_for_scoring,
    batches_of_update,
)
from nanodistill.training.checkpoints import ADAPTER, Checkpoint, Checkpoints, State, Validation
from nanodistill.training.forward import Forward
from nanodistill.training.metrics_log import MetricsWriter
from nanodistill.training.mlx_setup import (
    LOSS,
    NORM,
    TrackedOptimizer,
    build_optimizer,
    trainable,
    write_adapter,
)
from nanodistill.training.resource_guard import ResourceGuard
from nanodistill.training.tokenize import TokenRows
from nanodistill.training.training_options import TrainingOptions

Ending = Literal["done", "early", "stopped"]

# The learning rate after a roll-back, as a share of the one that diverged. A choice: closer to 1 it
# may well diverge again, closer to 0 the rest of the run learns little.
ROLLBACK_FACTOR = 0.25
SMOOTHING = 0.9  # the smoothed loss is a mean over about the last 10 updates
# Training has diverged when the smoothed loss exceeds 1.5 times the first loss plus 4 nats. The
# margin is wide because the first loss may be that of a few easy rows. A run that stalls below it
# is not divergence: early stopping and the best checkpoint cover that.
DIVERGENCE_FACTOR, DIVERGENCE_MARGIN = 1.5, 4.0
TICK_SECONDS = 2.0  # between two progress records for whoever watches
NEVER = 1 << 60


class StopRequestedError(Exception):
    """The user, or the end of the command, asks training to stop."""


class DivergedError(Exception):
    """Training went wrong in a way that a smaller learning rate may fix."""


@dataclass(frozen=True)
class TrainingContext:
    """Everything that stays the same throughout a run.

    Attributes:
        micro_batch: rows per batch.
        multiple: batch widths are padded to a multiple of this.
        score: scores the validation rows, for `best_by = "score"`.
        adapter: the folder of the best adapter.
        limit_memory: called inside mlx-lm's loop, which sets a wired limit of its own.
    """

    model: Module
    options: TrainingOptions
    forward: Forward
    sampler: BatchSampler
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
    stop_requested: Callable[[], bool]
    limit_memory: Callable[[], None]

    def check_interrupts(self) -> None:
        """Return when work may continue.

        Raises:
            MemoryLimitError: the guard forbids it.
            StopRequestedError: somebody asked to stop.
        """
        self.guard.check()
        if self.stop_requested():
            raise StopRequestedError

    @property
    def batches_per_update(self) -> int:
        return math.ceil(self.options.rows_per_update / self.micro_batch)


class MovingStats:
    """Figures over the updates since the last record."""

    def __init__(self) -> None:
        self._since = monotonic()
        self._rows = self._tokens = self._updates = 0
        self._loss = self._norm = 0.0

    def add(self, loss: float, norm: float, rows: int, tokens: int) -> None:
        self._updates += 1
        self._loss += loss
        self._norm = norm
        self._rows += rows
        self._tokens += tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep work other than training out of the rates."""
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


def is_better(validation: Validation, best: Validation | None) -> bool:
    """Compare by score if there is one, ties by loss; else by loss."""
    if best is None:
        return True
    if validation.score is None or best.score is None:
        return validation.loss < best.loss
    return (validation.score, -validation.loss) > (best.score, -best.loss)


def run(context: TrainingContext, checkpoint: Checkpoint | None) -> tuple[Ending, State]:
    """Train from `checkpoint`, or from the beginning, until done or asked to stop.

    Raises:
        MemoryLimitError: the guard stopped it, after a checkpoint.
        VerificationError: it diverged again after a roll-back.
    """
    stored = checkpoint is not None
    while True:
        session = Session(context, checkpoint, stored=stored)
        try:
            return session.run(), session.state
        except DivergedError as diverged:
            checkpoint, stored = _roll_back(context, session.state, str(diverged)), False


def _roll_back(context: TrainingContext, state: State, reason: str) -> Checkpoint:
    """The last checkpoint, with a smaller learning rate."""
    if state.rollbacks:
        raise VerificationError(
            f"Training diverged again after a roll-back: {reason}. "
            "The best checkpoint so far is kept.",
            next_step="Set a smaller learning_rate, or a warm-up (warmup_steps), and train again.",
        )
    checkpoint = context.checkpoints.latest()
    if checkpoint is None:
        raise AssertionError("a run starts by writing a checkpoint")
    earlier = checkpoint.state
    smaller = replace(earlier, rate=earlier.rate * ROLLBACK_FACTOR, rollbacks=1)
    context.metrics.write(
        "said",
        state.update,
        text=f"{reason}: rolling back to update {smaller.update} with {smaller.rate:g} times the "
        "learning rate",
        level="warning",
    )
    return replace(checkpoint, state=smaller)


class Session:
    """One pass through mlx-lm's loop, from a checkpoint or the beginning.

    Args:
        stored: whether `checkpoint` is on disk as it is; after a roll-back its rate is not.
    """

    def __init__(
        self, context: TrainingContext, checkpoint: Checkpoint | None, *, stored: bool
    ) -> None:
        self.context = context
        self.sampler = context.sampler
        options = context.options
        self.total = options.updates(self.sampler.updates_per_epoch)
        valid_rows = 0 if context.valid is None else len(context.valid)
        self._eval_every = options.eval_every(self.total, valid_rows)
        self.state = State() if checkpoint is None else checkpoint.state
        self.optimizer = TrackedOptimizer(
            build_optimizer(options.mlx_lm(self.total), self.state.rate),
            options.settings.max_grad_norm,
        )
        if checkpoint is not None:
            context.model.load_weights(list(checkpoint.adapter().items()), strict=False)
        self.optimizer.start(context.model, None if checkpoint is None else checkpoint.optimizer())
        self._ending: Ending = "stopped"
        self._recent = MovingStats()
        self._started = monotonic() - self.state.seconds
        self._unsaved = not stored
        self._recorded = monotonic()

    def run(self) -> Ending:
        arguments = self.arguments()
        mlx_lm_train(
            self.context.model,
            self.optimizer,
            train_dataset=self.context.train,
            val_dataset=None,
            args=arguments,
            loss=self._loss,
            iterate_batches=self._batches,
        )
        Path(arguments.adapter_file).unlink()  # mlx-lm always writes one at the end
        return self._ending

    def arguments(self) -> TrainingArgs:
        """The arguments of mlx-lm's loop, with its own reports, validations and saves off."""
        context = self.context
        left = (self.total - self.state.update) * context.batches_per_update
        return TrainingArgs(
            batch_size=context.micro_batch,
            iters=left + 1,  # so that the generator regains control after the last update too
            grad_accumulation_steps=context.batches_per_update,
            steps_per_report=NEVER,
            steps_per_eval=NEVER,
            steps_per_save=NEVER,
            adapter_file=str(context.adapter.parent / ".mlx-lm-last.safetensors"),
            clear_cache_threshold=context.options.overrides.clear_cache_threshold or 0,
        )

    def _loss(self, _: Module, *batch: mx.array) -> tuple[mx.array, mx.array]:
        loss, count = self.context.forward.loss(*batch)
        self.optimizer.add_loss(mx.stop_gradient(loss))
        return loss, count

    def _batches(self, **_: Any) -> Iterator[tuple[mx.array, ...]]:
        """Yield batches to mlx-lm's loop. The code after a `yield` runs after that batch's step."""
        context = self.context
        try:
            self._begin()
            while self.state.update < self.total and not self._out_of_patience():
                rows = self.sampler.rows_of(self.state.update)
                batches = batches_of_update(
                    context.train, rows, context.batches_per_update, context.multiple
                )
                for place, batch in enumerate(batches):
                    self._check_interrupts()
                    # Dropout depends on the update and the place in it, so it is the same after
                    # a resume. The factors only keep the seeds of different runs, updates and
                    # batches apart.
                    update = context.options.seed * 1_000_003 + self.state.update
                    mx.random.seed(update * 257 + place)
                    yield context.forward.arrays("train", batch)
                self._after_update(rows)
            self._ending = "done" if self.state.update == self.total else "early"
            self._save()
            best = self.state.best
            chosen = self.state.update if best is None else best.update
            self._publish_adapter(context.checkpoints.at(chosen).path)
        except StopRequestedError:
            self._save()
        except MemoryLimitError:
            self._save()
            raise

    def _check_interrupts(self) -> None:
        """A pause does not count as training time."""
        since = monotonic()
        with self._recent.paused():
            self.context.check_interrupts()
        self._started += monotonic() - since

    def _begin(self) -> None:
        self.context.limit_memory()
        self._save()
        validated = {validation.update for validation in self.state.validations}
        if self._is_due(self._eval_every) and self.state.update not in validated:
            self._validate()
        self._save()
        self._recent = MovingStats()

    def _is_due(self, every: int) -> bool:
        return self.state.update == self.total or self.state.update % every == 0

    def _after_update(self, rows: Rows) -> None:
        state, figures, options = self.state, self.optimizer.state, self.context.options
        loss = figures[LOSS].item() / self.context.batches_per_update
        norm = figures[NORM].item()
        tokens = int(self.context.train.lengths[rows].sum())
        state.update += 1
        state.seconds = monotonic() - self._started
        state.rows += len(rows)
        state.tokens += tokens
        self._unsaved = True
        self._check_divergence(loss, norm)
        self._recent.add(loss, norm, len(rows), tokens)
        if self._is_due(options.log_every(self.total)):
            self._record("train")
            self._recent = MovingStats()
        elif monotonic() - self._recorded > TICK_SECONDS:
            self._record("tick")
        with self._recent.paused():
            if self._is_due(self._eval_every):
                self._validate()
            if self._is_due(options.save_every(self.total)):
                self._save()

    def _check_divergence(self, loss: float, norm: float) -> None:
        state = self.state
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(
                f"update {state.update} had a loss of {loss} and a gradient norm of {norm}"
            )
        if state.first_loss is None:
            state.first_loss = state.smoothed_loss = loss
        before = state.first_loss if state.smoothed_loss is None else state.smoothed_loss
        state.smoothed_loss = SMOOTHING * before + (1 - SMOOTHING) * loss
        if state.smoothed_loss > DIVERGENCE_FACTOR * state.first_loss + DIVERGENCE_MARGIN:
            raise DivergedError(
                f"after update {state.update} the loss is {state.smoothed_loss:.2f}, up from "
                f"{state.first_loss:.2f} at the start"
            )

    def _record(self, kind: str) -> None:
        state = self.state
        self.context.metrics.write(
            kind,
            state.update,
            **self._recent.figures(),
            smoothed=state.smoothed_loss,
            learning_rate=self.optimizer.learning_rate.item(),
            memory_gb=self.context.guard.memory / GIB,
            mlx_peak_gb=mx.get_peak_memory() / GIB,
            rows=state.rows,
            tokens=state.tokens,
            epoch=state.update / self.sampler.updates_per_epoch,
            total=self.total,
            seconds=state.seconds,
            seconds_left=state.seconds / state.update * (self.total - state.update),
        )
        self._recorded = monotonic()

    def _validate(self) -> None:
        context, state = self.context, self.state
        if context.valid is None:
            return
        since = monotonic()
        context.model.eval()
        total, count = 0.0, 0
        for batch in batches_for_scoring(context.valid, context.multiple):
            context.check_interrupts()
            batch_loss, _ = context.forward.loss(*context.forward.arrays("valid", batch))
            total += float(batch_loss)
            count += batch.target_tokens
        loss = total / count
        score = None if context.score is None else context.score()
        context.model.train()
        if state.first_loss is None:
            state.first_loss = loss
        if not math.isfinite(loss):
            raise DivergedError(f"after update {state.update} the validation loss is {loss}")
        validation = Validation(state.update, loss, score)
        better = is_better(validation, state.best)
        state.validations.append(validation)
        self._unsaved = True
        context.metrics.write(
            "valid", state.update, loss=loss, score=score, best=better,
            seconds=monotonic() - since, total=self.total,
        )  # fmt: skip
        if better:
            state.best = validation
            self._save()

    def _save(self) -> None:
        if not self._unsaved:
            return
        context, state = self.context, self.state
        path = context.checkpoints.write(
            state, trainable(context.model), self.optimizer.flat_state()
        )
        self._unsaved = False
        context.metrics.write("checkpoint", state.update, path=path.name)
        context.metrics.sync()
        is_best = state.best is None or state.best.update == state.update
        if state.update > 0 and is_best:
            self._publish_adapter(path)

    def _publish_adapter(self, checkpoint: Path) -> None:
        """Make a checkpoint's weights the run's adapter."""
        config = self.context.adapter_config
        write_adapter(self.context.adapter, checkpoint / ADAPTER, config)

    def _out_of_patience(self) -> bool:
        patience = self.context.options.settings.early_stopping_patience
        best, validations = self.state.best, self.state.validations
        if patience is None or best is None:
            return False
        return sum(v.update > best.update for v in validations) >= patience
