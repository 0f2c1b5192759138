"""Who calls, how, and when the server ends: what is refused, and what holds nobody up."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from evaluation.tiny import INSTRUCTION

from nanodistill.serve import Limits
from nanodistill.serve.guided_decoding import InvalidSchemaError, schema_violation_isolated
from serve.conftest import KEY, Running, Student, make_student, running
from serve.test_server import ASK, ask, open_stream, post


@pytest.fixture(scope="module")
def keyless(student: Student) -> Iterator[Running]:
    limits = Limits(batch=2, header_seconds=0.5, schema_seconds=5.0)
    hosts = ("student.lan", "App.Example")
    with running(student.config, student.run, limits=limits, allowed_hosts=hosts) as started:
        yield started


def error(answer: httpx.Response) -> dict[str, Any]:
    held: dict[str, Any] = answer.json()["error"]
    return held


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8080"}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "student.lan:80"}, 200),
        ({"Host": "[broken"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://app.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_host_and_origin(headers: dict[str, str], status: int, keyless: Running) -> None:
    for path in ("/health", "/v1/models"):
        answer = httpx.get(keyless.url + path, headers=headers)
        assert answer.status_code == status
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == (headers.get("Origin") if status == 200 else None)
    own = httpx.get(f"{keyless.url}/health", headers={"Origin": keyless.url})
    assert own.status_code == 200


def test_a_page_may_ask_where_it_was_allowed(keyless: Running) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    url = f"{keyless.url}/v1/chat/completions"
    let_in = httpx.options(url, headers=asks | {"Origin": "https://app.example"})
    assert let_in.status_code == 204
    assert let_in.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert let_in.headers["Access-Control-Allow-Headers"] == "x-a"
    refused = httpx.options(url, headers=asks | {"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"GET /he"]
)
def test_half_a_request_is_not_waited_for(sent: bytes, keyless: Running) -> None:
    host, port = keyless.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(sent)
        assert slow.recv(1) == b""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ("repetition_penalty", "temperature", "top_p", "min_p", "max_tokens", "seed")
        for value in ("Infinity", "NaN", "1e309", "-Infinity", '"1"', "true", "[]", "9" * 40)
    ],
)
def test_no_number_at_all(field: str, value: str, server: Running) -> None:
    body = json.dumps({"model": "tiny", "messages": ASK})[:-1] + f', "{field}": {value}}}'
    answer = post(server, body.encode())
    assert answer.status_code == 400
    assert error(answer)["param"] == field
    assert error(answer)["type"] == "invalid_request_error"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": ASK} | more


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": -1},
        {"top_k": -1},
        {"seed": -1},
        {"max_completion_tokens": -1},
        {"temperature": 1e-300},
        {"repetition_penalty": 100.0, "temperature": 1},
        {"top_k": 10**12},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
        {"messages": [{"role": "user", "name": "bob", "content": [
            {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}]},
    ],
)  # fmt: skip
def test_what_clients_send_for_nothing_is_let_be(more: dict[str, Any], server: Running) -> None:
    assert post(server, body(**more)).status_code == 200


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "param", "said"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}],
         "messages.0.content.1", "image_url is not supported"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
         "messages.0.content.0", "input_audio is not supported"),
        ([{"role": "user", "content": 7}], "messages.0.content", "text or a list of parts"),
        ([{"role": "user", "content": "a\ud83d"}], "messages.0.content", "surrogate"),
        ([{"role": "user", "content": "x" * 600}], "messages", "tokens"),
    ],
)  # fmt: skip
def test_the_field_that_is_wrong_is_named(
    messages: Any, param: str, said: str, server: Running, student: Student
) -> None:
    answer = post(server, body(messages=messages))
    assert answer.status_code == 400
    told = error(answer)
    assert told["param"] == param
    assert said in told["message"]
    assert str(student.config.output_dir) not in answer.text
    assert (told["code"] == "context_length_exceeded") == ("tokens" in said)


def test_json_is_not_cut_where_nobody_asked_for_a_limit(server: Running) -> None:
    """The run's own limit is 8 tokens."""
    word = {"enum": ["a word that is longer than that"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": word}}
    choice = ask(server, response_format=wanted).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("stop", json.dumps(word["enum"][0]))


def nested(depth: int) -> dict[str, Any]:
    held: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        held = {"type": "object", "properties": {"a": held}}
    return held


SCHEMAS = {
    "deep": nested(60),
    "deeper": nested(200),
    "wide": {"enum": list(range(12_000))},
    "any of all of": {"allOf": [
        {"anyOf": [{"type": "object", "properties": {f"a{i}{j}": {"type": "string"}}}
                   for j in range(3)]} for i in range(12)]},
    "no pattern": {"type": "string", "pattern": "("},
    "to nowhere": {"$ref": "#/$defs/none"},
}  # fmt: skip


def test_a_stream_that_fails_ends_as_one(keyless: Running) -> None:
    """The object begins, and what may follow is more than the grammar library follows."""
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1000)}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": wide}}
    answer = httpx.post(
        f"{keyless.url}/v1/chat/completions",
        json=body(response_format=wanted, stream=True),
        timeout=60,
    )
    assert (answer.status_code, answer.text.count("HTTP/1.1")) == (200, 0)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    told = json.loads(events[-2])["error"]
    assert told["param"] == "response_format"
    assert len(told["message"]) < 300


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_too_much_is_refused(name: str, keyless: Running) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[name]}}
    answer = httpx.post(
        f"{keyless.url}/v1/chat/completions", json=body(response_format=wanted), timeout=60
    )
    assert answer.status_code == 400
    assert error(answer)["param"] == "response_format"
    assert httpx.get(f"{keyless.url}/health").status_code == 200


