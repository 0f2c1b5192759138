"""What the data is for: the task as the stages see it, read and checked before it costs."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanodistill.config import DistillationConfig
from nanodistill.curation.filters import Verifier
from nanodistill.curation.labels import find_labels, listed_labels, match_label, spellings_told
from nanodistill.curation.response_model import Response, load_response, object_schema
from nanodistill.errors import ConfigError, DataError, Problem
from nanodistill.events import Listener, Notice
from nanodistill.plugins import ResponseParser, instantiated, load_object
from nanodistill.prompts import Prompts, make_prompts, text_or_file
from nanodistill.providers.lazy_imports import quiet
from nanodistill.seeds import Row, load_rows
from nanodistill.thinking import FORMATS, Format, has_thinking, resolve_format
from nanodistill.types import Seed, tagged_hash

MOST_ROWS_PER_CALL = 10
"""Rows of one call see each other, so a teacher keeps them apart; with many more, the last ones
grow short and alike."""
WORDS_PER_CALL = 1500
"""About 2,000 tokens of an answer: half of what the smallest limits of hosted models allow."""


@dataclass(frozen=True)
class Task:
    """A run's task and the rows that the user brought.

    `seeds` may be shown in prompts; `test` never is. `given` are training rows of
    the user's own. `labels` is the closed set of outputs, empty where they are open.
    """

    config: DistillationConfig
    seeds: tuple[Row, ...]
    test: tuple[Row, ...]
    given: tuple[Row, ...]
    labels: tuple[str, ...]
    response: Response | None
    form: Format
    prompts: Prompts
    parser: ResponseParser | None
    verifier: Verifier | None
    rubric: str
    all_seeds: int

    @property
    def instruction(self) -> str:
        return self.config.instruction.strip()

    @property
    def wanted(self) -> int:
        if self.config.training_data is not None:
            return len(self.seeds) + len(self.given)
        return self.all_seeds * self.config.augment_factor

    @property
    def thinks(self) -> bool:
        """Whether rows have thinking."""
        return has_thinking(self.form)

    @property
    def plans_labels(self) -> bool:
        """Whether inputs are written for a label that the plan has chosen."""
        return bool(self.labels) and self.config.coverage

    @property
    def generates_outputs(self) -> bool:
        """Whether generation brings the outputs too.

        Either they hold their own reasoning, or they are labels that no plan has chosen.
        """
        if self.config.samples_per_input > 1:
            return False
        if self.labels:
            return not self.plans_labels and not self.thinks
        reasons = self.response is not None and self.response.reasoning_field is not None
        return reasons and self.config.generation == "structured"

    @functools.cached_property
    def rows_per_call(self) -> int:
        """Rows that one generation call asks for."""
        if self.config.generation == "chat":
            return 1
        if self.config.examples_per_call is not None:
            return self.config.examples_per_call
        texts = [
            f"{seed.input} {seed.output}" if self.generates_outputs else seed.input
            for seed in self.seeds
        ]
        mean = sum(len(text.split()) for text in texts) / len(texts)
        return max(1, min(MOST_ROWS_PER_CALL, int(WORDS_PER_CALL / max(1.0, mean))))

    @property
    def asks_answers(self) -> bool:
        """Whether each new input is put to the teacher for its answer."""
        known = self.generates_outputs or (self.plans_labels and not self.thinks)
        return not known or self.config.samples_per_input > 1

    @property
    def recheck(self) -> Literal["boundary", "all", "none"]:
        """Which generated rows get a second answer."""
        return "all" if self.labels and self.config.check_labels else self.config.recheck

    def seeds_of(self, label: str | None) -> tuple[Row, ...]:
        """The seeds of a label; all of them where there is none."""
        return self.seeds if label is None else self._by_label.get(label, ())

    @functools.cached_property
    def _by_label(self) -> Mapping[str | None, tuple[Row, ...]]:
        groups: dict[str | None, tuple[Row, ...]] = {}
        for seed in self.seeds:
            label = self.label_of(seed)
            groups[label] = (*groups.get(label, ()), seed)
        return groups

    def label_of(self, seed: Seed) -> str | None:
        return match_label(seed.output, self.labels) if self.labels else None

    @functools.cached_property
    def label_hints(self) -> Mapping[str, str]:
        """What each label means, as a prompt says it; empty where the user did not."""
        meanings = self.config.labels if isinstance(self.config.labels, dict) else {}
        return {label: f"{label} ({meaning.strip()})" for label, meaning in meanings.items()}

    @functools.cached_property
    def answer_schema(self) -> Mapping[str, Any] | None:
        """What an answer is to look like, where outputs have a schema."""
        if self.response is None:
            return None
        if not self.thinks:
            return self.response.schema
        return self.response.inside("output", thinking="The reasoning that leads to the output.")

    @functools.cached_property
    def row_schema(self) -> Mapping[str, Any]:
        """What a row of a generation call's answer is to look like."""
        text = {"type": "string"}
        described = {"type": "string", "description": "An input, whole and by itself."}
        slot = {"type": "integer", "description": "The number of the input that was ordered."}
        fields: dict[str, Any] = {"slot": slot, "input": described}
        if self.generates_outputs and self.response is not None:
            own = dict(self.response.schema)
            own.pop("$defs", None)
            fields["output"] = own
        elif self.generates_outputs:
            fields["output"] = text | {"enum": list(self.labels)}
        return object_schema(fields)

    @property
    def row_definitions(self) -> Mapping[str, Any] | None:
        """What a row's schema refers to."""
        if self.response is None or not self.generates_outputs:
            return None
        definitions: Mapping[str, Any] | None = self.response.schema.get("$defs")
        return definitions


