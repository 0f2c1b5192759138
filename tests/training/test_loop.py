"""Training in mlx-lm's loop: every row, the right step, exact resume, best weights, roll-back."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nanodistill.errors import MemoryLimitError, VerificationError
from training.contexts import (
    Spy,
    asked_after,
    make_context,
    records,
    spied,
    token_rows,
    train,
    untrained,
    weights,
)
from training.tiny import make_student

import mlx.core as mx  # isort: skip
from mlx.nn.utils import value_and_grad  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

from nanodistill.training import mlx_setup  # isort: skip
from nanodistill.training.batches import assemble  # isort: skip
from nanodistill.training.checkpoints import Validation  # isort: skip
from nanodistill.training.loop import is_better  # isort: skip
from nanodistill.training.forward import WholeForward  # isort: skip
from nanodistill.training.resource_guard import ResourceGuard  # isort: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("loop") / "student")


def test_every_row_is_trained_in_every_epoch(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, num_train_epochs=3, gradient_accumulation_steps=2)
    ending, state = train(context)
    assert ending == "done"
    assert sorted(spied(context).trained()) == sorted(3 * list(range(22)))
    assert (state.update, state.rows) == (9, 66), "22 rows are two updates of 8 and one of 6"
    assert state.tokens == 3 * context.train.tokens.size


def test_a_set_smaller_than_a_batch_is_trained(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, token_rows(student, 3, 2), batch_size=16)
    assert train(context)[1].rows == 3


def test_an_update_is_the_mean_over_its_target_tokens(student: Path, tmp_path: Path) -> None:
    """Against a step by hand: SGD at rate 0.1 on the whole set, cut into three batches."""
    rows = token_rows(student, 7, 2)
    settings = {
        "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": None,
        "batch_size": 3, "gradient_accumulation_steps": 3, "fine_tune_type": "full",
    }  # fmt: skip
    context = make_context(student, tmp_path, rows, **settings)
    train(context)
    by_hand = untrained(student, tmp_path / "by hand", rows, **settings)
    model, forward = by_hand.model, WholeForward(by_hand.model)
    every = assemble(rows["train"], range(7), weight=1 / int(rows["train"].targets.sum()),
                     multiple=1)  # fmt: skip
    arrays = forward.arrays("train", every)
    _, gradient = value_and_grad(model, lambda *_: forward.loss(*arrays)[0])(model)
    before, slope = mlx_setup.trainable(model), dict(tree_flatten(gradient))
    after = mlx_setup.trainable(context.model)
    moved = max(float(mx.abs(slope[name]).max()) for name in slope)
    assert moved > 1e-3
    for name in before:
        apart = mx.abs(after[name] - (before[name] - 0.1 * slope[name])).max()
        assert float(apart) < 1e-5 * moved, name


def test_accumulating_is_the_same_as_one_large_batch(student: Path, tmp_path: Path) -> None:
    whole = make_context(student, tmp_path / "a", batch_size=8)
    cut = make_context(student, tmp_path / "b", batch_size=2, gradient_accumulation_steps=4)
    train(whole)
    train(cut)
    one, other = mlx_setup.trainable(whole.model), mlx_setup.trainable(cut.model)
    assert max(float(mx.abs(one[n] - other[n]).max()) for n in one) < 1e-4


EXACT: dict[str, dict[str, Any]] = {
    "lora, dropout, cosine": {"lora_dropout": 0.3, "lr_scheduler": "cosine", "warmup_steps": 2},
    "dora": {"fine_tune_type": "dora"},
    "full": {"fine_tune_type": "full", "learning_rate": 1e-3},
    "sgd": {"optimizer": "sgd", "mlx_lm_kwargs": {"momentum": 0.9}},
    "muon": {"optimizer": "muon"},
    "adafactor": {"optimizer": "adafactor"},
    "adam": {"optimizer": "adam"},
}


@pytest.mark.parametrize("settings", EXACT.values(), ids=EXACT)
def test_going_on_after_any_stop_ends_in_the_same_bits(
    student: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, **settings}
    whole = make_context(student, tmp_path / "whole", **settings)
    train(whole)
    looks = 3
    for attempt in count(1):
        assert attempt < 20
        stopped = make_context(student, tmp_path / "stopped", **settings)
        ending, _ = train(replace(stopped, stop_requested=asked_after(looks)))
        if ending == "done":
            break
    assert attempt > 4
    assert weights(stopped) == weights(whole)
    assert recorded_losses(stopped) == recorded_losses(whole)


def recorded_losses(context: Any) -> list[tuple[str, int, float]]:
    return [(r["kind"], r["update"], r["loss"]) for r in records(context) if "loss" in r]


def test_without_the_optimizers_state_the_bits_would_differ(student: Path, tmp_path: Path) -> None:
    """That the comparison above can fail: the same stop, but going on with fresh moments."""
    whole = make_context(student, tmp_path / "whole", num_train_epochs=2)
    train(whole)
    stopped = make_context(student, tmp_path / "stopped", num_train_epochs=2)
    train(replace(stopped, stop_requested=asked_after(5)))
    found = stopped.checkpoints.latest()
    assert found is not None
    moments = {n: mx.zeros_like(a) if n != "step" else a for n, a in found.optimizer().items()}
    stopped.checkpoints.write(found.state, found.adapter(), moments)
    again = make_context(student, tmp_path / "stopped", num_train_epochs=2)
    train(again)
    assert weights(again) != weights(whole)


def test_the_validation_loss_is_the_mean_over_all_target_tokens(
    student: Path, tmp_path: Path
) -> None:
    rows = token_rows(student)
    context = make_context(student, tmp_path, rows)
    _, state = train(context)
    fresh = untrained(student, tmp_path / "fresh", rows)
    forward = WholeForward(fresh.model)
    losses = [
        float(forward.loss(*forward.arrays("valid", assemble(rows["valid"], [row], weight=1.0,
                                                             multiple=1)))[0])
        for row in range(len(rows["valid"]))
    ]  # fmt: skip
    expected = sum(losses) / rows["valid"].targets.sum()
    assert state.validations[0].loss == pytest.approx(expected, rel=1e-5)
    assert state.validations[-1].loss < state.validations[0].loss


def test_the_adapter_is_the_best_checkpoints(student: Path, tmp_path: Path) -> None:
    scores = iter([0.1, 0.2, 0.9, 0.3, 0.2, 0.1, 0.0, 0.0])
    context = replace(
        make_context(student, tmp_path, num_train_epochs=2, eval_steps=2, save_steps=1),
        score=lambda: next(scores),
    )
    _, state = train(context)
    assert state.best is not None
    assert (state.best.update, state.best.score) == (4, 0.9)
    assert weights(context) == (tmp_path / "checkpoints/0000004/adapter.safetensors").read_bytes()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["0000004", "0000011", "0000012"], "the best and the last two"


def test_training_ends_when_it_gets_no_better(student: Path, tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.5, 0.4, 0.9])
    settings: dict[str, Any] = {
        "num_train_epochs": 9, "eval_steps": 1, "early_stopping_patience": 2,
    }  # fmt: skip
    context = replace(make_context(student, tmp_path, **settings), score=lambda: next(scores))
    ending, state = train(context)
    assert (ending, state.update) == ("early", 3)
    again = make_context(student, tmp_path, **settings)
    assert train(again)[0] == "early", "going on finds it ended"
    assert spied(again).trained() == []


def test_without_validation_rows_the_last_weights_are_taken(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, token_rows(student, 9, 0))
    _, state = train(context)
    assert state.best is None
    last = tmp_path / f"checkpoints/{state.update:07d}/adapter.safetensors"
    assert weights(context) == last.read_bytes()


@pytest.mark.parametrize(
    ("found", "best", "better"),
    [
        (Validation(2, 1.0), None, True),
        (Validation(2, 1.0), Validation(1, 1.1), True),
        (Validation(2, 1.1), Validation(1, 1.1), False),
        (Validation(2, 9.0, 0.8), Validation(1, 1.0, 0.7), True),
        (Validation(2, 0.9, 0.8), Validation(1, 1.0, 0.8), True),
        (Validation(2, 0.1, 0.7), Validation(1, 1.0, 0.8), False),
    ],
)
def test_better_is_the_higher_score_then_the_smaller_loss(
    found: Validation, best: Validation | None, better: bool
) -> None:
    assert is_better(found, best) is better


class Poisoned(Spy):
    """A forward pass that multiplies the loss of its n-th training batches, by NaN or more."""

    def __init__(self, inner: Spy, *bad: int, factor: float = float("nan")) -> None:
        super().__init__(inner.inner)
        self.bad = bad
        self.factor = factor
        self.seen = -1

    def arrays(self, split: str, batch: Any, /) -> Any:
        inputs, where, targets, shares = super().arrays(split, batch)
        self.seen += split == "train"
        factor = self.factor if split == "train" and self.seen in self.bad else 1.0
        return inputs, where, targets, shares * factor


def test_a_nan_goes_back_once_with_a_smaller_rate(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, num_train_epochs=2, save_steps=3)
    ending, state = train(replace(context, forward=Poisoned(spied(context), 7)))
    assert (ending, state.update, state.rollbacks, state.rate) == ("done", 12, 1, 0.25)
    (message,) = [r["text"] for r in records(context) if r["kind"] == "said"]
    assert "update 8 had a loss of nan" in message
    assert "update 6 with 0.25 times the learning rate" in message
    rates = [r["learning_rate"] for r in records(context) if r["kind"] == "train"]
    assert rates == pytest.approx([1e-2] * 7 + [2.5e-3] * 6)
    assert all(bool(mx.all(mx.isfinite(a))) for a in mlx_setup.trainable(context.model).values())


def test_a_second_nan_ends_it_with_what_was_seen(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, num_train_epochs=2, save_steps=3)
    with pytest.raises(
        VerificationError, match="again after a roll-back: update 8 had a loss of nan"
    ):
        train(replace(context, forward=Poisoned(spied(context), 7, 9)))
    again = make_context(student, tmp_path, num_train_epochs=2, save_steps=3)
    ending, state = train(again)
    assert (ending, state.rate) == ("done", 0.25), "a roll-back is remembered"


def test_a_loss_that_runs_away_is_stopped_too(student: Path, tmp_path: Path) -> None:
    context = make_context(student, tmp_path, num_train_epochs=9, save_steps=5)
    away = Poisoned(spied(context), *range(12, 99), factor=9.0)
    with pytest.raises(VerificationError, match=r"again .* after update \d+ the loss is \d+\.\d"):
        train(replace(context, forward=away))


def test_rows_that_are_harder_than_the_first_are_no_divergence(
    student: Path, tmp_path: Path
) -> None:
    context = make_context(student, tmp_path, num_train_epochs=2, learning_rate=1e-5)
    harder = Poisoned(spied(context), *range(1, 99), factor=2.5)
    ending, state = train(replace(context, forward=harder))
    assert (ending, state.rollbacks) == ("done", 0)


class Full(ResourceGuard):
    """A guard that finds the memory full at its n-th look."""

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.memory = 0

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise MemoryLimitError("full")


def test_the_guard_leaves_a_checkpoint_to_go_on_from(student: Path, tmp_path: Path) -> None:
    whole = make_context(student, tmp_path / "whole", num_train_epochs=2)
    train(whole)
    for looks in (1, 4, 9):
        context = make_context(student, tmp_path / "full", num_train_epochs=2)
        with pytest.raises(MemoryLimitError):
            train(replace(context, guard=Full(looks)))
    again = make_context(student, tmp_path / "full", num_train_epochs=2)
    assert train(again)[0] == "done"
    assert weights(again) == weights(whole)


def test_a_smaller_batch_trains_the_same_updates(student: Path, tmp_path: Path) -> None:
    """What the supervisor does after running out of memory."""
    whole = make_context(student, tmp_path / "a", num_train_epochs=2)
    train(whole)
    half = make_context(student, tmp_path / "b", num_train_epochs=2)
    train(replace(half, stop_requested=asked_after(5)))
    rest = replace(make_context(student, tmp_path / "b", num_train_epochs=2), micro_batch=2)
    train(rest)
    seen = spied(half).trained() + spied(rest).trained()
    assert sorted(seen) == sorted(2 * list(range(22)))
    one, other = mlx_setup.trainable(whole.model), mlx_setup.trainable(rest.model)
    assert max(float(mx.abs(one[n] - other[n]).max()) for n in one) < 1e-3
