"""The task policy: the teacher's description of the task, extracted once into policy.json.

A person may edit the file. It holds the policy, the key of what it was made from, and a hash of
the policy as it was made, so a run can tell an edited policy (used as it is, whatever it was made
from) from an untouched one (extracted again when seeds, instruction or prompt change). Calls whose
prompts quote the policy get new keys when it changes, so only those are asked again.

Without `extract_policy`, a policy is derived from the instruction and the seeds alone; it can be
edited in the same way.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, ValidationError

from nanodistill.config.settings import suggest
from nanodistill.curation.minhash import words_of
from nanodistill.curation.response_model import object_schema, summary
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
SHOWN_TO_WRITERS = ("input_format", "key_constraints")
"""Dimensions that generation prompts quote. Lengths are not among them: each row is given its own
range, and a second one would contradict it."""


class PolicyPart(BaseModel):
    """An entry of one of the policy's lists."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LabelNote(PolicyPart):
    """What a label covers, and the topics that belong to it alone."""

    label: str
    meaning: str = ""
    topics: list[str] = []


class DecisionRule(PolicyPart):
    """A rule that decides between answers that are close; `labels` names them, if there are any."""

    labels: list[str] = []
    rule: str


class OpenQuestion(PolicyPart):
    """Something that the instruction and the seeds leave open, and the answer assumed for it."""

    question: str
    answer: str


class FieldNote(PolicyPart):
    """How inputs express a field of the output, and what tempts to a wrong value."""

    field: str
    ways: list[str] = []
    decoys: list[str] = []


class OutputCheck(PolicyPart):
    """A check of outputs that code can run. `field` is empty where the output is plain text."""

    field: str = ""
    check: Literal["in_input", "matches", "one_of"]
    value: str = ""


class TaskPolicy(BaseModel):
    """A task in ten dimensions, what the plan varies, and what decides close cases.

    Which of the lists are filled depends on the task: `label_notes` for a closed set of labels,
    `topics` for all others, `field_notes` for outputs with a schema, `output_kinds` for free text.
    Fields of `policy_dimensions` come on top, as texts.
    """

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
    personas: list[str] = []
    label_notes: list[LabelNote] = []
    output_kinds: list[str] = []
    field_notes: list[FieldNote] = []
    decision_rules: list[DecisionRule] = []
    open_questions: list[OpenQuestion] = []
    checks: list[OutputCheck] = []

    @property
    def custom_dimensions(self) -> dict[str, str]:
        """The dimensions that the user added."""
        return {name: str(value) for name, value in (self.model_extra or {}).items()}

    def for_writers(self, rules: Sequence[str] = ()) -> str:
        """What generation prompts say of the task besides the instruction.

        Args:
            rules: the user's own decision rules, which come before the policy's.
        """
        quoted = {name: str(self.model_dump()[name]) for name in SHOWN_TO_WRITERS}
        quoted |= self.custom_dimensions
        lines = [f"{name.replace('_', ' ')}: {text}" for name, text in quoted.items() if text]
        parts = ["\n".join(line[0].upper() + line[1:] for line in lines)]
        parts.append(self.rules_text(rules))
        return "\n\n".join(part for part in parts if part)

    def rules_text(self, rules: Sequence[str] = ()) -> str:
        """What decides close cases, a line for each rule; empty where there are none."""
        deciding = [*rules, *(rule.rule for rule in self.decision_rules)]
        deciding += [f"{open_.question} {open_.answer}" for open_ in self.open_questions]
        if not deciding:
            return ""
        listed = "\n".join(f"- {rule}" for rule in dict.fromkeys(deciding))
        return f"What decides close cases:\n{listed}"


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


TEXTS = {"type": "array", "items": {"type": "string"}}


