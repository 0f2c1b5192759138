"""A run asks its student in one way: on any day, and by the files that it was trained with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import some_rows as some_traces

from nanodistill.dataset import DatasetVersion, VersionDraft, VersionFacts, write_version
from nanodistill.events import ignore
from nanodistill.models.chat_templates import read_template
from nanodistill.models.resolve import resolve_model
from nanodistill.run_dir import RunFolder, read_json, write_json
from nanodistill.thinking import resolve_format
from nanodistill.training import train
from nanodistill.training.runs import read_index, training_folder
from nanodistill.training.student_identity import find_student, tokenizer_settings
from nanodistill.training.tokenize import load_tokens
from training.tiny import INSTRUCTION, TEMPLATE, make_config, make_student

DATED = "{{ strftime_now('%Y %H:%M:%S.%f') }}\n" + TEMPLATE
DROPPING = TEMPLATE.replace("for m in messages", "for m in messages if m['role'] != 'system'")
SETTINGS: dict[str, Any] = {"mlx_lm_kwargs": {"max_steps": 1}}


class StudentRun:
    """A student, a run and a dataset version in it."""

    def __init__(self, root: Path, template: str = TEMPLATE) -> None:
        self.student = make_student(root / "student", template=template)
        self.config = make_config(self.student, root / "out", **SETTINGS)
        self.run = RunFolder(self.config.run_folder)
        self.dataset = _dataset(self.run)

    def train(self, **more: Any) -> str:
        """The run that training ended with."""
        train(self.config, self.dataset, self.run, **more)
        return read_index(self.run)[-1].run

    def rows(self, run: str) -> str:
        return load_tokens(training_folder(self.run, run).rows)["train"].fingerprint

    def write(self, template: str) -> None:
        (self.student / "chat_template.jinja").write_text(template)

    def as_by_an_earlier_release(self, run: str) -> str:
        """Rename a run to what it was called when folders were known by their weights."""
        from nanodistill.training.preflight import identify

        write_json(self.run.training / "student.json", {})
        weights_identity = resolve_model(str(self.student)).weights_identity
        known = identify(self.config, self.dataset, ignore)
        assert weights_identity is not None
        former = known.options.run_id(self.dataset.fingerprint, weights_identity, None)
        (self.run.training / run).rename(self.run.training / former)
        index = json.loads((self.run.training / "index.json").read_text())
        index["runs"][-1] |= {"run": former, "student_identity": weights_identity}
        write_json(self.run.training / "index.json", index | {"latest": former})
        (self.run.training / "student.json").unlink()
        return former


def _dataset(run: RunFolder) -> DatasetVersion:
    facts = VersionFacts(
        instruction=INSTRUCTION, thinking_format="none", made_by="synthesis",
        labels=("billing", "bug"), requested=7,
    )  # fmt: skip
    shape = resolve_format("none")
    return write_version(run, VersionDraft(some_traces(), (), shape, facts))


def change(folder: Path, name: str) -> None:
    path = folder / name
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | {"changed": True}))


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json",
     "special_tokens_map.json", "added_tokens.json", "additional_chat_templates/tool.jinja"],
)  # fmt: skip
def test_each_file_that_shapes_prompts_or_answers_is_in_the_identity(
    name: str, tmp_path: Path
) -> None:
    folder = make_student(tmp_path / "student")
    before = resolve_model(str(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    change(folder, name)
    after = resolve_model(str(folder))
    assert after.identity != before.identity
    assert after.weights_identity == before.weights_identity


def test_another_chat_template_is_another_run_and_the_former_comes_back(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path)
    first = student_run.train()
    student_run.write(TEMPLATE.replace("assistant", "model"))
    second = student_run.train()
    assert second != first
    student_run.write(TEMPLATE)
    assert student_run.train() == first
    assert [entry.run for entry in read_index(student_run.run)] == [second, first]


def test_a_run_of_an_earlier_release_is_found_by_its_files(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path)
    former = student_run.as_by_an_earlier_release(student_run.train())
    weights_identity = resolve_model(str(student_run.student)).weights_identity
    assert find_student(student_run.config, student_run.run, ignore).identity == weights_identity
    assert student_run.train() == former
    student_run.write(TEMPLATE.replace("assistant", "model"))
    assert find_student(student_run.config, student_run.run, ignore).identity != weights_identity
    assert student_run.train() != former
    student_run.write(TEMPLATE)
    assert student_run.train() == former


def test_a_run_of_an_earlier_release_with_other_files_since_is_not_taken(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path)
    former = student_run.as_by_an_earlier_release(student_run.train())
    student_run.write(TEMPLATE.replace("assistant", "model"))
    assert student_run.train() != former


def test_the_date_of_a_dated_template_is_that_of_the_run(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path, DATED)
    first = student_run.train()
    kept = student_run.rows(first)
    folder = training_folder(student_run.run, first)
    folder.result.unlink()
    folder.rows.unlink()
    assert student_run.train() == first  # the checkpoint is refused where the tokens are others
    assert student_run.rows(first) == kept
    date = read_json(student_run.run.training / "student.json")["template_date"]
    settings = tokenizer_settings({}, student_run.student, student_run.run)
    assert date.replace("T", " ")[:4] in settings["chat_template"]
    assert tokenizer_settings(settings, student_run.student, student_run.run) == settings


def test_the_date_of_a_run_of_an_earlier_release_is_the_day_its_rows_were_made(
    tmp_path: Path,
) -> None:
    student_run = StudentRun(tmp_path, DATED)
    first = student_run.train()
    (student_run.run.training / "student.json").unlink()
    os.utime(training_folder(student_run.run, first).rows, (1e9, 1e9))
    assert "2001" in tokenizer_settings({}, student_run.student, student_run.run)["chat_template"]


def test_a_template_without_a_date_is_the_tokenizers_own(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path)
    assert tokenizer_settings({}, student_run.student, student_run.run) == {}
    assert not (student_run.run.training / "student.json").exists()


def test_preflight_says_where_the_instruction_stands(tmp_path: Path) -> None:
    student_run = StudentRun(tmp_path, DROPPING)
    planned = train(student_run.config, student_run.dataset, student_run.run, dry_run=True)
    assert planned.preflight["instruction_in_user_turn"]
    assert any("chat template" in remark for remark in planned.preflight["remarks"])


def test_the_adapter_names_a_model_that_mlx_lm_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm import load

    student_run = StudentRun(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = make_config(Path("student"), tmp_path / "out", **SETTINGS)
    done = train(config, student_run.dataset, student_run.run)
    assert done.adapter is not None
    named = read_json(Path(done.adapter) / "adapter_config.json")["model"]
    monkeypatch.chdir("/")
    load(named, adapter_path=done.adapter)
    assert read_template(Path(named)) == TEMPLATE