@quiet()
def load_task(config: DistillationConfig, on_event: Listener) -> Task:
    """Read what the configuration names and see that it fits together. Blocks.

    Raises:
        ConfigError, DataError: with what does not fit. Nothing was spent.
    """
    form = resolve_format(config.thinking_format)
    response = load_response(config.response_model)
    if response is not None and response.reasoning_field is not None:
        form = FORMATS["none"]
    brought = load_rows(config.seed, what="seed", on_event=on_event)
    rows = [_with_thinking(row, form) for row in brought]
    labels = _labels(config, rows, response, on_event)
    seeds, held_out = hold_out(rows, config, labels)
    test = load_rows(config.test, what="test", on_event=on_event) if config.test is not None else []
    given = _given(config, form, on_event)
    _check_outputs([*seeds, *held_out, *test, *given], labels, response)
    if not has_thinking(form):
        _mention_thinking([*seeds, *given], on_event)
    return Task(
        config=config,
        seeds=tuple(seeds),
        test=(*held_out, *(_with_thinking(row, form) for row in test)),
        given=tuple(given),
        labels=labels,
        response=response,
        form=form,
        prompts=make_prompts(
            config.prompt_templates,
            chat=config.generation == "chat",
            labels=bool(labels) and config.coverage,
        ),
        parser=_parser(config),
        verifier=_verifier(config),
        rubric=_rubric(config),
        all_seeds=len(rows),
    )


def hold_out(
    rows: Sequence[Row], config: DistillationConfig, labels: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    """Seeds to use and seeds set aside as the test, in turn from each label.

    Raises:
        ConfigError: none would be left to use.
    """
    if config.holdout_seeds >= len(rows):
        what = f"is {config.holdout_seeds}, and there are {len(rows)} seeds; some have to be left"
        raise ConfigError("The configuration does not hold:", [Problem("holdout_seeds", what)])
    drawn = sorted(rows, key=lambda row: tagged_hash("holdout", [config.random_seed, row.id]))
    seen: Counter[str | None] = Counter()
    turns: dict[str, tuple[int, int]] = {}
    for place, row in enumerate(drawn):
        label = match_label(row.output, labels) if labels else None
        turns[row.id] = seen[label], place
        seen[label] += 1
    aside = {row.id for row in sorted(rows, key=lambda row: turns[row.id])[: config.holdout_seeds]}
    kept = [row for row in rows if row.id not in aside]
    return kept, [row for row in rows if row.id in aside]


def _with_thinking(row: Row, form: Format) -> Row:
    """A row that came as messages, with its thinking taken out of its output."""
    if not row.is_chat:
        return row
    thinking, output = form.parse(row.output)
    if "".join(form.format(thinking, output).split()) != "".join(row.output.split()):
        return row  # reading forgives a teacher's slips; of a user's text nothing may be lost
    return Row(row.input, output, thinking, is_chat=True, where=row.where)


def _given(config: DistillationConfig, form: Format, on_event: Listener) -> list[Row]:
    if config.training_data is None:
        return []
    rows = load_rows(config.training_data, what="training_data", on_event=on_event)
    return [_with_thinking(row, form) for row in rows]


def _mention_thinking(rows: Sequence[Row], on_event: Listener) -> None:
    """What rows without thinking leave out of those that bring some."""
    found = [row.where for row in rows if row.thinking]
    if found:
        text = f"{len(found)} rows bring thinking (the first: {found[0]}), which the thinking "
        on_event(Notice(text + "format, none, leaves out.", "warning"))


def _labels(
    config: DistillationConfig, rows: Sequence[Row], response: Response | None, on_event: Listener
) -> tuple[str, ...]:
    if config.labels is not None:
        labels, spelled = listed_labels(config.labels), list(config.labels)
    else:
        labels = find_labels(rows) if response is None else ()
        spelled = [row.output for row in rows] if labels else []
    if told := spellings_told(labels, spelled):
        on_event(Notice(told, "warning"))
    return labels


def _check_outputs(rows: Sequence[Row], labels: tuple[str, ...], response: Response | None) -> None:
    problems = []
    for row in rows:
        if labels and match_label(row.output, labels) is None:
            what = f"'{row.output[:60]}' is none of the labels {', '.join(labels)}"
            problems.append(Problem(f"{row.where}: output", what))
        if response is not None and (wrong := response.read(row.output).problem):
            problems.append(
                Problem(f"{row.where}: output", f"is not what response_model says: {wrong}")
            )
    if problems:
        raise DataError("Outputs do not fit:", problems)


def _parser(config: DistillationConfig) -> ResponseParser | None:
    found = _object(config.response_parser, "response_parser")
    parser = instantiated(found, field="response_parser")
    if parser is None or isinstance(parser, ResponseParser):
        return parser
    what = f"{type(parser).__name__} lacks `parse_synthetic_examples(text)`"
    raise ConfigError("The configuration does not hold:", [Problem("response_parser", what)])


def _verifier(config: DistillationConfig) -> Verifier | None:
    found: Any = _object(config.verifier, "verifier")
    if found is not None and not callable(found):
        what = f"{found!r} can't be called with input and output"
        raise ConfigError("The configuration does not hold:", [Problem("verifier", what)])
    verifier: Verifier | None = found
    return verifier


def _object(given: Any, field: str) -> Any:
    return load_object(given, field=field) if isinstance(given, str) else given


def _rubric(config: DistillationConfig) -> str:
    if config.judge_rubric is not None:
        return text_or_file(config.judge_rubric, "judge_rubric")
    return "The output is what the task asks for, complete, and right for this input."
