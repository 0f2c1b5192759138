"""The Modelfile: what Ollama would send is what the student was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from export.conftest import TrainedRun
from nanodistill.errors import InputError, ModelError
from nanodistill.exporting import export
from nanodistill.exporting.ollama import (
    ChatTemplate,
    Pieces,
    Turns,
    context_length,
    modelfile,
    pieces_of,
)

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are helpful<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
    "{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BRACES = CHATML.replace("<|im_start|>", "{{ '{{' }}<|im_start|>")
THINKER = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
TEMPLATES = {
    "chatml": ChatTemplate(CHATML, {"bos_token": "<|im_start|>"}, ("<|im_end|>",), adds_bos=False),
    "llama3": ChatTemplate(LLAMA3, {"bos_token": "<|bos|>"}, ("<|eot_id|>", "<|eom|>"), True),
    "llama2": ChatTemplate(LLAMA2, {"bos_token": "<s>"}, ("</s>",), adds_bos=True),
    "zephyr": ChatTemplate(ZEPHYR, {}, ("</s>",), adds_bos=False),
    "braces": ChatTemplate(BRACES, {}, ("<|im_end|>",), adds_bos=False),
}
ONE: Turns = (("system", "Sort it."), ("user", "Where is my parcel?"))
TWO: Turns = (*ONE, ("assistant", "shipping"), ("user", "And now?"))


def shown_by_ollama(template: str, turns: Turns) -> str:
    """What Ollama's server makes of a template without .Messages: the template for each turn, the
    last one cut before the response."""
    values = {"System": "", "Prompt": "", "Response": ""}
    text = ""
    for role, content in turns:
        if role == "user" and values["Response"]:
            text += executed(template, values)
            values = dict.fromkeys(values, "")
        values[{"system": "System", "user": "Prompt", "assistant": "Response"}[role]] = content
    return text + executed(template.partition("{{ .Response }}")[0], values)


def executed(template: str, values: dict[str, str]) -> str:
    """The little of Go's templates that ours use."""
    kept: list[bool] = []
    text = ""
    for literal, action in pieces(template):
        text += literal if all(kept) else ""
        if action == "end":
            kept.pop()
        elif action.startswith("if ."):
            kept.append(bool(values[action.removeprefix("if .")]))
        elif action.startswith(('"', "`")):
            text += action[1:-1] if all(kept) else ""
        elif action:
            text += values[action.removeprefix(".")] if all(kept) else ""
    assert kept == []
    return text


def pieces(template: str) -> Sequence[tuple[str, str]]:
    parts = re.split(r'\{\{ (end|if \.\w+|\.\w+|"[^"]*"|`[^`]*`) \}\}', template)
    return list(zip(parts[::2], [*parts[1::2], ""], strict=True))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_ollama_sends_what_the_chat_template_writes(name: str) -> None:
    template = TEMPLATES[name]
    go = pieces_of(template).go_template()
    assert shown_by_ollama(go, ONE) == template.render(ONE)


@pytest.mark.parametrize("name", ["chatml", "llama3", "zephyr", "braces"])
def test_it_does_so_for_a_conversation(name: str) -> None:
    template = TEMPLATES[name]
    found = pieces_of(template)
    assert shown_by_ollama(found.go_template(), TWO) == template.render(TWO)
    assert found.render(TWO) == template.render(TWO)
    without_system = TWO[1:]
    if name in ("llama3", "zephyr"):  # the others bring a system message of their own
        shown = shown_by_ollama(found.go_template(), without_system)
        assert shown == template.render(without_system)


def test_a_conversation_that_go_templates_can_not_say() -> None:
    template = ChatTemplate(THINKER, {}, ("<|im_end|>",), adds_bos=False)
    found = pieces_of(template)
    assert found.render(ONE) == template.render(ONE)
    assert found.render(TWO) != template.render(TWO)


def test_a_bos_token_is_left_to_ollama() -> None:
    assert "<|bos|>" not in pieces_of(TEMPLATES["llama3"]).go_template()
    assert pieces_of(TEMPLATES["chatml"]).go_template().count("<|im_start|>") == 3


MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {% if loop.last and system is defined %}{{ system }}\n\n"
    "{% endif %}{{ m['content'] }}[/INST]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
