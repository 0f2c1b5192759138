"""Is the student better than its base, by how much, and how sure is that?

pipeline             evaluate(): the sequence from test rows to a verdict
predict              ask(): one question to the student
eval_set             the rows that are judged, as prompts
eval_models          who is compared: base, base with examples, student, teacher
answer_generation    missing answers are generated and kept
answer_cache         every answer, durable, by the hash of what decides it
worker               the process that holds the models
prompt_prefix        a beginning that all prompts share is read once
external_answers     answers from elsewhere: the teacher's
endpoint             a model behind an OpenAI-compatible server
scorer               answers become predictions and figures
results              results.json, predictions.parquet, and the verdict in words
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.evaluation.external_answers import ExternalAnswer
    from nanodistill.evaluation.pipeline import evaluate
    from nanodistill.evaluation.predict import Student, StudentAnswer, ask
    from nanodistill.evaluation.results import EvaluationResult

HOMES = {
    "StudentAnswer": "predict",
    "EvaluationResult": "results",
    "ExternalAnswer": "external_answers",
    "Student": "predict",
    "ask": "predict",
    "evaluate": "pipeline",
}

__all__ = ["EvaluationResult", "ExternalAnswer", "Student", "StudentAnswer", "ask", "evaluate"]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
