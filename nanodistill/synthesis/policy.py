"""What the teacher makes of the task: asked once, written to policy.json, a person's to edit.

The file holds the policy, a hash of what it was made from and a hash of the
policy as it was made. So a run can tell: an edited policy is used as it stands,
whatever it was made from; one that nobody touched is made anew when the seeds,
the instruction or the prompt change. Calls whose prompts hold the policy's
words have other keys once it is edited, so just those are asked again.

Without `extract_policy` the policy is derived from the instruction and the seeds
alone, and can be edited just so.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from nanodistill.config.settings import suggest
from nanodistill.curation.minhash import words_of
from nanodistill.curation.response_model import object_schema
from nanodistill.engine.response_validation import Failure
from nanodistill.errors import TeacherUnavailableError
from nanodistill.events import Listener, Notice
from nanodistill.run_dir import checked, read_json, write_json
from nanodistill.synthesis.task import Task
from nanodistill.synthesis.teacher_protocol import TeacherProtocol
from nanodistill.types import Message, Request, Seed, tagged_hash

DELETE = "Mend it by hand, or delete it to have the policy made anew."
SEEDS_SHOWN = 40
NOTE = (
    "Edit `policy` and run the same command again: it is used as you left it. "
    "Delete this file to have it made anew."
)

DIMENSIONS = {
    "task_description": "What the task is, in one or two sentences.",
    "input_format": "What an input is and how it is written.",
    "output_format": "What an output is and how it is written.",
    "reasoning_style": "What kind of reasoning leads from an input to its output.",
    "key_constraints": "What every output has to obey.",
    "difficulty_level": "How hard the inputs are, and what makes one harder than another.",
    "reasoning_patterns": "The steps or rules by which outputs are found.",
    "examples_summary": "What the examples have in common and where they differ.",
    "input_length_range": "How long inputs are, in words.",
    "output_length_range": "How long outputs are, in words.",
}
LISTS = {
    "topics": "Six to twelve different subjects or situations that inputs can be about, "
    "a few words each, together covering what can come.",
    "styles": "Three to five ways in which people write such inputs, a few words each.",
}
SHOWN_TO_WRITERS = ("input_format", "key_constraints", "input_length_range")


class TaskPolicy(BaseModel):
    """A task in ten dimensions, what `policy_dimensions` adds, and axes of variety."""

    model_config = ConfigDict(frozen=True, extra="allow")

    task_description: str
    input_format: str
    output_format: str
    reasoning_style: str
    key_constraints: str
    difficulty_level: str
    reasoning_patterns: str
    examples_summary: str
    input_length_range: str
    output_length_range: str
    topics: list[str]
    styles: list[str]

    @property
    def further(self) -> dict[str, str]:
        """The dimensions that the user added."""
        return {name: str(value) for name, value in (self.model_extra or {}).items()}

    def for_writers(self) -> str:
        """What whoever writes inputs should know, a line for each dimension that says anything."""
        told = {name: str(self.model_dump()[name]) for name in SHOWN_TO_WRITERS} | self.further
        lines = [f"{name.replace('_', ' ')}: {text}" for name, text in told.items() if text]
        return "\n".join(line[0].upper() + line[1:] for line in lines)


@dataclass(frozen=True)
class StoredPolicy:
    """A policy.json that is there."""

    policy: TaskPolicy
    made_from: str
    was_made: str

    @property
    def is_edited(self) -> bool:
        return hash_of(self.policy) != self.was_made


@dataclass(frozen=True)
class ResolvedPolicy:
    """The policy of a run, and what it was made from, where it is new."""

    policy: TaskPolicy
    made_from: str | None = None


def hash_of(policy: TaskPolicy) -> str:
    """Of what it says: a dimension that a later release adds is not in it until it is used."""
    return tagged_hash("nanodistill.policy.v1", policy.model_dump(exclude_defaults=True))


def read_policy(path: Path) -> StoredPolicy | None:
    """The policy in the run folder, if there is one.

    Raises:
        CorruptFileError: it can't be used any more, for example after a slip in editing.
    """
    if not path.exists():
        return None
    return checked(path, read_json(path), StoredPolicy, next_step=DELETE)


def keep_policy(path: Path, settled: ResolvedPolicy) -> None:
    """Write a new policy down; one that was there stays as it is."""
    if settled.made_from is not None:
        was_made = hash_of(settled.policy)
        held = {"note": NOTE, "made_from": settled.made_from, "was_made": was_made}
        write_json(path, held | {"policy": settled.policy.model_dump()})


def policy_schema(further: Mapping[str, str]) -> dict[str, Any]:
    """The JSON schema of an extracted policy."""
    texts = {
        name: {"type": "string", "description": says}
        for name, says in (DIMENSIONS | dict(further)).items()
    }
    lists = {
        name: {"type": "array", "items": {"type": "string"}, "description": says}
        for name, says in LISTS.items()
    }
    return object_schema(texts | lists)


def policy_messages(task: Task) -> list[Message]:
    """The call that extracts the policy."""
    further = task.config.policy_dimensions
    asked = [f"- {name}: {says}" for name, says in (DIMENSIONS | LISTS | further).items()]
    examples = [
        f"Input: {seed.input}\nOutput: {seed.output}" for seed in spread(task.seeds, SEEDS_SHOWN)
    ]
    user = "Examples:\n\n" + "\n\n".join(examples) + "\n\nDescribe the task:\n" + "\n".join(asked)
    system = task.prompts.render("policy_extraction_system", instruction=task.instruction)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def derived_policy(task: Task) -> TaskPolicy:
    """The policy that the instruction and the seeds give by themselves."""
    outputs = f"one of: {', '.join(task.labels)}" if task.labels else "as in the examples"
    if task.response is not None:
        outputs = f"JSON with {', '.join(task.response.schema.get('properties', {}))}"
    return TaskPolicy(
        task_description=task.instruction,
        input_format="",
        output_format=outputs,
        reasoning_style="",
        key_constraints="",
        difficulty_level="",
        reasoning_patterns="",
        examples_summary=f"{len(task.seeds)} examples",
        input_length_range=length_range([seed.input for seed in task.seeds]),
        output_length_range=length_range([seed.output for seed in task.seeds]),
        topics=[],
        styles=[],
    )


def length_range(texts: Sequence[str]) -> str:
    lengths = [len(words_of(text)) for text in texts]
    middle = round(statistics.median(lengths))
    return f"{min(lengths)} to {max(lengths)} words, {middle} in the middle"


def spread(seeds: Sequence[Seed], most: int) -> list[Seed]:
    """At most so many seeds, evenly from the whole list."""
    if len(seeds) <= most:
        return list(seeds)
    return [seeds[at * len(seeds) // most] for at in range(most)]


async def resolve_policy(
    task: Task, teacher: TeacherProtocol, path: Path, on_event: Listener
) -> ResolvedPolicy:
    """The policy of this run: a person's, the one that is there, or a new one.

    Raises:
        TeacherUnavailableError: the teacher could not describe the task.
    """
    request = policy_request(task, teacher)
    made_from = request.key if task.config.extract_policy else derivation_key(task)
    stored = await to_thread.run_sync(read_policy, path)
    if stored is not None and stored.is_edited:
        old = "" if stored.made_from == made_from else " It was made from other seeds or settings."
        on_event(Notice(f"policy.json was edited and is used as it stands.{old}"))
        for name in sorted(stored.policy.further.keys() - task.config.policy_dimensions.keys()):
            guess = suggest(name, TaskPolicy.model_fields)
            what = f"policy.json has '{name}', taken as a dimension of your own{guess}"
            on_event(Notice(what, "warning"))
        return ResolvedPolicy(stored.policy)
    if stored is not None and stored.made_from == made_from:
        return ResolvedPolicy(stored.policy)
    if task.config.extract_policy:
        return ResolvedPolicy(await _extracted(request, teacher), made_from)
    return ResolvedPolicy(derived_policy(task), made_from)


def policy_request(task: Task, teacher: TeacherProtocol) -> Request:
    schema = policy_schema(task.config.policy_dimensions)
    params = {"temperature": 0.0}
    return teacher.request("policy", policy_messages(task), schema=schema, params=params)


def derivation_key(task: Task) -> str:
    """What a derived policy was made from."""
    shown = [[seed.input, seed.output] for seed in task.seeds]
    return tagged_hash("nanodistill.derived.v1", [task.instruction, list(task.labels), shown])


async def _extracted(request: Request, teacher: TeacherProtocol) -> TaskPolicy:
    await teacher.complete_all([request])
    (outcome,) = await to_thread.run_sync(lambda: list(teacher.results([request])))
    if isinstance(outcome, Failure):
        raise TeacherUnavailableError(
            f"The teacher could not describe the task ({outcome.kind}): {outcome.message}",
            next_step="Run again to ask once more, take a stronger teacher, or set "
            "extract_policy = false.",
        )
    return TaskPolicy.model_validate(outcome.data)