LAST_WORDS = CHATML.replace(
    "<|im_start|>assistant\n", "<|im_start|>assistant\n({{ messages[-1]['content'] }})"
)


def test_a_system_message_before_the_last_turn_leaves_no_mark() -> None:
    template = ChatTemplate(MISTRAL, {}, ("</s>",), adds_bos=False)
    found = pieces_of(template)
    go = found.go_template()
    assert "@@" not in go
    assert shown_by_ollama(go, ONE) == template.render(ONE)
    assert go.endswith("{{ .Response }}</s>")


@pytest.mark.parametrize(
    "jinja",
    [
        LAST_WORDS,
        CHATML.replace("{{ m['content'] }}", "{{ m['content'] | tojson }}"),
        CHATML.replace("{{ m['content'] }}", "{{ m['content'] | replace('\n', ' ') }}"),
        CHATML.replace("{{ m['content'] }}", "{{ m['content'] | e }}"),
    ],
)
def test_a_template_that_rewrites_what_is_said_is_refused(jinja: str) -> None:
    with pytest.raises(ModelError, match="Ollama's template language can't say"):
        pieces_of(ChatTemplate(jinja, {}, ("<|im_end|>",), adds_bos=False))


def test_quotes_of_a_template_do_not_end_the_modelfiles_text() -> None:
    quoting = 'x"' + CHATML.replace("<|im_start|>", '"""<|im_start|>')
    template = ChatTemplate(quoting, {}, ('<|im_end|>\n"',), adds_bos=False)
    found = pieces_of(template)
    text = modelfile("x", found, "Sort it.", [], {})
    held = re.findall(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[0]
    assert held == found.go_template()
    assert '"' not in held.replace('{{ `"` }}', "")
    assert shown_by_ollama(held, ONE) == template.render(ONE)


def test_a_template_that_loses_the_system_message() -> None:
    deaf = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="leaves out the system message"):
        pieces_of(ChatTemplate(deaf, {}, ("</s>",), adds_bos=False))
    strict = "{{ raise_exception('no system messages') }}"
    with pytest.raises(ModelError, match="no system messages"):
        pieces_of(ChatTemplate(strict, {}, ("</s>",), adds_bos=False))


def test_the_modelfile() -> None:
    text = modelfile(
        "tiny-F16.gguf",
        Pieces("<s>", "</s>", "<u>", "<a>", "</a>"),
        'Sort "it"\ninto two.',
        ["</a>", "</s>"],
        {"temperature": 0, "num_ctx": 2048},
    )
    assert text == (
        "FROM ./tiny-F16.gguf\n"
        'TEMPLATE """{{ if .System }}<s>{{ .System }}</s>{{ end }}'
        '<u>{{ .Prompt }}<a>{{ .Response }}</a>"""\n'
        'SYSTEM """Sort "it"\ninto two."""\n'
        "PARAMETER temperature 0\nPARAMETER num_ctx 2048\n"
        'PARAMETER stop "</a>"\nPARAMETER stop "</s>"\n'
    )
    with pytest.raises(InputError, match="which a Modelfile can't hold"):
        modelfile("x", Pieces("", "", "", "", ""), 'a """ b', [], {})


@pytest.mark.parametrize(("longest", "size"), [(256, 2048), (3000, 4096), (7000, 8000)])
def test_the_context_holds_a_row_and_an_answer(longest: int, size: int) -> None:
    assert context_length(longest, 256, 8000) == size


def test_an_export_to_ollama(llama: TrainedRun) -> None:
    done = export(llama.config(export_tolerance=100), llama.run, to="ollama")
    assert done.path == llama.run.root / "ollama" / "Modelfile"
    text = done.path.read_text(encoding="utf-8")
    assert text.startswith("FROM ./tiny-F16.gguf\n")
    assert (done.path.parent / "tiny-F16.gguf").is_file()
    for line in ("PARAMETER temperature 0", "PARAMETER num_ctx 512", "PARAMETER num_predict 8",
                 "PARAMETER repeat_penalty 1", 'PARAMETER stop "<|im_end|>"'):  # fmt: skip
        assert line in text.splitlines()
    assert f'SYSTEM """{llama.dataset.manifest.instruction}"""' in text
