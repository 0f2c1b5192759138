"""The forms in which people keep examples: chats of several makers, and Alpaca's three columns.

`plain_fields` brings a row of a known form to `input` and `output`, or to `messages`; a row of
another form is left as it is. `chat_texts` takes a chat apart. Nothing is guessed: a chat of
several turns, a tool call, an image, or a turn marked as not to be trained on is named as a
problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanodistill.data_files import Record, as_text, invalid_text, json_name
from nanodistill.errors import Problem

CHATS = ("messages", "conversations", "conversation")
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
ALPACA = {"instruction", "output"}
OF_A_MESSAGE = frozenset({"role", "content", "from", "value", "weight", "name"})

Texts = tuple[dict[str, str], list[Problem]]


def plain_records(records: Sequence[Record]) -> tuple[list[Record], str | None]:
    """Alpaca's rows as ours, and what there is to say about it.

    Alpaca keeps the task in `instruction` and its object in `input`, which may be empty. Where
    the instruction is the same in each row it belongs into the run's `instruction`.
    """
    if not records or not all(record.fields.keys() >= ALPACA for record in records):
        return list(records), None
    told = Counter(str(record.fields["instruction"]) for record in records)
    has_inputs = any(_has_input(record) for record in records)
    if has_inputs and len(told) == 1:
        return list(records), None
    plain = [Record(record.where, _joined(record.fields)) for record in records]
    what = "`instruction` and `input` together" if has_inputs else "`instruction`"
    return plain, f"reads as Alpaca's form: {what} became the input of each row"


def _has_input(record: Record) -> bool:
    return bool(str(record.fields.get("input") or "").strip())


def _joined(fields: Mapping[str, Any]) -> dict[str, Any]:
    parts = [part for name in ("instruction", "input") if (part := fields.get(name))]
    rest = {name: value for name, value in fields.items() if name != "instruction"}
    return rest | {"input": "\n\n".join(map(as_text, parts))}


def chat_of(fields: Mapping[str, Any]) -> Any:
    """The chat of a row that has one and no `input` and `output`; None otherwise."""
    if {"input", "output"} & fields.keys():
        return None
    return next((fields[name] for name in CHATS if name in fields), None)


def chat_texts(messages: Any) -> Texts:
    """Input and output of a chat: one question and one answer, perhaps after a system message."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        what = f"should be a list of objects with role and content, not {json_name(messages)}"
        return {}, [Problem("messages", what)]
    roles = [role_of(message) for message in messages]
    if "tool" in roles or any(calls_a_tool(message) for message in messages):
        return {}, [Problem("messages", "holds a tool call, which can't be trained on")]
    if roles.count("user") > 1 and "assistant" in roles:
        what = f"has {roles.count('user')} turns; a row has one question and one answer: cut it"
        return {}, [Problem("messages", what)]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        said = ", ".join(roles) or "none"
        what = f"should be a user's and an assistant's, after a system message or not; are {said}"
        return {}, [Problem("messages", what)]
    if messages[-1].get("weight") == 0:
        what = "has weight 0, which means not to be trained on: leave the row out"
        return {}, [Problem("messages: assistant", what)]
    return _texts_of(messages)


def _texts_of(messages: Sequence[dict[str, Any]]) -> Texts:
    texts: dict[str, str] = {}
    problems = []
    for name, message in zip(("output", "input"), reversed(messages), strict=False):
        text, wrong = content_of(message)
        if wrong is None:
            texts[name] = text
        else:
            problems.append(Problem(f"messages: {role_of(message)}", wrong))
    return texts, problems


def role_of(message: Mapping[str, Any]) -> str:
    role = str(message.get("role", message.get("from")))
    return ROLES.get(role.lower(), role)


def calls_a_tool(message: Mapping[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def system_text(messages: Iterable[Mapping[str, Any]]) -> str | None:
    """What a chat's system message says; None without one."""
    first = next(iter(messages), {})
    return content_of(first)[0] if role_of(first) in ("system", "developer") else None


def unread_in(messages: Iterable[Mapping[str, Any]]) -> set[str]:
    """Fields of messages that nobody reads."""
    return {name for message in messages for name, value in message.items() if value} - OF_A_MESSAGE


def content_of(message: Mapping[str, Any]) -> tuple[str, str | None]:
    """A message's text, and what is wrong with it: its text parts are joined, others named."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        if not content:
            return "", "is empty"
        for part in content:
            if wrong := _no_text_part(part):
                return "", wrong
        content = "".join(part["text"] for part in content)
    text = "" if content is None else content if isinstance(content, str) else None
    if text is None:
        try:
            text = as_text(content)
        except ValueError as bad:
            return "", str(bad)
    return text, invalid_text(text)


def _no_text_part(part: Any) -> str | None:
    """Why a content part is no text, if it isn't."""
    if not isinstance(part, dict):
        return f"holds {json_name(part)} among its parts"
    kind = part.get("type")
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return None
    return f"holds a part of type '{kind}'; only text can be read"
