"""The policy: asked once, kept in a file, used as a person leaves it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill.config import DistillationConfig
from nanodistill.errors import CorruptFileError, RequestRejectedError, TeacherUnavailableError
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.synthesis import plan
from nanodistill.synthesis.generation_prompt import as_text
from nanodistill.synthesis.policy import DIMENSIONS, read_policy
from nanodistill.types import Request
from synthesis.runs import Notices, config_in, run
from synthesis.writer import SEEDS, Writer


def edit(path: Path, **dimensions: object) -> None:
    held = json.loads(path.read_text())
    held["policy"] |= dimensions
    path.write_text(json.dumps(held))


def test_it_is_asked_once_with_every_dimension_and_kept(tmp_path: Path) -> None:
    teacher = Writer()
    extra = {"tone": "How people sound."}
    run(config_in(tmp_path, policy_dimensions=extra), teacher)
    (asked,) = [request for request in teacher.asked if request.stage == "policy"]
    assert asked.schema is not None
    lists = {"label_notes", "personas", "styles", "decision_rules", "open_questions"}
    assert set(asked.schema["properties"]) == {*DIMENSIONS, *lists, "tone"}
    assert all(seed["input"] in asked.messages[-1]["content"] for seed in SEEDS)
    stored = read_policy(tmp_path / "run" / "policy.json")
    assert stored is not None
    assert not stored.is_edited
    assert stored.policy.custom_dimensions == {"tone": "about tone"}
    assert "Tone: about tone" in teacher.prompts()


def test_an_edited_one_is_used_and_only_what_depends_on_it_is_asked(tmp_path: Path) -> None:
    longer = [seed | {"input": f"{seed['input']} {'Really. ' * 12}"} for seed in SEEDS]
    run(config_in(tmp_path, seed=longer), Writer())
    edit(tmp_path / "run" / "policy.json", input_format="Haiku only.", personas=["a sailor"])
    teacher, heard = Writer(), Notices()
    result = run(config_in(tmp_path, seed=longer), teacher, on_event=heard)
    assert teacher.stages().keys() == {"generate", "trace"}
    assert "Input format: Haiku only." in teacher.prompts()
    personas = {cell.split("persona=")[1].split(";")[0] for cell in result.by_cell if cell}
    assert personas == {"a sailor", "any"}, "the seeds are long enough for one"
    assert "policy.json was edited and is used as it stands." in heard.texts


def test_a_dimension_that_is_not_known_is_pointed_out(tmp_path: Path) -> None:
    run(config_in(tmp_path, policy_dimensions={"tone": "How people sound."}), Writer())
    edit(tmp_path / "run" / "policy.json", topcs=["the sea"])
    heard = Notices()
    run(
        config_in(tmp_path, policy_dimensions={"tone": "How people sound."}),
        Writer(),
        on_event=heard,
    )
    (said,) = [text for text in heard.texts if "of your own" in text]
    assert "'topcs'" in said
    assert "did you mean 'topics'?" in said


def test_other_seeds_make_another_one_but_not_over_an_edited_one(tmp_path: Path) -> None:
    run(config_in(tmp_path), Writer())
    teacher = Writer()
    run(config_in(tmp_path, seed=SEEDS[:8]), teacher)
    assert teacher.stages()["policy"] == 1
    edit(tmp_path / "run" / "policy.json", styles=["loud"])
    teacher, heard = Writer(), Notices()
    run(config_in(tmp_path), teacher, on_event=heard)
    assert teacher.stages()["policy"] == 0
    assert any("made from other seeds" in text for text in heard.texts)


def test_without_extraction_it_comes_from_the_seeds(tmp_path: Path) -> None:
    teacher = Writer()
    run(config_in(tmp_path, extract_policy=False), teacher)
    assert teacher.stages()["policy"] == 0
    stored = read_policy(tmp_path / "run" / "policy.json")
    assert stored is not None
    assert stored.policy.output_format == "one of: billing, bug, account, shipping"
    assert stored.policy.input_length_range == "10 to 10 words, 10 in the middle"


def test_a_slip_in_editing_is_named(tmp_path: Path) -> None:
    run(config_in(tmp_path), Writer())
    edit(tmp_path / "run" / "policy.json", topics="just one")
    with pytest.raises(CorruptFileError, match="topics: Input should be a valid list"):
        run(config_in(tmp_path), Writer())


def test_a_teacher_that_cannot_describe_the_task_stops_the_run(tmp_path: Path) -> None:
    class Mute(Writer):
        def _policy(self, request: object, dice: object) -> object:
            raise RequestRejectedError("refusal", "no comment")

    with pytest.raises(TeacherUnavailableError, match="no comment") as stopped:
        run(config_in(tmp_path), Mute())
    assert "extract_policy = false" in str(stopped.value)


class Wondering(Writer):
    """Finds questions that the seeds leave open."""

    def _policy(self, request: Request, dice: random.Random) -> Any:
        open_ = {"question": "Is a gift card billing?", "answer": "Yes, it is billing."}
        return super()._policy(request, dice) | {"open_questions": [open_]}


def test_what_the_seeds_leave_open_is_told_before_rows_are_bought_and_can_be_settled(
    tmp_path: Path,
) -> None:
    teacher, heard = Wondering(), Notices()
    run(config_in(tmp_path), teacher, on_event=heard)
    (told,) = [text for text in heard.texts if "Is a gift card billing?" in text]
    assert heard.texts.index(told) < next(
        place for place, text in enumerate(heard.texts) if text.startswith("First round")
    )
    stages = {
        r.stage for r in teacher.asked if "gift card billing? Yes" in r.messages[0]["content"]
    }
    assert stages == {"generate", "trace"}

    settled = Writer()
    rule = "A gift card is a parcel: shipping."
    run(config_in(tmp_path, decision_rules=[rule]), settled)
    assert settled.stages()["policy"] == 1
    assert {r.stage for r in settled.asked if rule in str(r.messages)} == {
        "policy", "generate", "trace",
    }  # fmt: skip
    assert "Yes, it is billing" not in settled.prompts()


def test_a_policy_of_another_form_stops_the_run_and_not_the_program(tmp_path: Path) -> None:
    class Odd(Writer):
        def _policy(self, request: Request, dice: random.Random) -> Any:
            return super()._policy(request, dice) | {"decision_rules": ["just a text"]}

    with pytest.raises(TeacherUnavailableError, match="decision_rules"):
        run(config_in(tmp_path), Odd())


def test_plan_shows_prompts_as_they_would_be_sent(tmp_path: Path) -> None:
    async def planned(config: DistillationConfig) -> tuple[str, ...]:
        return (await plan(config, provider=ScriptedProvider(Writer()), prompts=3)).prompts

    config = config_in(tmp_path, thinking_format="none")
    before = anyio.run(planned, config)
    assert len(before) == 3
    assert "open_questions" in before[0]
    teacher = Writer()
    run(config, teacher)
    sent = {as_text(request.messages) for request in teacher.asked}
    assert before[0] in sent
    after = anyio.run(planned, config)
    assert len(after) == 3
    assert set(after) <= sent
