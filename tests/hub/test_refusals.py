"""What the Hub refuses, what gets in between, and what a person is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
from dataset.drafts import draft, placed

from hub.conftest import as_account, environment
from hub.small_hub import READER, STRANGER, WRITER, SmallHub
from nanodistill.dataset import DatasetVersion, verify, write_version
from nanodistill.errors import FolderError, InputError, RunIncompleteError, VerificationError
from nanodistill.events import Event as Told
from nanodistill.hub import Hub, dataset_bundle, pull, push
from nanodistill.run_dir import RunFolder

REPO = "owner/words"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def pushed(small_hub: SmallHub, hub: Hub, version: DatasetVersion) -> SmallHub:
    push(dataset_bundle(version), REPO, hub=hub)
    small_hub.requests.clear()
    return small_hub


def test_without_a_token_nothing_is_asked(
    small_hub: SmallHub,
    version: DatasetVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(InputError, match="hf auth login"):
        push(dataset_bundle(version), REPO, hub=as_account(small_hub, tmp_path, None))
    assert small_hub.requests == []


def test_a_token_that_is_not_accepted(
    small_hub: SmallHub, version: DatasetVersion, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"does not accept the token.*\n.*HF_TOKEN"):
        push(dataset_bundle(version), REPO, hub=as_account(small_hub, tmp_path, "hf_" + "x" * 34))


@pytest.mark.parametrize("token", [READER, STRANGER])
def test_an_account_without_the_right_to_write(
    token: str, small_hub: SmallHub, version: DatasetVersion, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="may not do that with the dataset owner/words"):
        push(dataset_bundle(version), REPO, hub=as_account(small_hub, tmp_path, token))
    assert small_hub.repositories == {}


def test_a_private_dataset_is_not_there_for_others(pushed: SmallHub, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no dataset owner/words, or it is private[^\n]*\n.*--model"
    ):
        pull(REPO, tmp_path / "here", hub=as_account(pushed, tmp_path, STRANGER))


def test_a_revision_that_is_not_there(pushed: SmallHub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no such revision"):
        pull(f"{REPO}@v0007", tmp_path / "here", hub=hub)


def test_no_name_of_a_repository(hub: Hub, version: DatasetVersion, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OWNER/NAME@REVISION"):
        pull("words", tmp_path / "here", hub=hub)
    with pytest.raises(InputError, match="is no name of a repository"):
        push(dataset_bundle(version), "owner/wor--ds", hub=hub)


def test_no_network_is_told_at_once(version: DatasetVersion, tmp_path: Path) -> None:
    nowhere = Hub("http://127.0.0.1:9", WRITER, tmp_path / "cache")
    with pytest.raises(RunIncompleteError, match=r"127\.0\.0\.1:9 can't be reached"):
        push(dataset_bundle(version), REPO, hub=nowhere)
    with pytest.raises(RunIncompleteError, match=r"127\.0\.0\.1:9 can't be reached"):
        pull(REPO, tmp_path / "here", hub=nowhere)


def test_a_public_repository_has_to_be_meant(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    there = small_hub.add("dataset", REPO, {"README.md": b"hello"}, private=False)
    with pytest.raises(InputError, match=r"is public.*\n.*--public"):
        push(dataset_bundle(version), REPO, hub=hub)
    assert len(there.commits) == 1
    assert not push(dataset_bundle(version), REPO, public=True, hub=hub).private


def test_a_commit_of_somebody_else_is_not_written_over(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    there = small_hub.add("dataset", REPO, {}, private=True)
    told: list[Told] = []

    def first_another() -> None:
        small_hub.before_commit = None
        there.commit({"LICENSE": b"MIT"})

    small_hub.before_commit = first_another
    push(dataset_bundle(version), REPO, hub=hub, on_event=told.append)
    assert there.files["LICENSE"] == b"MIT"
    assert "manifest.json" in there.files
    assert "changed while it was looked at" in " ".join(str(one) for one in told)


def test_pushes_that_are_always_too_late_end(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    there = small_hub.add("dataset", REPO, {}, private=True)

    def first_another() -> None:
        there.commit({"n": str(len(there.commits)).encode()})

    small_hub.before_commit = first_another
    with pytest.raises(
        RunIncompleteError, match=r"being changed by others.*\n.*same command again"
    ):
        push(dataset_bundle(version), REPO, hub=hub)
    assert there.tags == {}


def test_a_tag_that_holds_something_else_stays(
    pushed: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    there = pushed.repositories["dataset", REPO]
    there.tags[version.name] = there.commit({"manifest.json": b"{}"})
    with pytest.raises(InputError, match=f"has a tag {version.name} already"):
        push(dataset_bundle(version), REPO, hub=hub)


def test_the_next_version_takes_mains_place_and_the_first_stays_tagged(
    pushed: SmallHub, hub: Hub, version: DatasetVersion, run: RunFolder, tmp_path: Path
) -> None:
    second = write_version(run, draft(placed(train=9)))  # without rejected rows
    done = push(dataset_bundle(second), REPO, hub=hub)
    assert done.removed == tuple(n for n in version.manifest.files if n.startswith("rejected/"))
    assert pull(REPO, tmp_path / "new", hub=hub).version == second.name
    assert pull(f"{REPO}@{version.name}", tmp_path / "old", hub=hub).version == version.name


def test_what_was_changed_on_the_way_is_found(pushed: SmallHub, hub: Hub, tmp_path: Path) -> None:
    there = pushed.repositories["dataset", REPO]
    name = next(name for name in there.files if name.startswith("data/train"))
    there.commit({**there.files, name: there.files[name][:-1] + b"!"})
    with pytest.raises(VerificationError, match="has changed since it was written"):
        pull(REPO, tmp_path / "here", hub=hub)
    assert not (tmp_path / "here").exists()


def test_a_dataset_of_others_is_no_version(small_hub: SmallHub, hub: Hub, tmp_path: Path) -> None:
    small_hub.add("dataset", REPO, {"train.jsonl": b"{}"}, private=True)
    with pytest.raises(FolderError, match=r"no manifest\.json.*\n.*seed, test or training_data"):
        pull(REPO, tmp_path / "here", hub=hub)


def test_a_folder_with_something_else_is_left_alone(
    pushed: SmallHub, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("mine")
    with pytest.raises(FolderError, match="holds something else"):
        pull(REPO, tmp_path / "here", hub=hub)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["mine.txt"]


def test_a_large_file_that_is_not_accepted(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    """The client wraps what its threads meet in errors of its own."""
    small_hub.refusals["PUT /store/"] = 403
    with pytest.raises(InputError, match="may not do that with the dataset owner/words"):
        push(dataset_bundle(version), REPO, hub=hub)


PUSHING = """
import sys
from pathlib import Path
from nanodistill.dataset import open_version
from nanodistill.hub import dataset_bundle, push
push(dataset_bundle(open_version(Path(sys.argv[1]), None)), "owner/words")
"""


def test_a_killed_push_goes_on(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion, tmp_path: Path
) -> None:
    """Killed when the large files have arrived and the commit has not been made."""
    reached, killed = Event(), Event()

    def hold() -> None:
        reached.set()
        killed.wait(60)

    small_hub.before_commit = hold
    small_hub.hold_back = True
    child = subprocess.Popen(
        [sys.executable, "-c", PUSHING, str(version.path)], env=environment(small_hub, tmp_path)
    )
    assert reached.wait(60)
    child.kill()
    child.wait()
    killed.set()
    small_hub.before_commit, small_hub.hold_back = None, False
    large = [name for name in version.manifest.files if name.endswith(".parquet")]
    assert len(small_hub.sent("PUT /store/")) == len(large)
    small_hub.requests.clear()

    done = push(dataset_bundle(version), REPO, hub=hub)
    assert not done.reused
    assert small_hub.sent("PUT /store/") == []
    assert small_hub.sent("/repos/create") == []
    assert verify(pull(REPO, tmp_path / "here", hub=hub).path).version.name == version.name


def test_a_push_that_ended_before_its_tag_gets_it(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    small_hub.refusals["/tag/"] = 502
    with pytest.raises(RunIncompleteError, match="answered with 502"):
        push(dataset_bundle(version), REPO, hub=hub)
    small_hub.refusals.clear()
    done = push(dataset_bundle(version), REPO, hub=hub)
    there = small_hub.repositories["dataset", REPO]
    assert done.uploaded == ()
    assert there.tags == {version.name: there.main}
    assert len(there.commits) == 2
