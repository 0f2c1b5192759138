"""A model behind an endpoint, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from providers.server import (
    Act,
    TeacherServer,
    answered,
    bad_zip,
    cut,
    drop,
    echo_key,
    error_inside_200,
    html,
    raw,
    status,
)

from evaluation.conftest import TinyRun
from nanodistill.evaluation import evaluate
from nanodistill.evaluation.answer_generation import AnswerCache
from nanodistill.evaluation.endpoint import (
    KEY_VARIABLE,
    Endpoint,
    EndpointError,
    ask_endpoint,
    find_endpoint,
)
from nanodistill.evaluation.worker import TaskPrompt

PROMPT = TaskPrompt("k", ({"role": "user", "content": "oak"},))


@pytest.fixture
def serving(pages: Callable[[str], str]) -> Callable[..., str]:
    """Starts a server that lists models of these names, and gives its URL."""
    return lambda *names: pages(json.dumps({"data": [{"id": name} for name in names]}))


@pytest.fixture
def pages() -> Iterator[Callable[[str], str]]:
    """Starts a server that answers this text as its list of models, and gives its URL."""
    with ExitStack() as stack:

        def serve(text: str) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = text.encode()
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
        (raw("<html>hello</html>"), "does not answer in OpenAI's format"),
        (raw('{"choices": []}'), "does not answer in OpenAI's format"),
        (status(401), "status 401"),
    ):
        teacher_server.set(always=act)
        with pytest.raises(EndpointError, match=said):
            evaluate(tiny.config(), tiny.dataset, tiny.run, model="m", endpoint=teacher_server.url)
    with pytest.raises(EndpointError, match="can't be reached"):
        find_endpoint("http://127.0.0.1:9/v1", None)


STRANGE: dict[str, tuple[Act, str]] = {
    "page": (html(200), "OpenAI's format: not JSON"),
    "error page": (html(502), "status 502"),
    "nothing": (raw(""), "OpenAI's format: not JSON, but nothing"),
    "no content": (raw("", 204), "OpenAI's format"),
    "words": (raw("hello", content_type="text/plain"), "OpenAI's format: not JSON, but hello"),
    "number": (raw("3"), "OpenAI's format"),
    "list": (raw("[]"), "OpenAI's format"),
    "null": (raw("null"), "OpenAI's format"),
    "deep": (raw("[" * 100_000), "OpenAI's format"),
    "error inside": (error_inside_200("out of memory"), "out of memory"),
    "no choices": (raw('{"choices": []}'), "OpenAI's format: choices"),
    "choices null": (raw('{"choices": null}'), "OpenAI's format: choices"),
    "choices text": (raw('{"choices": "abc"}'), "OpenAI's format: choices"),
    "no message": (raw('{"choices": [{}]}'), "OpenAI's format: choices.0.message"),
    "message text": (raw('{"choices": [{"message": "hi"}]}'), "OpenAI's format"),
    "content null": (answered(None, content=None), "the content is null"),
    "content number": (answered(None, content=3), "OpenAI's format"),
    "usage list": (raw('{"choices": [{"message": {"content": "x"}}], "usage": [1]}'), "usage"),
    "not found": (status(404, "no such route"), "status 404: .*no such route"),
    "forbidden": (status(403), "status 403"),
    "redirect": (raw("", 307, headers={"Location": "http://elsewhere/v1"}), "status 307"),
    "huge": (raw('{"choices": [' + " " * 17 * 2**20), "longer than 16 MiB"),
    "bad zip": (bad_zip(), "can't be reached"),
    "cut": (cut(), "can't be reached"),
    "dropped": (drop(), "can't be reached"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_answer_is_told_with_the_address_and_the_way_out(
    strange: str, teacher_server: TeacherServer
) -> None:
    act, said = STRANGE[strange]
    teacher_server.set(always=act)
    endpoint = Endpoint(teacher_server.url, "m")
    with pytest.raises(EndpointError, match=said) as failed:
        list(ask_endpoint(endpoint, [PROMPT], 6, 1))
    assert failed.value.exit_code == 3
    assert teacher_server.url in failed.value.message
    assert "kept" in (failed.value.next_step or "")
    if strange == "redirect":
        assert "http://elsewhere/v1" in (failed.value.next_step or "")


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (answered(None, content=[{"type": "text", "text": "pl"}, {"text": "ant"}]), "plant"),
        (answered(None, "length", content=None, reasoning_content="hm"), ""),
        (raw('{"choices": [{"message": {"content": "plant"}}], "usage": null}'), "plant"),
        (raw('{"choices": [{"message": {"content": "a\\ud83d"}}]}', content_type="x/y"), "a\ufffd"),
    ],
)
def test_what_servers_leave_out_or_put_otherwise_is_read(
    act: Act, text: str, teacher_server: TeacherServer
) -> None:
    teacher_server.set(always=act)
    (answer,) = ask_endpoint(Endpoint(teacher_server.url, "m"), [PROMPT], 6, 1)
    assert answer.text == text


def test_a_key_that_comes_back_in_an_error_is_not_told(
    teacher_server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret-of-mine-123")
    teacher_server.set(always=echo_key())
    with pytest.raises(EndpointError, match="status 401") as failed:
        list(ask_endpoint(Endpoint(teacher_server.url, "m"), [PROMPT], 6, 1))
    assert "secret-of-mine-123" not in failed.value.message
    assert KEY_VARIABLE in (failed.value.next_step or "")


def test_an_address_without_v1_is_told_the_likely_one(teacher_server: TeacherServer) -> None:
    base = teacher_server.url.removesuffix("/v1")
    with pytest.raises(EndpointError, match="status 404") as failed:
        list(ask_endpoint(Endpoint(base, "m"), [PROMPT], 6, 1))
    assert f"{base}/v1" in (failed.value.next_step or "")


@pytest.mark.parametrize("listed", ["[]", '{"data": [{"id": 3}]}', '{"data": [3]}', "<html>"])
def test_a_strange_list_of_models_is_told(listed: str, pages: Callable[[str], str]) -> None:
    with pytest.raises(EndpointError, match="OpenAI's format") as failed:
        find_endpoint(pages(listed), None)
    assert failed.value.exit_code == 3
