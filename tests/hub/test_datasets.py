"""Dataset versions pushed and pulled with the real client."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hub.small_hub import SmallHub
from nanodistill.data_files import HubDataset
from nanodistill.dataset import DatasetVersion, verify
from nanodistill.errors import RunIncompleteError, VerificationError
from nanodistill.events import Event as Told
from nanodistill.hub import Hub, dataset_bundle, fetch_dataset, pull, push

REPO = "owner/words"
# huggingface_hub 1.33 hands large files to httpx by a name that httpx is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_version_is_pushed_privately_with_its_tag(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    done = push(dataset_bundle(version), REPO, hub=hub)
    there = small_hub.repositories["dataset", REPO]
    assert there.private
    assert done.private
    assert there.tags == {version.name: there.main}
    pushed = {name for name in there.files if not name.startswith(".")}
    assert pushed == {*version.manifest.files, "manifest.json"}
    assert all(there.files[name] == (version.path / name).read_bytes() for name in pushed)


def test_the_same_again_sends_nothing(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    first = push(dataset_bundle(version), REPO, hub=hub)
    small_hub.requests.clear()
    again = push(dataset_bundle(version), REPO, hub=hub)
    assert (again.reused, again.uploaded, again.commit) == (True, (), first.commit)
    assert "nothing was sent" in again.summary()
    assert [request for request in small_hub.requests if not request.startswith("GET")] == []


def test_a_pulled_version_is_the_one_that_was_pushed(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion, tmp_path: Path
) -> None:
    push(dataset_bundle(version), REPO, hub=hub)
    done = pull(f"{REPO}@{version.name}", tmp_path / "here", hub=hub)
    assert verify(tmp_path / "here").version.fingerprint == version.fingerprint
    assert (done.version, done.reused) == (version.name, False)
    assert pull(REPO, tmp_path / "here", hub=hub).reused


def test_without_the_hub_a_version_that_was_fetched_once_is_taken_from_the_cache(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    push(dataset_bundle(version), REPO, hub=hub)
    named = HubDataset(REPO, version.name)
    fetched = fetch_dataset(named, hub=hub)
    gone = replace(hub, endpoint="http://127.0.0.1:9")
    told: list[Told] = []
    assert fetch_dataset(named, hub=gone, on_event=told.append) == fetched
    assert "Taking the copy of" in str(told[0])
    with pytest.raises(RunIncompleteError, match="can't be reached"):
        fetch_dataset(HubDataset(REPO, "v0009"), hub=gone)


def test_what_was_changed_in_the_cache_is_not_trained_on(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion
) -> None:
    push(dataset_bundle(version), REPO, hub=hub)
    spoil(next(fetch_dataset(HubDataset(REPO), hub=hub).glob("data/train-*")))
    with pytest.raises(VerificationError, match="has changed since it was written"):
        fetch_dataset(HubDataset(REPO), hub=hub)


def test_a_model_that_is_not_as_the_hub_has_it_is_not_put_in_place(
    small_hub: SmallHub, hub: Hub, tmp_path: Path
) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    small_hub.add("model", "owner/model", files, private=True)
    pull("owner/model", tmp_path / "here", kind="model", hub=hub)
    assert hub.cache is not None
    spoil(next(hub.cache.rglob("model.safetensors")))
    with pytest.raises(
        VerificationError, match=r"did not arrive as the Hub has it: model\.safetensors"
    ):
        pull("owner/model", tmp_path / "there", kind="model", hub=hub)
    assert not (tmp_path / "there").exists()


def spoil(file: Path) -> None:
    """Change a byte and not the length."""
    file.write_bytes(file.read_bytes()[:-1] + b"!")
