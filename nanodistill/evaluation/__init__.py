"""Is the student better than its base, by how much, and how sure is that?

evaluating    evaluate(): the sequence from test rows to a verdict
asking        ask(): one question to the student
prompts       what is asked
contenders    who is asked: base, base with examples, student
trained       where the student's adapter lies
generation    missing answers are generated and kept
answers       every answer, durable, by the hash of what decides it
generator     the child process that holds the models, seen from the parent
child         the same from inside; job: what goes between them
prefix        the beginning that all prompts share is read once
given         answers from elsewhere: the teacher's
reading       an answer's text becomes thinking and output
normalization under which outputs and gold answers are compared
metrics       what makes an output right
scoring       readings become figures
statistics    intervals and paired tests
verdict       the comparison in words
results       results.json and predictions.parquet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanodistill.evaluation.asking import Answer, Student, ask
    from nanodistill.evaluation.evaluating import evaluate
    from nanodistill.evaluation.given import GivenAnswer
    from nanodistill.evaluation.results import EvaluationResult

HOMES = {
    "Answer": "asking",
    "EvaluationResult": "results",
    "GivenAnswer": "given",
    "Student": "asking",
    "ask": "asking",
    "evaluate": "evaluating",
}

__all__ = ["Answer", "EvaluationResult", "GivenAnswer", "Student", "ask", "evaluate"]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
