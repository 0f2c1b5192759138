"""From seeds to a dataset version, with a teacher.

    result = await synthesize(config, listen=listen)
    estimate = await plan(config)

`stages` is the sequence; the other modules are its parts.
"""

from __future__ import annotations

from nanodistill.synthesis.estimate import PlanEstimate, plan
from nanodistill.synthesis.result import SynthesisResult
from nanodistill.synthesis.stages import synthesize

__all__ = ["PlanEstimate", "SynthesisResult", "plan", "synthesize"]
