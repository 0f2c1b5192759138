"""Closed sets of outputs: finding one in the seeds, and reading a label out of an answer.

Outputs that differ in case, white space, Unicode form or zero-width characters are spellings of
one label. Labels that the user lists are taken as listed: "US" and "us" are two.

An answer is a label where nothing but the usual wording is round it: "**Answer:** billing",
`{"label": "billing"}`, `\\boxed{billing}`, "billing (because …)". Where it names several, or where
a longer label may be meant, it is none: a row lost is better than a wrong one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanodistill.curation.filter_pipeline import Rejected
from nanodistill.types import Seed, Trace, canonical_text
from nanodistill.values import (
    QUOTES,
    SENTENCE_ENDS,
    LabelSet,
    as_value,
    folded,
    label_set,
    unwrapped,
    visible,
)

LONGEST_LABEL = 40
MOST_WORDS = 5
SEEDS_PER_LABEL = 2
"""Outputs are taken for labels if they are short (40 characters, 5 words) and come twice on
average."""

WRAPPERS = (
    *QUOTES,
    *(("(", ")"), ("[", "]"), ("<", ">"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")),
    *(("（", "）"), ("【", "】")),  # noqa: RUF001
)
NOUNS = (
    "answer|output|label|category|class|classification|result|prediction|verdict|intent|sentiment|"
    "topic|type|queue|tag|decision|choice|response|rating|score|antwort|kategorie|klasse|ergebnis|"
    "réponse|reponse|catégorie|categorie|étiquette|respuesta|categoría|categoria|etiqueta|clase|"
    "resposta|risposta|classe|ответ|категория|答案|回答|答え|标签|分类|类别|ラベル|カテゴリ"
)
LEAD = re.compile(
    rf"^(?:(?:so|thus|hence|therefore|ok|okay|sure)[,:]?\s+)?(?:(?:the|my|this|its|your)\s+)?"
    rf"(?:(?:final|correct|right|best|most likely|predicted|chosen|assigned)\s+)?(?:{NOUNS})"
    r"(?:\s*(?:\bis\b|[:：=]|->|→))+\s*(?=\S)",  # noqa: RUF001
    re.I,
)
BARE_LEAD = re.compile(rf"^(?:(?:final|correct)\s+)?(?:{NOUNS})\s+(?=\S)", re.I)
PRONOUN = re.compile(
    r"^(?:(?:it|this|that|this \w+|the \w+)(?:\s+is|['\u2019]s)(?:\s+classified\s+as)?"
    r"|(?:I(?:\s+would|['\u2019]d)?\s+)?(?:classify|label|categori[sz]e|tag|mark)\s+(?:it|this|the)"
    r"(?:\s+\w+)?\s+as)\s+(?=\S)",
    re.I,
)
BULLET = re.compile(r"^(?:[-*+•–]\s+(?!\d)|#{1,6}\s+|>\s+|\d{1,2}[.)]\s+)(?=\S)")
FENCE = re.compile(r"^(```+|~~~+)[\w-]*[ \t]*\n(.*?)\n?[ \t]*\1\s*$", re.S)
INLINE_FENCE = re.compile(r"^```(?:\w+\s)?\s*(.+?)\s*```$", re.S)
TAGGED = re.compile(r"^<([\w-]+)>\s*(.*?)\s*</\1>$", re.S)
LATEX = re.compile(r"^\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{(.*)\}$", re.S)
SHOWN = re.compile(
    r"\\boxed\s*\{(?:\\text\s*\{)?([^{}]{0,500})\}?\}|<(?:final_)?(?:answer|label|output)>(.{0,500}?)"
    r"</(?:final_)?(?:answer|label|output)>",
    re.S | re.I,
)
"""How an answer is set off from the reasoning before it."""
EXPLAINED = (
    re.compile(r"^(?P<label>.{1,200}?)\s*[(（\[](?P<why>.+)[)）\]]\.?$", re.S),  # noqa: RUF001
    re.compile(r"^(?P<label>.{1,200}?)\s*(?P<mark>[—–]|\s-{1,2}\s)\s*(?P<why>\S.*)$", re.S),
    re.compile(r"^(?P<label>.{1,200}?)\s*(?P<mark>[:：])\s*(?P<why>\S.*)$", re.S),  # noqa: RUF001
    re.compile(r"^(?P<label>.{1,200}?)(?:[.;!]\s+|[。；]\s*)(?P<why>\S.*)$", re.S),  # noqa: RUF001
    re.compile(
        r"^(?P<label>.{1,200}?),?\s+(?P<why>(?:because|since|as the|as it|due to|based on|"
        r"given that|weil|denn|parce que|car|porque)\b.+)$",
        re.S | re.I,
    ),
)
"""A label with its explanation behind it, on one line. A label's length is bounded, for an answer
may be of any length and hold anything."""
DENIED = re.compile(
    r"^(?:not\b|no\b|false\b|none\b|un\w*likely|incorrect|wrong|isn|doubtful|maybe\s+not|[-+]?[\d.]"
    r"|nicht\b|nein\b|non\b|pas\b)|\b(?:n't|not)\s+(?:it|this|that|the (?:answer|label))\b",
    re.I,
)
OFFERED = re.compile(r"(?:^|\s)(?:or|and|oder|und|ou|et|[/|&])\s+(?P<other>.+)$", re.I | re.S)
SHORT = 2
"""Labels of so many letters turn up in any explanation: "no", "a"."""


def find_labels(seeds: Sequence[Seed]) -> tuple[str, ...]:
    """The seeds' outputs, in order of appearance, where they are a closed set; else nothing.

    They are one where they are short and come back: at least two of them, and on
    average each in two or more seeds. Of several spellings the commonest stands for all.
    """
    spellings = spellings_of(seed.output for seed in seeds)
    if len(spellings) < 2 or len(spellings) * SEEDS_PER_LABEL > len(seeds):
        return ()
    labels = tuple(common(counts) for counts in spellings)
    return labels if all(map(_is_short, labels)) else ()


def spellings_of(outputs: Iterable[str]) -> list[Counter[str]]:
    """For each label its spellings and how often they come, both in order of appearance."""
    found: dict[str, Counter[str]] = {}
    for output in outputs:
        found.setdefault(folded(output), Counter())[canonical_text(output)] += 1
    return list(found.values())


def common(spellings: Counter[str]) -> str:
    """The commonest spelling, the first of equals; what nobody sees makes no spelling."""
    seen: Counter[str] = Counter()
    for spelling, n in spellings.items():
        seen[visible(spelling)] += n
    commonest = seen.most_common(1)[0][0]
    return next(name for name, _ in spellings.most_common() if visible(name) == commonest)


def listed_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels that the user lists, each once. They may differ in case; not in what nobody sees."""
    once: dict[str, str] = {}
    for label in labels:
        once.setdefault(visible(label), label)
    return tuple(once.values())


