"""From seeds to a dataset version, with a teacher.

    result = await synthesize(config, listen=listen)
    estimate = await plan(config)
    answers = await examine(config, dataset, inputs)

`stages` is the sequence; the other modules are its parts.
"""

from __future__ import annotations

from nanodistill.synthesis.estimate import PlanEstimate, plan
from nanodistill.synthesis.examination import Examined, examine
from nanodistill.synthesis.result import SynthesisResult
from nanodistill.synthesis.stages import synthesize

__all__ = ["Examined", "PlanEstimate", "SynthesisResult", "examine", "plan", "synthesize"]
