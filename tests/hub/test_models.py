"""Adapters and exported models: what is pushed of them, and their cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import INSTRUCTION, make_adapter, make_dataset, make_model, some_rows

from hub.conftest import environment
from hub.small_hub import SmallHub
from nanodistill.config import DistillationConfig
from nanodistill.errors import InputError
from nanodistill.evaluation.eval_models import BASE, STUDENT
from nanodistill.evaluation.results import EvaluationResult, Subject, save
from nanodistill.evaluation.scorer import ModelScore
from nanodistill.events import ignore
from nanodistill.exporting.export_manifest import ExportManifest
from nanodistill.exporting.trained_adapter import TrainedAdapter, find_trained_adapter
from nanodistill.hub import Hub, pull
from nanodistill.models.resolve import resolve_model
from nanodistill.publish import push_run
from nanodistill.run_dir import RunFolder
from nanodistill.stats import compare, estimate
from nanodistill.training.runs import RunEntry, make_latest, training_folder

ADAPTER, FUSED = "owner/triage-adapter", "owner/triage"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@dataclass(frozen=True)
class Trained:
    root: Path

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "triage")

    @property
    def config(self) -> DistillationConfig:
        return DistillationConfig(
            name="triage",
            seed=str(self.root / "there-is-no-such-file.jsonl"),
            instruction=INSTRUCTION,
            student=str(self.root / "model"),
            output_dir=self.root,
            max_new_tokens=4,
        )

    @property
    def source(self) -> TrainedAdapter:
        return find_trained_adapter(self.config, self.run, None, None, ignore)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    made = Trained(tmp_path)
    model = make_model(tmp_path / "model")
    version = make_dataset(made.run, some_rows(), teacher="scripted")
    make_adapter(training_folder(made.run, "r1").adapter, model)
    settings = training_folder(made.run, "r1").adapter / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model": str(model)}))
    student = resolve_model(str(model))
    entry = RunEntry("r1", version.name, version.fingerprint, str(model), student.identity, "cot")
    make_latest(made.run, entry)
    return made


def evaluated(made: Trained, identity: str | None = None) -> None:
    source = made.source
    base, student = [0.0, 0.0, 1.0, 0.0] * 5, [1.0, 1.0, 1.0, 0.0] * 5

    def scored(scores: list[float]) -> ModelScore:
        return ModelScore("exact", estimate(scores), estimate(scores), 1, 0, {})

    identities = {STUDENT: identity or source.identity, BASE: source.base.identity}
    names = (source.dataset.name, source.dataset.fingerprint)
    result = EvaluationResult(
        subject=Subject("r1", source.base_name, identities, *names, "test"),
        n=20,
        metric="exact",
        measure="exact match",
        reason="asked for",
        max_new_tokens=4,
        models={BASE: scored(base), STUDENT: scored(student)},
        against={BASE: compare(student, base)},
        generated=0,
        reused=0,
        folder=made.run.evaluation / "r1",
    )
    save(result, [])


def exported(made: Trained) -> None:
    """What an export leaves; the weights are the base's, which nothing here looks at."""
    made.run.model.mkdir()
    for path in (made.root / "model").iterdir():
        (made.run.model / path.name).write_bytes(path.read_bytes())
    told = ExportManifest.of(
        made.config, made.source, to="mlx", form="as base", key="k", baked=False, parity=None
    )
    told.write(made.run.model)


def card(small: SmallHub, repo: str) -> str:
    return small.repositories["model", repo].files["README.md"].decode()


def test_an_adapter_is_pushed_without_a_path_of_this_machine(
    small_hub: SmallHub, hub: Hub, trained: Trained
) -> None:
    evaluated(trained)
    done = push_run(trained.config, ADAPTER, "adapter", hub=hub)
    there = small_hub.repositories["model", ADAPTER]
    assert there.private
    assert done.tag.startswith("adapter-r1-")
    assert json.loads(there.files["adapter_config.json"])["model"] == "model"
    whole = b"\n".join(there.files[name] for name in there.files if name.endswith(("md", "json")))
    assert str(trained.root).encode() not in whole
    assert push_run(trained.config, ADAPTER, "adapter", hub=hub).reused


def test_the_card_says_what_a_person_asks(small_hub: SmallHub, hub: Hub, trained: Trained) -> None:
    evaluated(trained)
    push_run(trained.config, ADAPTER, "adapter", hub=hub)
    told, source = card(small_hub, ADAPTER), trained.source
    assert INSTRUCTION in told
    assert "| student | 75.0% | 53.1% to 88.8% | 1 |" in told
    assert "Student against base: ahead by 50 points" in told
    assert source.dataset.fingerprint in told
    assert source.adapter_sha256 in told
    assert "teacher: `scripted`" in told
    assert "The base model's licence is not known" in told
    assert f'{{"role": "system", "content": "{INSTRUCTION}"}}' in told


def test_figures_of_other_weights_are_not_shown(
    small_hub: SmallHub, hub: Hub, trained: Trained
) -> None:
    evaluated(trained, identity="sha256:of-another")
    push_run(trained.config, ADAPTER, "adapter", hub=hub)
    assert "These weights were not evaluated." in card(small_hub, ADAPTER)
    assert "75.0%" not in card(small_hub, ADAPTER)


def test_another_card_on_the_same_weights_is_another_tag(
    small_hub: SmallHub, hub: Hub, trained: Trained
) -> None:
    first = push_run(trained.config, ADAPTER, "adapter", hub=hub)
    evaluated(trained)
    second = push_run(trained.config, ADAPTER, "adapter", hub=hub)
    assert second.uploaded == ("README.md",)
    assert set(small_hub.repositories["model", ADAPTER].tags) == {first.tag, second.tag}


def test_before_export_there_is_no_fused_model(hub: Hub, trained: Trained) -> None:
    with pytest.raises(InputError, match="nanodistill export"):
        push_run(trained.config, FUSED, "fused", hub=hub)
    with pytest.raises(InputError, match="names a revision"):
        push_run(trained.config, f"{FUSED}@main", "dataset", hub=hub)


def test_a_fused_model_is_pulled_as_it_was_pushed(
    small_hub: SmallHub, hub: Hub, trained: Trained, tmp_path: Path
) -> None:
    exported(trained)
    done = push_run(trained.config, FUSED, "fused", hub=hub)
    pull(f"{FUSED}@{done.tag}", tmp_path / "here", kind="model", hub=hub)
    for path in trained.run.model.iterdir():
        assert (tmp_path / "here" / path.name).read_bytes() == path.read_bytes()
    assert pull(FUSED, tmp_path / "here", kind="model", hub=hub).reused


def from_fused(made: Trained, **push: Any) -> str:
    exported(made)
    push_run(made.config, FUSED, "fused", **push)
    return FUSED


def from_adapter(made: Trained, **push: Any) -> str:
    push_run(made.config, ADAPTER, "adapter", **push)
    return ADAPTER


@pytest.mark.parametrize("pushed", [from_fused, from_adapter])
def test_the_cards_example_runs(
    pushed: Callable[..., str], small_hub: SmallHub, hub: Hub, trained: Trained, tmp_path: Path
) -> None:
    """In a folder where the base is, as the adapter's card says it has to be."""
    repo = pushed(trained, hub=hub)
    found = re.search(r"```python\n(.*?)\n```", card(small_hub, repo), re.DOTALL)
    assert found is not None
    ran = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=trained.root,
        env=environment(small_hub, tmp_path / "home"),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert any("/resolve/" in request and repo in request for request in small_hub.requests)