def spellings_told(labels: tuple[str, ...], spelled: Iterable[str]) -> str:
    """A sentence on each label that comes in several spellings; "" where none does."""
    found: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for text in spelled:
        if (label := label_set(labels).find(text)) is not None:
            found[label][text] += 1
    told = [
        f"{', '.join(f'{_quoted(spelling)} ({n})' for spelling, n in counts.most_common())} "
        f"count as one label, {label!r}."
        for label, counts in found.items()
        if len(counts) > 1
    ]
    way_out = "To keep spellings apart that differ in case, list them all under `labels`."
    return " ".join([*told, way_out]) if told else ""


def _quoted(spelling: str) -> str:
    """A spelling in quotes, with escapes for what nobody would see."""
    return repr(spelling) if spelling == visible(spelling) else ascii(spelling)


def _is_short(output: str) -> bool:
    is_json = output.startswith(("{", "["))
    return len(output) <= LONGEST_LABEL and len(output.split()) <= MOST_WORDS and not is_json


def match_label(answer: str, labels: Iterable[str]) -> str | None:
    """The label that `answer` gives in any usual wording; None if it gives none, or several.

    >>> match_label("**Answer:** Billing.", ["billing", "bug"])
    'billing'
    >>> match_label("billing or bug", ["billing", "bug"]) is None
    True
    """
    known = label_set(tuple(labels))
    if (whole := known.find(answer)) is not None:
        return whole
    shown = {_named(known, found[1] or found[2] or "") for found in SHOWN.finditer(answer)}
    if shown:
        return shown.pop() if len(shown) == 1 else None
    if (alone := _named(known, answer)) is not None:
        return alone
    return _of_lines(known, answer) or _explained(known, " ".join(answer.split()))


def _named(known: LabelSet, text: str, depth: int = 6) -> str | None:
    """The label that `text` is once what is round it comes off, one thing after the other."""
    for bare in unwrapped(text.strip(), WRAPPERS):
        if (label := known.find(bare)) is not None:
            return label
        if depth and (inner := _inside(bare)) is not None:
            found = _named(known, inner, depth - 1)
            if found is not None:
                return found
    return None


