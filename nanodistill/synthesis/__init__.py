"""From seeds to a dataset version, with a teacher.

result = await synthesize(config)
estimate = await plan(config)
answers = await answer_test_set(config, dataset, inputs)

pipeline            synthesize(): the stages, in order
synthesis_context   the open journal, teacher and judge of a run
task                the task as the stages see it, read and checked before it costs
seed_agreement      the teacher answers the seeds blind
policy              what the teacher makes of the task
coverage            axes, cells and slots: what to ask for
generation          prompts for new inputs
generation_parser   rows out of the answers
rounds              round after round until the rows are there
answers, answer_stage   inputs become rows with answers
row_filters         which filters of `curation` a run uses
judge               a second model's word on each row
ledger              where rows end: kept, rejected, failed
dataset_builder     from the ledger to a dataset version
user_rows           rows that the user brings
dry_run, cost_preview   what a run would ask and cost
teacher_eval        the teacher sits the student's test
"""

from __future__ import annotations

from nanodistill.synthesis.dry_run import PlanEstimate, plan
from nanodistill.synthesis.pipeline import synthesize
from nanodistill.synthesis.result import SynthesisResult
from nanodistill.synthesis.teacher_eval import TestSetAnswers, answer_test_set

__all__ = [
    "PlanEstimate",
    "SynthesisResult",
    "TestSetAnswers",
    "answer_test_set",
    "plan",
    "synthesize",
]
