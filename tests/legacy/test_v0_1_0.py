"""Work of release 0.1.0 stays finished work: a later release opens it and finds nothing to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

from legacy.ids import ids_of
from legacy.settings import CHANGES, config_of
from nanodistill import DistillationConfig, evaluate, export, report, train
from nanodistill.dataset import open_version, verify
from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.run_dir import RunFolder
from nanodistill.synthesis import synthesize

MADE = Path(__file__).parent / "v0_1_0"
IDS = json.loads((MADE / "ids.json").read_text(encoding="utf-8"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DistillationConfig:
    """The run's configuration, in a copy of its folder to work in."""
    monkeypatch.chdir(shutil.copytree(MADE, tmp_path / "made"))
    return config_of()


def asked(text: str) -> str:
    raise AssertionError(f"the teacher was asked again: {text[:200]}")


@pytest.mark.parametrize("change", CHANGES)
def test_its_ids_are_the_same(change: str) -> None:
    assert ids_of(config_of(**CHANGES[change])) == IDS[change]


def test_what_a_user_sets_changes_the_ids() -> None:
    assert len({json.dumps(ids) for ids in IDS.values()}) == len(CHANGES)


def test_its_dataset_verifies(config: DistillationConfig) -> None:
    version = open_version(None, RunFolder(config.run_folder))
    assert verify(version.path).rows == sum(1 for n in ("train", "valid", "test")
                                            for _ in version.rows(n))  # fmt: skip


def test_its_synthesis_asks_nothing_and_makes_no_other_version(
    config: DistillationConfig,
) -> None:
    async def again() -> tuple[int, str | None]:
        result = await synthesize(config, provider=ScriptedProvider(asked))
        return result.calls["made"], result.dataset.name if result.dataset else None

    version = open_version(None, RunFolder(config.run_folder))
    assert anyio.run(again) == (0, version.name)


def test_its_training_evaluation_and_export_are_finished(config: DistillationConfig) -> None:
    before = json.loads(Path("run/training/index.json").read_text())
    trained = train(config)
    assert trained.run == before["latest"]
    assert json.loads(Path("run/training/index.json").read_text()) == before
    assert evaluate(config).generated == 0
    assert export(config, to="mlx").reused
    assert report(config).path.is_file()


@pytest.mark.parametrize("change", [{}, {"save_steps": 2, "logging_steps": 1}])
def test_its_interrupted_training_goes_on_from_its_checkpoint(
    config: DistillationConfig, change: dict[str, int]
) -> None:
    """Also where only what is saved and logged has changed, which no id covers."""
    (folder,) = (path for path in Path("run/training").iterdir() if path.is_dir())
    steps = json.loads((folder / "result.json").read_text())["steps"]
    for lost in ("result.json", "outcome.json"):
        (folder / lost).unlink()
    shutil.rmtree(folder / "checkpoints" / "0000008")
    trained = train(config_of(**change))
    assert (trained.run, trained.resumed_from, trained.steps) == (folder.name, 6, steps)
