"""What a client may not do to the server: other sites, slow connections, odd numbers, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from nanodistill.serve.limits import Limits
from nanodistill.serve.schema import problem
from serve.conftest import INSTRUCTION, KEY, Running, Student, running

ASK = [{"role": "user", "content": "hello"}]


def post(server: Running, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    given = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"} | headers
    return httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=given)


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": ASK, "max_tokens": 2} | more


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "127.0.0.1.rebound.example"}, 403),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
    ],
)
def test_hosts_and_origins(server: Running, headers: dict[str, str], status: int) -> None:
    assert post(server, asking(), **headers).status_code == status
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == status


def test_a_host_that_is_allowed(student: Student) -> None:
    with running(student.config, student.run, allowed_hosts=["models.lan"]) as server:
        given = {"Host": "models.lan"}
        assert httpx.get(f"{server.url}/health", headers=given).status_code == 200
        other = httpx.get(f"{server.url}/health", headers={"Host": "other.lan"})
        assert (other.status_code, "error" in other.json()) == (403, True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repetition_penalty", "Infinity"),
        ("repetition_penalty", "NaN"),
        ("repetition_penalty", "1e309"),
        ("temperature", "true"),
        ("temperature", '"0.5"'),
        ("top_p", "-Infinity"),
        ("max_tokens", "1.5"),
        ("max_tokens", "true"),
        ("seed", "1" * 40),
        ("top_k", "-2"),
    ],
)
def test_numbers_that_are_none(server: Running, field: str, value: str) -> None:
    plain = {name: held for name, held in asking().items() if name != field}
    body = json.dumps(plain)[:-1] + f', "{field}": {value}}}'
    answer = post(server, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_minus_one_is_no_limit(server: Running) -> None:
    assert post(server, asking(top_k=-1, seed=-1)).status_code == 200
    assert post(server, asking(max_tokens=-1)).status_code == 200


def test_parts_of_a_message(server: Running) -> None:
    parts = [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]
    assert post(server, asking(messages=[{"role": "user", "content": parts}])).status_code == 200
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    refused = post(server, asking(messages=[{"role": "user", "content": image}])).json()["error"]
    assert refused["param"] == "messages.0.content"
    assert "image_url" in refused["message"]


def test_half_a_character_is_no_matter_of_length(server: Running) -> None:
    body = json.dumps(asking()).replace("hello", "\\ud83d")
    error = post(server, body).json()["error"]
    assert (error["code"], error["param"]) == (None, "messages")


def test_a_refusal_names_no_path_of_this_machine(server: Running, student: Student) -> None:
    long = post(server, asking(messages=[{"role": "user", "content": "x" * 600}]))
    error = long.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert str(student.config.student) not in error["message"]
    assert "/" not in error["message"]


def test_headers_that_never_end(student: Student) -> None:
    limits = Limits(batch=1, header_seconds=0.3)
    with running(student.config, student.run, limits=limits) as server:
        place = urlsplit(server.url)
        with socket.create_connection((place.hostname or "", place.port or 0)) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            slow.settimeout(30)
            assert slow.recv(1) == b""
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_pattern_that_takes_for_ever_is_given_up() -> None:
    schema = {"type": "string", "pattern": "^(a|a|b|ab)*$"}
    begun = time.monotonic()
    wrong = problem(json.dumps("ab" * 5_000 + "!"), schema)
    assert wrong is not None
    assert time.monotonic() - begun < 60
    assert problem('"abc"', {"pattern": "^a"}) is None
    assert problem('"bc"', {"pattern": "^a"}) is not None
    nested = {"patternProperties": {"^n": {"type": "number"}}}
    assert problem('{"n": "x"}', nested) is not None
    assert problem('{"m": "x"}', nested) is None


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, json.loads('{"not":' * 400 + "{}" + "}" * 400), {"a": "x" * 200_000}]
)
def test_schemas_without_end(server: Running, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = post(server, asking(response_format=wanted))
    assert answer.status_code in (200, 400, 413, 500)
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("at", ["start", "idle"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_cleanly(
    student: Student, tmp_path: Path, at: str, number: signal.Signals
) -> None:
    run_file = tmp_path / "run.toml"
    fields = {"name": "tiny", "seed": "none.jsonl", "instruction": INSTRUCTION,
              "student": student.config.student, "output_dir": str(student.config.output_dir),
              "max_new_tokens": 8}  # fmt: skip
    run_file.write_text("".join(f"{key} = {json.dumps(held)}\n" for key, held in fields.items()))
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{begin}from nanodistill.cli import main; main()",
               "serve", str(run_file), "--port", "0"]  # fmt: skip
    with subprocess.Popen(
        command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        if at == "idle":
            next(line for line in child.stderr if "serving tiny" in line)
        else:
            time.sleep(1.5)
        for _ in range(2):
            child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert "Traceback" not in said
    assert child.returncode in ((0, 130) if at == "idle" else (130,))
