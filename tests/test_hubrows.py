"""Rows of a dataset on the Hub, with the real clients against a small Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from nanodistill.data_files import HubDataset

COMMIT = "a" * 40
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "train.jsonl": b'{"input": "a cat", "output": "animal"}\n{"input": "an oak", "output": ""}\n',
    "test.jsonl": b'{"input": "a fox", "output": "animal"}\n',
}


def described(name: str) -> dict[str, Any]:
    content = FILES[name]
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": oid}


class SmallHub(BaseHTTPRequestHandler):
    """One public dataset, `owner/rows`, at every revision but `missing`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/datasets/owner/rows"):
            self.answer_about(path.removeprefix("/api/datasets/owner/rows"))
        elif path.startswith("/datasets/owner/rows/resolve/"):
            self.answer_file(path.split("/", 6)[6])
        else:
            self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        """Sizes of the files that are asked for, as a form."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        asked = parse_qs(content.decode())["paths"]
        self.answer(200, [described(name) for name in asked if name in FILES])

    def answer_about(self, rest: str) -> None:
        if rest == "/revision/missing":
            self.answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif rest.startswith("/tree"):
            self.answer(200, [described(name) for name in FILES])
        else:
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(200, {"id": "owner/rows", "sha": COMMIT, "siblings": siblings})

    def answer_file(self, name: str) -> None:
        if name in FILES:
            about = {"X-Repo-Commit": COMMIT, "ETag": f'"{described(name)["oid"]}"'}
            self.answer(200, FILES[name], about)
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *about: object) -> None: ...


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


LOADING = """
import json
from nanodistill.errors import DataError
from nanodistill.seeds import load_rows

for name, what in [("owner/rows", "test"), ("owner/rows@v1", "test"), ("owner/rows", "seed"),
                   ("owner/rows@missing", "seed"), ("owner/others", "seed")]:
    heard = []
    try:
        rows = load_rows(name, what=what, on_event=heard.append)
        told = [f"{row.where}: {row.input}" for row in rows]
    except DataError as error:
        told = [str(problem) for problem in error.problems]
    print(json.dumps([told, [event.text for event in heard]]))
"""


@pytest.fixture(scope="module")
def told(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """In a process of its own: the libraries read HF_ENDPOINT once."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", LOADING],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_test_split_is_read_and_nothing_is_printed(told: list[Any]) -> None:
    assert told[0] == [
        ["owner/rows: row 1: a fox"],
        ["Loading owner/rows from the Hub.", "owner/rows: taking split test of train, test."],
    ]


def test_a_revision_is_read(told: list[Any]) -> None:
    assert told[1][0] == ["owner/rows@v1: row 1: a fox"]


def test_a_bad_row_is_named_by_its_dataset(told: list[Any]) -> None:
    assert told[2][0] == ["owner/rows: row 2: output: is empty"]


def test_a_revision_and_a_dataset_that_are_not_there(told: list[Any]) -> None:
    assert told[3][0] == ["owner/rows@missing: has no revision 'missing'"]
    assert told[4][0] == [
        "owner/others: there is no such file, and no such dataset on the Hub (or it is private)"
    ]


@pytest.mark.parametrize(
    ("text", "dataset"),
    [
        ("owner/rows", HubDataset("owner/rows")),
        ("owner/rows@v1.0/x", HubDataset("owner/rows", "v1.0/x")),
        ("owner/rows.v2", HubDataset("owner/rows.v2")),
    ],
)
def test_hub_ids(text: str, dataset: HubDataset) -> None:
    assert HubDataset.looks_like(text)
    assert HubDataset.parse(text) == dataset
    assert str(dataset) == text


@pytest.mark.parametrize("text", ["rows", "./a/b", "a/b/c", "data/seeds.jsonl", "a/b@", "/a/b", ""])
def test_what_is_no_hub_id(text: str) -> None:
    assert not HubDataset.looks_like(text)