def _objects(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": object_schema(properties)}


TEXT = {"type": "string"}
LISTS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "topics": (
        TEXTS,
        "Six to twelve different subjects or situations that inputs can be about, a few words "
        "each, together covering what can come. Any kind of output must be possible in each.",
    ),
    "label_notes": (
        _objects(label=TEXT, meaning=TEXT, topics=TEXTS),
        "For each label: `meaning`, the instruction's own words for it, whole and unchanged; and "
        "`topics`, eight to fourteen different subjects of inputs with this label, a few words "
        "each: this label's own, most of them its plain core, in all kinds of fields, some at its "
        "edges, none that fits another label.",
    ),
    "personas": (
        TEXTS,
        "Ten to sixteen senders or settings that inputs come from, a few words each, as far apart "
        "as the task allows: different fields, trades, products, places, ages. Who or where, not "
        "what they want: each must be able to send inputs about any topic and with any answer.",
    ),
    "styles": (
        TEXTS,
        "Four to six manners of writing, a few words each (such as: telegraphic; chatty; formal; "
        "lower case with typos). Manner alone, never length, mood, purpose, subject or outcome: a "
        "style must fit any answer, and none may give it away.",
    ),
    "output_kinds": (
        TEXTS,
        "Three to eight kinds of outputs that the task can call for, a few words each, the rare "
        "and the empty ones too. Not by length or topic.",
    ),
    "field_notes": (
        _objects(field=TEXT, ways=TEXTS, decoys=TEXTS),
        "For each field of the output: `ways`, three to six different ways in which an input "
        "expresses it; `decoys`, two to four things in an input that tempt to a wrong value.",
    ),
    "decision_rules": (
        _objects(labels=TEXTS, rule=TEXT),
        "The rules that decide cases in which two answers are close, one sentence each: which it "
        "is and by what. First those that the instruction and the examples state, then those "
        "that they imply. `labels`: the two answers that a rule parts, or none.",
    ),
    "open_questions": (
        _objects(question=TEXT, answer=TEXT),
        "What instruction and examples leave open although inputs can raise it, five at most: "
        "`question`, and `answer`, the convention that fits the examples best.",
    ),
    "checks": (
        _objects(
            field=TEXT,
            check={"type": "string", "enum": ["in_input", "matches", "one_of"]},
            value=TEXT,
        ),
        "Checks that code can make of every right output, only if they hold without exception: "
        "`in_input` (the value stands word for word in the input), `matches` (`value` is a "
        "regular expression for the whole value), `one_of` (`value` lists what is allowed, "
        "parted by |). `field`: of which field, empty for the whole output.",
    ),
}
"""What the policy call asks for besides the dimensions: the form, and what it should hold."""


def lists_for(task: Task) -> tuple[str, ...]:
    """The lists of the policy that a task of this kind needs."""
    manner = ("personas", "styles", "decision_rules", "open_questions")
    if task.labels:
        return ("label_notes", *manner)
    if task.response is not None:
        return ("topics", *manner, "field_notes", "checks")
    return ("topics", *manner, "output_kinds", "checks")


def policy_schema(task: Task) -> dict[str, Any]:
    """The JSON schema of an extracted policy."""
    dimensions = DIMENSIONS | dict(task.config.policy_dimensions)
    texts = {name: {"type": "string", "description": says} for name, says in dimensions.items()}
    lists = {name: {**LISTS[name][0], "description": LISTS[name][1]} for name in lists_for(task)}
    return object_schema(texts | lists)


def policy_messages(task: Task) -> list[Message]:
    """The call that extracts the policy."""
    lists = {name: LISTS[name][1] for name in lists_for(task)}
    asked = DIMENSIONS | lists | dict(task.config.policy_dimensions)
    examples = [
        f"Input: {seed.input}\nOutput: {seed.output}" for seed in spread(task.seeds, SEEDS_SHOWN)
    ]
    parts = ["Examples:", *examples]
    if task.labels:
        parts.append(f"The labels: {', '.join(task.labels)}")
    if task.config.decision_rules:
        rules = "\n".join(f"- {rule}" for rule in task.config.decision_rules)
        parts.append(f"Settled already:\n{rules}")
    parts.append("Describe the task:\n" + "\n".join(f"- {n}: {says}" for n, says in asked.items()))
    system = task.prompts.render("policy_extraction_system", instruction=task.instruction)
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


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
        custom = stored.policy.custom_dimensions.keys() - task.config.policy_dimensions.keys()
        for name in sorted(custom):
            guess = suggest(name, TaskPolicy.model_fields)
            what = f"policy.json has '{name}', taken as a dimension of your own{guess}"
            on_event(Notice(what, "warning"))
        return ResolvedPolicy(stored.policy)
    if stored is not None and stored.made_from == made_from:
        return ResolvedPolicy(stored.policy)
    if task.config.extract_policy:
        policy = await _extracted(request, teacher)
        if policy.open_questions:
            on_event(Notice(open_questions_text(policy), "warning"))
        return ResolvedPolicy(policy, made_from)
    return ResolvedPolicy(derived_policy(task), made_from)


def open_questions_text(policy: TaskPolicy) -> str:
    """What the seeds leave open, for the user to settle."""
    lines = [f"  {open_.question} Assumed: {open_.answer}" for open_ in policy.open_questions]
    return (
        "Instruction and seeds leave questions open. To settle one another way, add a sentence to "
        "`decision_rules` in the run file or edit `open_questions` in policy.json:\n"
        + "\n".join(lines)
    )


def policy_request(task: Task, teacher: TeacherProtocol) -> Request:
    schema = policy_schema(task)
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
    try:
        return TaskPolicy.model_validate({"topics": [], "styles": [], **outcome.data})
    except ValidationError as invalid:
        raise TeacherUnavailableError(
            f"The teacher's description of the task can't be used: {summary(invalid)}",
            next_step="Take a stronger teacher, or set extract_policy = false.",
        ) from invalid