def _inside(text: str) -> str | None:
    """What is in a fence, a tag, a box or an object of JSON, or after a lead or a bullet."""
    for form in (FENCE, INLINE_FENCE, TAGGED, LATEX):
        if found := form.match(text):
            return found[found.re.groups]
    value = as_value(text, otherwise=None)
    if isinstance(value, dict | list):
        return _field(value)
    for before in (LEAD, PRONOUN, BULLET, BARE_LEAD):
        if found := before.match(_without_emphasis(text)):
            return _without_emphasis(text)[found.end() :]
    return None


EMPHASIZED = re.compile(r"^(\*\*|__|[*_`])(?P<inside>[^*_`]+)\1(?P<after>.+)$", re.S)


def _without_emphasis(text: str) -> str:
    """A beginning that is set in bold, such as **Answer:**, as it is without."""
    found = EMPHASIZED.match(text)
    return f"{found['inside']}{found['after']}" if found else text


def _field(value: Any) -> str | None:
    """The only item, or the one field that is called what an answer is called."""
    if isinstance(value, list):
        return _text(value[0]) if len(value) == 1 else None
    if len(value) == 1:
        return _text(next(iter(value.values())))
    called = [item for name, item in value.items() if re.fullmatch(NOUNS, name, re.I)]
    return _text(called[0]) if len(called) == 1 else None


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping | list) or value is None:
        return json.dumps(value) if value else None
    return value if isinstance(value, str) else json.dumps(value)


def _of_lines(known: LabelSet, answer: str) -> str | None:
    """The label of the first line, explained below it, or of a last line that says so."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(lines) < 2:
        return None
    read = [(line, _named(known, line)) for line in lines]
    labels = {label for _, label in read if label is not None}
    if len(labels) != 1:
        return None
    (label,) = labels
    if read[0][1] == label:
        return None if _doubtful(known, label, " ".join(lines[1:])) else label
    last = _without_emphasis(lines[-1])
    return label if read[-1][1] == label and LEAD.match(last) else None


def _explained(known: LabelSet, text: str) -> str | None:
    """The label at the beginning of `text`, where all that follows explains it."""
    for start in _starts(text.strip()):
        for form in EXPLAINED:
            found = form.match(start)
            label = _named(known, found["label"]) if found else None
            if found is None or label is None:
                continue
            marked = "mark" in found.re.groupindex
            too_short = marked and len(found["why"].split()) < 2 and found["why"].isascii()
            if too_short or _doubtful(known, label, found["why"]):
                return None
            return label
    return None


def _starts(text: str) -> Iterator[str]:
    """`text`, and what follows a lead."""
    yield text
    plain = _without_emphasis(text)
    for before in (LEAD, PRONOUN, BULLET):
        if found := before.match(plain):
            yield plain[found.end() :]


def _doubtful(known: LabelSet, label: str, why: str) -> bool:
    """Whether what stands behind a label denies it, or may name another one."""
    if DENIED.search(why.strip()) or known.find(why) not in (None, label):
        return True
    offered = OFFERED.search(why)
    if offered and _starts_with_other(known, label, offered["other"]):
        return True
    whole = f" {' '.join(_tokens(f'{label} {why}'))} "
    own = set(_tokens(label))
    for other in known.labels:
        if other == label:
            continue
        tokens = _tokens(other)
        if own < set(tokens) <= set(whole.split()):
            return True  # "account (it was closed)", where "account closed" is a label too
        named = f" {' '.join(tokens)} " in f" {' '.join(_tokens(why))} "
        if named and len(other) > SHORT and not set(tokens) <= own:
            return True
    return False


def _starts_with_other(known: LabelSet, label: str, text: str) -> bool:
    words = text.split()
    return any(
        _named(known, " ".join(words[:end])) not in (None, label)
        for end in range(1, min(len(words), MOST_WORDS) + 1)
    )


TOKEN = re.compile(r"[^\W_]+|[^\w\s]", re.UNICODE)


def _tokens(text: str) -> list[str]:
    return [token for token in TOKEN.findall(folded(text)) if token not in SENTENCE_ENDS]


@dataclass(frozen=True)
class LabelInSet:
    """Refuses outputs outside the closed set, and writes the others as the set does.

    A seed's output stays as the user wrote it.
    """

    labels: tuple[str, ...]
    name: str = "label in set"

    def __call__(self, row: Trace) -> Trace | Rejected:
        label = match_label(row.output, self.labels)
        if label is None:
            return Rejected(
                "not_a_label", f"'{row.output[:80]}' is none of {', '.join(self.labels)}"
            )
        return row if row.source == "seed" else replace(row, output=label)
