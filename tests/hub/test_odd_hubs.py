"""Hubs that refuse, break off or are none, and repositories that would write elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hub.conftest import as_account
from hub.small_hub import WRITER, SmallHub
from nanodistill.dataset import DatasetVersion
from nanodistill.errors import InputError, NanoDistillError
from nanodistill.hub import Hub, dataset_bundle, pull, push

REPO = "owner/words"
HTML = b"<html><title>Log in</title></html>"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Answer = tuple[int, bytes, dict[str, str]]
ANSWERS: dict[str, tuple[Answer, int]] = {
    "a page": ((200, HTML, {"Content-Type": "text/html"}), 3),
    "a page not found": ((404, HTML, {"Content-Type": "text/html"}), 3),
    "nothing": ((200, b"", {}), 3),
    "a list": ((200, b"[1]", {}), 3),
    "null": ((200, b"null", {}), 3),
    "other fields": ((200, b'{"a": 1}', {}), 3),
    "other types": ((200, b'{"id": 3, "sha": [], "siblings": 4, "branches": 5}', {}), 3),
    "a commit that is a path": ((200, b'{"id": "a/b", "sha": "../../x", "branches": []}', {}), 3),
    "elsewhere": ((302, b"", {"Location": "http://127.0.0.1:9/login"}), 3),
    "to itself": ((302, b"", {"Location": "/loop"}), 3),
    "too many requests": ((429, b'{"error": "slow down"}', {"Retry-After": "0"}), 3),
    "an error": ((500, b"", {}), 3),
    "no gateway": ((503, HTML, {}), 3),
    "a conflict": ((409, b'{"error": "changed"}', {}), 3),
    "not logged in": ((401, b'{"error": "Invalid credentials"}', {}), 2),
    "not allowed": ((403, b'{"error": "no right"}', {}), 2),
    "too large": ((413, HTML, {}), 2),
    "a bad request": ((400, b'{"error": "bad"}', {}), 2),
    "not there": ((404, b"{}", {"X-Error-Code": "RepoNotFound"}), 2),
    "cut off": ((-1, b"", {}), 3),
}


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """A server that says the same to everything; -1 hangs up."""
    status, body, headers = answer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if status < 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_POST = do_HEAD = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("said", ANSWERS)
def test_what_a_hub_says_is_told_with_the_right_exit_code(
    said: str, version: DatasetVersion, tmp_path: Path
) -> None:
    answer, code = ANSWERS[said]
    with answering(answer) as endpoint:
        hub = Hub(endpoint, WRITER, tmp_path / "cache")
        for work in (
            lambda: push(dataset_bundle(version), REPO, hub=hub),
            lambda: pull(REPO, tmp_path / "here", hub=hub),
            lambda: pull(REPO, tmp_path / "here", kind="model", hub=hub),
        ):
            with pytest.raises(NanoDistillError) as told:
                work()
            assert told.value.exit_code == code
            assert endpoint in told.value.message or REPO in told.value.message
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("token", ["“hf_abc”", '"hf_abc"', "hf_ab\x07c", "hf a b"])
def test_a_token_that_can_be_none_is_not_sent(
    token: str, small_hub: SmallHub, version: DatasetVersion, tmp_path: Path
) -> None:
    hub = as_account(small_hub, tmp_path, token)
    for work in (
        lambda: push(dataset_bundle(version), REPO, hub=hub),
        lambda: pull(REPO, tmp_path / "here", hub=hub),
    ):
        with pytest.raises(InputError, match="HF_TOKEN") as told:
            work()
        assert token not in str(told.value)
    assert small_hub.requests == []


@pytest.mark.parametrize("endpoint", ["localhost:8080", "ftp://hub", "http://[", '"http://h"'])
def test_an_endpoint_that_is_none_is_named(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HF_ENDPOINT"):
        pull(REPO, tmp_path / "here", hub=Hub(endpoint, WRITER, tmp_path / "cache"))


NAMES = [
    "../outside.txt",
    "data/../../outside.txt",
    "/tmp/outside.txt",
    "C:\\outside.txt",
    "C:/outside.txt",
    "data\\..\\outside.txt",
    "data/con.txt",
    "nul",
    "data/trailing.",
    "data//twice",
    "./here",
    "",
    "a\0b",
    "a\nb",
    ".git/config",
    "x" * 500,
    "README.MD",
    "Manifest.json",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_writes_nothing_elsewhere(
    name: str, small_hub: SmallHub, hub: Hub, version: DatasetVersion, tmp_path: Path
) -> None:
    files = {file: (version.path / file).read_bytes() for file in version.manifest.files}
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 3}
    small_hub.add("dataset", REPO, files | {"manifest.json": to_json(manifest)}, private=False)
    before = everything(tmp_path)
    with pytest.raises(NanoDistillError) as told:
        pull(REPO, tmp_path / "here", hub=hub)
    assert told.value.exit_code == 2
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b"{", b'{"format": 99}', b"[" * 100_000, b'{"files": []}', b"\xff"]
)
def test_what_is_no_manifest(content: bytes, small_hub: SmallHub, hub: Hub, tmp_path: Path) -> None:
    small_hub.add("dataset", REPO, {"manifest.json": content}, private=False)
    with pytest.raises(InputError, match=r"manifest|newer"):
        pull(REPO, tmp_path / "here", hub=hub)


def test_sizes_are_compared_before_anything_is_fetched(
    small_hub: SmallHub, hub: Hub, version: DatasetVersion, tmp_path: Path
) -> None:
    files = {file: (version.path / file).read_bytes() for file in version.manifest.files}
    manifest = (version.path / "manifest.json").read_bytes()
    grown = {name: body + b"x" * 1000 for name, body in files.items()}
    small_hub.add("dataset", REPO, grown | {"manifest.json": manifest}, private=False)
    with pytest.raises(NanoDistillError, match="bytes, the manifest says"):
        pull(REPO, tmp_path / "here", hub=hub)
    assert not small_hub.sent("README.md")


@pytest.mark.parametrize(
    "names", [["../x.safetensors"], ["a\\b"], ["model.json", "Model.json"], ["C:x"], ["aux.json"]]
)
def test_a_model_writes_nothing_elsewhere(
    names: list[str], small_hub: SmallHub, hub: Hub, tmp_path: Path
) -> None:
    small_hub.add("model", REPO, dict.fromkeys(names, b"x"), private=False)
    with pytest.raises(NanoDistillError, match=r"can't be put into a folder|has no files"):
        pull(REPO, tmp_path / "here", kind="model", hub=hub)
    assert not (tmp_path / "here").exists()


def test_names_with_brackets_are_fetched(small_hub: SmallHub, hub: Hub, tmp_path: Path) -> None:
    small_hub.add("model", REPO, {"a[1].json": b"x", "b c.json": b"y"}, private=False)
    assert pull(REPO, tmp_path / "here", kind="model", hub=hub).files == 2
    assert (tmp_path / "here" / "a[1].json").read_bytes() == b"x"


@pytest.mark.parametrize(
    "where", ["owner/words@../../x", "owner/words@a/../b", "../words", "a/b/c"]
)
def test_what_names_no_repository(where: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OWNER/NAME"):
        pull(where, tmp_path / "here", hub=hub)


def test_folders_that_can_be_none(small_hub: SmallHub, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for into in ("file", "file/below", "link", "a\0b", "x" * 300):
        with pytest.raises(InputError, match="--into"):
            pull(REPO, tmp_path / into, hub=hub)
    assert small_hub.requests == []


def test_into_the_working_directory(
    small_hub: SmallHub,
    hub: Hub,
    version: DatasetVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(dataset_bundle(version), REPO, hub=hub)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert pull(REPO, Path(), hub=hub).version == version.name


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


def everything(folder: Path) -> set[str]:
    """What lies under `folder`, but for the cache of downloads."""
    return {str(path) for path in folder.rglob("*") if "cache" not in path.parts}
