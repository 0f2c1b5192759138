"""Keys, local paths and addresses are found before anything is sent."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from dataset.drafts import draft, placed, trace

from hub.small_hub import SmallHub
from nanodistill.dataset import write_version
from nanodistill.errors import InputError
from nanodistill.events import Event as Told
from nanodistill.hub import Hub, UploadBundle, dataset_bundle, push, scan
from nanodistill.run_dir import RunFolder

KEY = "canary-0123456789abcdef"
REPO = "owner/words"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def parcel(text: str, name: str = "README.md") -> UploadBundle:
    return UploadBundle("model", "a model", {name: text.encode()}, "v1", ("Mail help@shop.org.",))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"the key {KEY}", "secret"),
        ("sk-proj-aaaabbbbccccdddd1111", "key"),
        ("see /home/somebody/run/x.json", "path"),
        ("see /Users/some.body/run", "path"),
        (f"see {tempfile.gettempdir()}/run/x.json", "path"),
        (r"see C:\\Users\\somebody", "path"),
        (f"see {Path.cwd()}/outputs", "path"),
        ("ask jane.doe@firm.co.uk", "address"),
    ],
)
def test_what_is_found(text: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    found = scan(parcel(f"first line\n{text}\n"))
    assert kind in {one.kind for one in found}
    assert found[0].where == "README.md, line 2"
    assert KEY not in str(found)
    assert "ccccdddd" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "https://somewhere.org/tmp/x and /tmp",
        "https://huggingface.co/home/x and datasets/home/y",
        "write to you@example.com",
        "Mail help@shop.org.",  # the instruction's own words
        "a task-force of sk-learn",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert scan(parcel(text)) == []


def test_a_vocabulary_is_searched_for_known_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan(parcel("/home/x me@firm.com", "tokenizer.json")) == []
    monkeypatch.setenv("SOME_API_KEY", KEY)
    assert [one.kind for one in scan(parcel(KEY, "tokenizer.json"))] == ["secret"]


def test_a_key_in_a_row_stops_the_push_and_is_not_shown(
    small_hub: SmallHub, hub: Hub, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*placed(), ("train", trace(50, input=f"my key is {KEY}"))]
    version = write_version(run, draft(rows))
    monkeypatch.setenv("SOME_API_KEY", KEY)
    with pytest.raises(InputError, match=r"data/train-.*a key or token of this environ") as refused:
        push(dataset_bundle(version), REPO, hub=hub)
    assert KEY not in str(refused.value)
    assert small_hub.requests == []


def test_an_address_in_a_row_is_pointed_out(small_hub: SmallHub, hub: Hub, run: RunFolder) -> None:
    rows = [*placed(), ("train", trace(50, input="write to jane@firm.com"))]
    told: list[Told] = []
    version = write_version(run, draft(rows))
    push(dataset_bundle(version), REPO, hub=hub, on_event=told.append)
    assert "an e-mail address (jane@firm.com)" in str(told[0])
    assert ("dataset", REPO) in small_hub.repositories


def test_an_address_outside_the_rows_stops_the_push_unless_it_is_meant(
    small_hub: SmallHub, hub: Hub
) -> None:
    ours = parcel("write to jane@firm.com", "notes.md")
    with pytest.raises(InputError, match=r"notes\.md, line 1: an e-mail(.*\n)+.*--allow"):
        push(ours, REPO, hub=hub)
    assert small_hub.requests == []
    assert push(ours, REPO, hub=hub, allowed=["jane@firm.com"]).uploaded == ("notes.md",)
