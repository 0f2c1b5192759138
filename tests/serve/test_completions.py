"""Answers that are parsed, checked and sampled again, with a scripted generator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import make_model

from nanodistill.models.batching import Generated, GenerationStep
from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.models.sampling import Sampling
from nanodistill.serve.completions import Completions, Ended
from nanodistill.serve.protocol import APIError, Usage, read_request
from nanodistill.serve.reasoning_parser import Piece
from nanodistill.serve.served_model import ServedModel
from nanodistill.thinking import FORMATS

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["bug"]}}, "required": ["label"]}


class ScriptedGenerator:
    """Gives `texts` one after the other, and keeps what it was asked."""

    def __init__(self, loaded: LoadedModel, *texts: str) -> None:
        self.loaded = loaded
        self.asked: list[tuple[Any, Sampling, int]] = []
        self._texts = list(texts)

    async def generate(
        self, prompt: Any, sampling: Sampling, *, processors: Sequence[Any] = ()
    ) -> Generated:
        self.asked.append((prompt, sampling, len(processors)))
        text = self._texts.pop(0)
        cut = text.endswith("…")
        return Generated(text.removesuffix("…"), (), 7, 5, "length" if cut else "stop")

    async def stream(
        self, prompt: Any, sampling: Sampling, *, processors: Sequence[Any] = ()
    ) -> AsyncGenerator[GenerationStep]:
        answer = await self.generate(prompt, sampling, processors=processors)
        for letter in answer.text:
            yield GenerationStep(0, letter)
        yield GenerationStep(0, "", finished=answer)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_model(tmp_path_factory.mktemp("completions") / "model"))


def served_model(form: str = "xml", schema: dict[str, Any] | None = None) -> ServedModel:
    return ServedModel(
        "tiny", Path("model"), None, "id", "Sort it.", FORMATS[form], schema, 32, "it"
    )


def answer(
    generator: ScriptedGenerator, chosen: ServedModel, **more: Any
) -> tuple[str, str, Ended]:
    """Thinking, content and how it ended."""

    async def collect() -> list[Piece | Ended]:
        completions = Completions(chosen, generator)
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more}
        ask = await completions.prepare(read_request(body))
        return [piece async for piece in completions.pieces(ask)]

    *pieces, ended = asyncio.run(collect())
    assert isinstance(ended, Ended)
    texts = [piece for piece in pieces if isinstance(piece, Piece)]
    thinking, content = (
        "".join(p.text for p in texts if p.kind == kind) for kind in ("thinking", "content")
    )
    return thinking, content, ended


def test_thinking_comes_apart(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, "<thinking>\nA charge.\n</thinking>\n\nbilling")
    assert answer(generator, served_model())[:2] == ("A charge.", "billing")
    assert answer(ScriptedGenerator(loaded, "no tags"), served_model())[:2] == ("", "no tags")
    unended = answer(ScriptedGenerator(loaded, "<thinking>\nA charge…"), served_model())
    assert (unended[0], unended[1], unended[2].reason) == ("A charge", "", "length")
    paragraphs = ScriptedGenerator(loaded, "One.\n\nTwo.\n\nbug")
    assert answer(paragraphs, served_model("plain"))[:2] == ("One.\n\nTwo.", "bug")


def test_earlier_thinking_goes_back_to_its_place(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, "bug")
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "bug", "reasoning_content": "hm", "refusal": None},
        {"role": "user", "content": "again"},
    ]
    answer(generator, served_model(), messages=turns)
    prompt, _, _ = generator.asked[0]
    assert [turn["role"] for turn in prompt] == ["system", "user", "assistant", "user"]
    assert prompt[0]["content"] == "Sort it."
    assert prompt[2]["content"] == "<thinking>\nhm\n</thinking>\n\nbug"


def test_the_runs_own_schema_holds_unless_text_is_asked_for(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, '{"label": "bug"}', "anything")
    answer(generator, served_model("none", SCHEMA))
    answer(generator, served_model("none", SCHEMA), response_format={"type": "text"})
    assert [processors for _, _, processors in generator.asked] == [1, 0]


def test_what_no_grammar_holds_is_drawn_again(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, "bug", "thinking\n\nno", 'thinking\n\n{"label": "bug"}')
    thinking, content, ended = answer(generator, served_model("plain", SCHEMA), seed=4)
    assert (thinking, content) == ("thinking", '{"label": "bug"}')
    assert ended == Ended("stop", Usage(7, 15))
    temperatures = [sampling.temperature for _, sampling, _ in generator.asked]
    assert temperatures == [0.0, 0.7, 0.7]
    assert [sampling.seed for _, sampling, _ in generator.asked] == [4, 5, 6]
    assert [processors for _, _, processors in generator.asked] == [0, 0, 0]


def test_a_schema_that_is_never_met_is_an_error(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, "bug", "bug", "bug")
    with pytest.raises(APIError, match="in 3 attempts: not JSON"):
        answer(generator, served_model("plain", SCHEMA))


def test_an_answer_that_was_cut_is_given_as_it_is(loaded: LoadedModel) -> None:
    generator = ScriptedGenerator(loaded, 'hm\n\n{"lab…')
    _, content, ended = answer(generator, served_model("plain", SCHEMA))
    assert (content, ended.reason) == ('{"lab', "length")
