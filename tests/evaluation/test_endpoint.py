"""A model behind an endpoint, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from teacher.server import TeacherServer, raw, status

from evaluation.conftest import TinyRun
from nanodistill.evaluation import evaluate
from nanodistill.evaluation.answer_generation import AnswerCache
from nanodistill.evaluation.endpoint import KEY_VARIABLE, Endpoint, EndpointError, find_endpoint


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Starts a server that lists models of these names, and gives its URL."""
    with ExitStack() as stack:

        def serve(*names: str) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = json.dumps({"data": [{"id": name} for name in names]}).encode()
                    self.send_response(200 if self.path == "/v1/models" else 404)
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, format: str, *args: object) -> None:
                    pass

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/v1"

        yield serve


def test_the_only_model_needs_no_name(serving: Callable[..., str]) -> None:
    url = serving("mine")
    assert find_endpoint(f"{url}/", None) == Endpoint(url, "mine")
    assert find_endpoint(url, "other") == Endpoint(url, "other")


@pytest.mark.parametrize(
    ("names", "listed"), [((), "0 models: none"), (("a", "b"), "2 models: a, b")]
)
def test_several_models_are_listed(
    serving: Callable[..., str], names: tuple[str, ...], listed: str
) -> None:
    with pytest.raises(EndpointError, match=listed):
        find_endpoint(serving(*names), None)


def test_an_endpoint_is_judged_like_a_student(
    tiny: TinyRun, teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    golds = {row["input"]: row["output"] for row in tiny.dataset.rows("test")}
    teacher_server.set(answer=lambda call: f" {golds[call.user].upper()}.")
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "not for strangers")
    result = evaluate(
        tiny.config(), tiny.dataset, tiny.run, model="served", endpoint=teacher_server.url
    )
    assert result.models["student"].score.value == 1
    assert result.paired.p == pytest.approx(2 / 2**6)
    assert (result.generated, result.reused) == (6, 12)
    assert result.subject.student == "served"
    for call in teacher_server.calls:
        assert call.headers["Authorization"] == "Bearer secret"
        assert call.body["temperature"] == 0
        assert call.body["max_tokens"] == 6
        assert call.body["messages"][0]["role"] == "system"
    again = evaluate(
        tiny.config(), tiny.dataset, tiny.run, model="served", endpoint=teacher_server.url
    )
    assert (again.generated, len(teacher_server.calls)) == (0, 6)


def test_a_failing_endpoint_is_said_and_what_came_is_kept(
    tiny: TinyRun, teacher_server: TeacherServer
) -> None:
    config = tiny.config(eval_batch_size=1)
    before = len(AnswerCache(tiny.run.evaluation / "answers.jsonl"))
    teacher_server.set(fail_every=3)
    with pytest.raises(EndpointError, match="answered with status 500"):
        evaluate(config, tiny.dataset, tiny.run, model="m", endpoint=teacher_server.url)
    assert len(AnswerCache(tiny.run.evaluation / "answers.jsonl")) == before + 2
    teacher_server.set(fail_every=None)
    result = evaluate(config, tiny.dataset, tiny.run, model="m", endpoint=teacher_server.url)
    assert result.generated == 4


def test_other_ways_to_fail(tiny: TinyRun, teacher_server: TeacherServer) -> None:
    for act, said in (
        (raw("<html>hello</html>"), "does not answer in OpenAI's form"),
        (raw('{"choices": []}'), "does not answer in OpenAI's form"),
        (status(401), "status 401"),
    ):
        teacher_server.set(always=act)
        with pytest.raises(EndpointError, match=said):
            evaluate(tiny.config(), tiny.dataset, tiny.run, model="m", endpoint=teacher_server.url)
    with pytest.raises(EndpointError, match="can't be reached"):
        find_endpoint("http://127.0.0.1:9/v1", None)
