"""What makes an output right: a score in 0..1 for each row, and what more it tells.

    exact      equal after normalization
    label      equal, against a closed set: macro-F1 and confusion besides
    json       share of the fields that are right; schema validity besides
    numeric    equal within a tolerance
    text       chrF similarity
    module:function of output and gold, yours

`choose_metric` takes the one that the run file names, or, with `auto`, the one
that the data calls for. A row whose output could not be read scores 0 under
all of them.
"""

from __future__ import annotations

from nanodistill.evaluation.metrics.choice import Choice, TaskFacts, choose_metric
from nanodistill.evaluation.metrics.metric import Metric, Pair, score_rows

__all__ = ["Choice", "Metric", "Pair", "TaskFacts", "choose_metric", "score_rows"]
