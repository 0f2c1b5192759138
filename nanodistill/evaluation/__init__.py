"""Is the student better than its base, by how much, and how sure is that?

pipeline             evaluate(): from test rows to a verdict
predict              ask(): one input to the student
eval_set             the rows to score, as prompts; answers bought elsewhere
eval_models          the compared models: base, base with examples, student, teacher
answer_generation    the answer cache, and the child process that fills it
worker               that child process, which holds the models
endpoint             a model behind an OpenAI-compatible server
scorer               from answers to predictions and scores
results              results.json, predictions.parquet, and the verdict in words
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.evaluation.eval_set import ExternalAnswer
    from nanodistill.evaluation.pipeline import evaluate
    from nanodistill.evaluation.predict import Student, StudentAnswer, ask
    from nanodistill.evaluation.results import EvaluationResult

# Imported on first use, so that the child process does not load the parent's modules.
MODULES = {
    "EvaluationResult": "results",
    "ExternalAnswer": "eval_set",
    "Student": "predict",
    "StudentAnswer": "predict",
    "ask": "predict",
    "evaluate": "pipeline",
}

__all__ = ["EvaluationResult", "ExternalAnswer", "Student", "StudentAnswer", "ask", "evaluate"]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
