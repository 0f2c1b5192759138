"""Baselines beside the student: a linear classifier, and a student trained on the seeds alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.conftest import TinyRun
from evaluation.tiny import make_adapter, make_model
from nanodistill.evaluation import evaluate
from nanodistill.evaluation.baselines import linear_answerer, linear_verdict
from nanodistill.evaluation.eval_set import eval_set
from nanodistill.stats import compare

pytest.importorskip("sklearn")


def test_a_linear_classifier_on_the_same_rows_is_compared(unevaluated: TinyRun) -> None:
    result = evaluate(unevaluated.config(), unevaluated.dataset, unevaluated.run)
    answer = linear_answerer(unevaluated.dataset)
    assert answer is not None
    examples = eval_set(unevaluated.dataset)
    said = {one.id: one.output for one in answer(examples)}
    right = sum(said[row.id] == row.gold for row in examples.rows) / len(examples.rows)
    assert result.models["linear"].score.value == right > 0
    assert result.against["linear"].diff == -right, "the student has random weights"
    assert result.linear_verdict is not None
    assert result.linear_verdict in result.summary()
    assert result.generated == 18, "it generates nothing"


def test_there_is_none_for_open_outputs(tiny: TinyRun) -> None:
    manifest = tiny.dataset.manifest.model_copy(update={"labels": None})
    assert linear_answerer(replace(tiny.dataset, manifest=manifest)) is None


@pytest.mark.parametrize(
    ("student", "linear", "beats"),
    [(40, 20, True), (30, 29, False), (20, 20, False), (10, 30, False)],
)
def test_a_student_has_to_beat_it_beyond_chance(student: int, linear: int, beats: bool) -> None:
    scores = [[float(n < right) for n in range(50)] for right in (student, linear)]
    assert (linear_verdict(compare(*scores)) is None) is beats


def test_another_adapter_is_compared_as_trained_on_the_seeds(
    unevaluated: TinyRun, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "seeds", make_model(tmp_path / "model"), seed=9)
    result = evaluate(
        unevaluated.config(), unevaluated.dataset, unevaluated.run, seeds_only=adapter
    )
    assert result.generated == 24
    assert "student_on_seeds" in result.against