EVIL = {"type": "string", "pattern": "^(a|a)*$"}


@pytest.mark.parametrize(
    ("content", "schema", "said"),
    [
        ("a" * 60 + "b", EVIL, "takes over 2 s"),
        ("a", {"$ref": "#"}, "refers to itself"),
        ("a", {"type": "string", "pattern": "("}, "invalid pattern"),
        ("a", {"$ref": "#/$defs/none"}, "unresolvable"),
    ],
)
def test_a_check_ends(content: str, schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSchemaError, match=re.escape(said)):
        anyio.run(schema_violation_isolated, json.dumps(content), schema, 2.0)


def test_a_check_tells_what_is_wrong() -> None:
    assert anyio.run(schema_violation_isolated, '"aa"', EVIL, 60.0) is None
    assert "not of type" in (anyio.run(schema_violation_isolated, "1", EVIL, 60.0) or "")


RUN = "from nanodistill.cli import main; main()"


@pytest.fixture(scope="module")
def endless_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of a student whose answers take minutes."""
    root = tmp_path_factory.mktemp("endless")
    student = make_student(root, max_position_embeddings=200_000, eos_token_id=[])
    fields = {"name": "tiny", "seed": "none.jsonl", "instruction": INSTRUCTION,
              "student": student.config.student, "output_dir": str(root)}  # fmt: skip
    path = root / "run.toml"
    path.write_text("".join(f"{key} = {json.dumps(held)}\n" for key, held in fields.items()))
    return path


@contextmanager
def command(run_file: Path) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-c", RUN, "serve", str(run_file), "--port", "0", "--json"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"NANODISTILL_SERVE_KEY": KEY},
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def listening(child: subprocess.Popen[str]) -> Running:
    assert child.stderr is not None
    line = next(line for line in child.stderr if "serving tiny" in line)
    return Running(url=line.split(" at ")[1].strip().removesuffix("/v1"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_idle_server(number: signal.Signals, endless_run: Path) -> None:
    with command(endless_run) as child:
        listening(child)
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "Traceback" not in said


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_busy_server_at_once(
    second: signal.Signals, endless_run: Path
) -> None:
    with command(endless_run) as child:
        server = listening(child)
        open_stream(server)
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        next(line for line in child.stderr if "stopping" in line)
        child.send_signal(second)
        out, said = child.communicate(timeout=15)
        server.close_clients()
    assert child.returncode == 130
    assert "error" in json.loads(out.splitlines()[-1])
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["nanodistill.serve.server", "mlx.core", "mlx_lm.utils"])
def test_a_signal_while_it_starts(number: signal.Signals, module: str, endless_run: Path) -> None:
    """Sent from inside, when `module` is about to be read."""
    sender = f"""
import os, sys
class Send:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Send())
"""
    line = [sys.executable, "-c", sender + RUN, "serve", str(endless_run), "--port", "0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "fault of NanoDistill" not in done.stderr
