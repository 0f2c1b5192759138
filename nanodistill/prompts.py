"""The system prompts: ours, or the user's in their place.

A template has two parts: how to work (the style), and what about (the frame:
the task, and how the answer is to look). A user's template without any
placeholder takes the place of the style, and our frame follows it; one with
placeholders says everything itself, so it has to use every placeholder of the
frame and no other. A placeholder is a lower-case name in braces; other braces
are text.

What a prompt says decides which calls are asked again, because its text is in
every request's key; the hashes here are for the manifest, so that two versions
can be told apart by their prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanodistill.config.data import PromptTemplates
from nanodistill.errors import ConfigError, Problem
from nanodistill.records import tagged_hash

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
LONGEST_PATH = 300

STYLES = {
    "cot_system": """\
You work through a task step by step before you answer.

Look at the input closely and reason about what in it decides the answer. Keep the reasoning \
short and concrete: a few sentences, no repetition of the input, no remarks about yourself. \
Then give the answer exactly as the task asks for it, with nothing added.""",
    "policy_extraction_system": """\
You analyse tasks for people who build training data.

From the instruction and the examples, work out what the task really is: what its inputs look \
like, what decides the output, what varies from one input to the next and what never does. \
Describe what is there; invent no requirements. Write short, specific sentences.""",
    "synthetic_generation_system": """\
You write inputs for a training set.

Write inputs as they would really come: by different people, in different situations, with \
different wording, detail and tone. Use the examples to learn what an input looks like, but \
copy neither their wording nor their situations. Each input has to stand by itself and must \
not mention its answer, its category or these directions.""",
    "chat_generation_system": """\
You write new inputs, each as another person would write it.""",
    "judge_system": """\
You check the rows of a training set.

Judge only whether the output is right for the input, by the task and the rubric. Do not judge \
style, and do not rewrite anything.""",
}
FRAMES = {
    "cot_system": "The task:\n{instruction}\n\n{answer_form}",
    "policy_extraction_system": "The instruction:\n{instruction}",
    "synthetic_generation_system": "The inputs are for this task:\n{instruction}\n\n{policy}",
    "chat_generation_system": "",
    "judge_system": "The task:\n{instruction}\n\nThe rubric:\n{rubric}",
}
FIELDS = {
    "cot_system": "custom_cot_system_prompt",
    "policy_extraction_system": "custom_policy_extraction_prompt",
    "synthetic_generation_system": "custom_synthetic_generation_prompt",
}


@dataclass(frozen=True)
class Prompts:
    """The templates of one run, by name."""

    templates: Mapping[str, str]
    custom: frozenset[str] = frozenset()

    def render(self, name: str, **facts: str) -> str:
        """A template with its placeholders filled."""
        filled = PLACEHOLDER.sub(lambda found: facts[found[1]], self.templates[name])
        return re.sub(r"\n{3,}", "\n\n", filled).strip()

    def hashes(self) -> dict[str, str]:
        return {name: tagged_hash("prompt", text) for name, text in self.templates.items()}


def make_prompts(custom: PromptTemplates) -> Prompts:
    """Our templates, with the user's own in place of those that are given.

    Raises:
        ConfigError: a template has an unknown placeholder, lacks one, or is a file
            that can't be read.
    """
    templates = {name: f"{style}\n\n{FRAMES[name]}" for name, style in STYLES.items()}
    own: dict[str, str] = custom.model_dump(exclude_none=True)
    problems: list[Problem] = []
    for name, given in own.items():
        text = text_or_file(given, FIELDS[name])
        problems += [Problem(FIELDS[name], what) for what in _faults(name, text)]
        templates[name] = text if PLACEHOLDER.search(text) else f"{text}\n\n{FRAMES[name]}"
    if problems:
        raise ConfigError("The prompts do not hold:", problems)
    return Prompts(templates, frozenset(own))


def text_or_file(given: str, field: str) -> str:
    """`given` itself, or the content of the file that it is the path of.

    Raises:
        ConfigError: it is named like a text file, and there is none or it is no text.
    """
    if "\n" in given or len(given) > LONGEST_PATH:
        return given.strip()
    path = Path(given).expanduser()
    if not path.is_file() and path.suffix not in (".md", ".txt"):
        return given.strip()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as unreadable:
        problem = Problem(field, f"{path} can't be read: {unreadable}")
        raise ConfigError("The prompts do not hold:", [problem]) from unreadable


def _faults(name: str, text: str) -> list[str]:
    wanted = set(PLACEHOLDER.findall(FRAMES[name]))
    found = set(PLACEHOLDER.findall(text))
    if not text:
        return ["is empty"]
    unknown = [f"{{{word}}}" for word in sorted(found - wanted)]
    missing = [f"{{{word}}}" for word in sorted(wanted - found)] if found else []
    known = ", ".join(f"{{{word}}}" for word in sorted(wanted))
    return [f"has the unknown placeholder {word}; it may have {known}" for word in unknown] + [
        f"lacks the placeholder {word}; use every one of {known}, or none at all "
        "to have them follow the text"
        for word in missing
    ]
