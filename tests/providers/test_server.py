from __future__ import annotations

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from providers.server import ServerProcess, TeacherServer, status

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "rows": {"type": "array", "items": {}}},
}


def post(url: str, **body: object) -> dict[str, object]:
    whole = {"model": "m", "messages": [{"role": "user", "content": "hello"}]} | body
    request = Request(url + "/chat/completions", json.dumps(whole).encode())
    with urlopen(request) as reply:
        answer: dict[str, object] = json.loads(reply.read())
    return answer


def text_of(answer: dict[str, object]) -> str:
    choices = answer["choices"]
    assert isinstance(choices, list)
    return str(choices[0]["message"]["content"])


def test_same_request_same_answer_and_counted(teacher_server: TeacherServer) -> None:
    first, again = post(teacher_server.url), post(teacher_server.url)
    other = post(teacher_server.url, seed=2)
    assert text_of(first) == text_of(again) != text_of(other)
    assert sorted(teacher_server.counts.values()) == [1, 2]


def test_answers_by_schema(teacher_server: TeacherServer) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    rows = json.loads(text_of(post(teacher_server.url, response_format=wanted)))
    assert rows["kind"] in "ab"
    assert len(rows["rows"]) == 5


def test_acts_come_once_and_in_order(teacher_server: TeacherServer) -> None:
    teacher_server.next(status(503), status(429, headers={"Retry-After": "7"}))
    with pytest.raises(HTTPError) as refused:
        post(teacher_server.url)
    refused.value.close()
    assert refused.value.code == 503
    with pytest.raises(HTTPError) as refused:
        post(teacher_server.url)
    refused.value.close()
    assert refused.value.headers["Retry-After"] == "7"
    assert text_of(post(teacher_server.url))


def test_as_a_process_that_can_be_told() -> None:
    with ServerProcess(latency=0.01, record="counts") as server:
        post(server.url)
        server.set(next=[{"act": "status", "status": 500, "error": {}, "headers": {}}])
        with pytest.raises(HTTPError) as refused:
            post(server.url)
        refused.value.close()
        assert list(server.state()["counts"].values()) == [2]
