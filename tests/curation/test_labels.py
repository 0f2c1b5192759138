"""Reading labels: nothing that makes a difference is dropped, nothing usual is in the way."""

from __future__ import annotations

import pytest

from nanodistill.curation.labels import find_labels, listed_labels, match_label
from nanodistill.types import Seed

QUEUES = ("billing", "bug", "account", "account closed", "not spam", "spam")


FORMS = (
    *("{}", "**{}**", "{}.", '"{}"', "`{}`", "({})", "Answer: {}", "**Answer:** {}"),
    *("The answer is {}.", "\\boxed{{{}}}", '{{"label": "{}"}}', "<answer>{}</answer>"),
    "{}\n\nReason: it says so.",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "labels",
    [
        ("-1", "0", "1"),
        ("C", "C++", "C#", "Java"),
        ("A", "A-", "A+", "B", "A*"),
        ("#1", "#2", "1", "2"),
        ("👍", "👎", "😐"),
        ("1.5", "15", "150"),
        ("billing", "non-billing", "not billing"),
        ("N/A", "A", "N"),
        ("yes", "no", "yes!", "no problem"),
        ("<", ">", "=", "<="),
        (".net", "net", "@home", "home"),
        ("x²", "x2"),
        ("¬p", "p"),
        ("007", "7"),
        ("5%", "5"),
        ("positive", "very positive"),
        ("US", "us"),
        ("是", "不是"),
        ("نعم", "لا"),
        ("\u0131s\u0131", "isi"),
        ("true", "false"),
        ("Don't know", "Know"),
    ],
    ids=lambda labels: "|".join(labels),
)
def test_what_makes_a_difference_stays(labels: tuple[str, ...], form: str) -> None:
    assert [match_label(form.format(label), labels) for label in labels] == list(labels)


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("-1", ("0", "1")),
        ("**-1**", ("0", "1")),
        ("C++", ("C", "Java")),
        ("A-", ("A", "B")),
        ("A*", ("A", "B")),
        ("#2", ("#1", "2")),
        ("👎", ("👍", "😐")),
        ("15", ("1.5", "2")),
        ("1.5", ("15", "2")),
        ("non-billing", ("billing", "bug")),
        ("not spam", ("spam", "ham")),
        ("It is not spam.", ("spam", "ham")),
        ("This message is not spam.", ("spam", "ham")),
        ("I would not classify this as spam.", ("spam", "ham")),
        ("Answer: not spam", ("spam", "ham")),
        ("spam: false", ("spam", "ham")),
        ("spam: 0.1, ham: 0.9", ("spam", "ham")),
        ("spam (not)", ("spam", "ham")),
        ("no problem", ("yes", "no")),
        ("A", ("N/A", "B")),
        ("Us", ("US", "us")),
        ("不是", ("是", "否")),
        ("", ("a", "b")),
        ("...", ("👍", "👎")),
    ],
)
def test_another_answer_is_no_label(answer: str, labels: tuple[str, ...]) -> None:
    assert match_label(answer, labels) is None


@pytest.mark.parametrize(
    "answer",
    [
        "billing",
        " BILLING. ",
        "bil\u200bling",
        "\ufeffbilling",
        "**billing**",
        "***Billing***",
        "`billing`",
        '"billing"',
        "“billing”",
        "'billing'.",
        "[billing]",
        "**Answer:** billing",
        "**Answer**: billing",
        "Answer: **billing**",
        "**Answer: billing**",
        "Final answer: billing",
        "The final answer is: billing.",
        "Label: billing.",
        "label = billing",
        "The category is **billing**.",
        "So the answer is billing.",
        "It's billing.",
        "This message is billing.",
        "I would classify this as **billing**.",
        "**Answer:**\n\nbilling",
        "### Answer\nbilling",
        "The answer is **billing** because they were charged.",
        "Category: billing\nReason: they were charged.",
        "Reason: they were charged.\nCategory: billing",
        "Intent: billing",
        "Antwort: billing",
        "答案\uff1abilling",
        '{"label": "billing"}',
        '{"label": "billing", "reason": "a bug? no"}',
        '```json\n{"category": "billing"}\n```',
        "```\nbilling\n```",
        '["billing"]',
        "\\boxed{billing}",
        "$\\boxed{\\text{billing}}$",
        "It says money, so no bug. \\boxed{billing}",
        "<answer>billing</answer>",
        "<label> billing </label>",
        "First I thought bug.\n<answer>billing</answer>",
        "1. billing",
        "- billing",
        "> billing",
        "# billing",
        "billing (because the customer was charged twice)",
        "billing – the customer was charged twice",
        "billing - the customer was charged twice",
        "billing: the customer was charged twice",
        "billing because they were charged twice",
        "billing. The customer was charged twice.",
        "Answer: billing (they were charged)",
        "billing\n\nReason: the customer was charged twice.",
        "**billing**\n\nThe customer was charged twice.",
        "The customer was charged twice.\n\nAnswer: billing",
        "Thinking of money here.\n**Final answer:** billing",
    ],
)
def test_usual_wordings(answer: str) -> None:
    assert match_label(answer, QUEUES) == "billing"


@pytest.mark.parametrize(
    "answer",
    [
        "billing or bug",
        "billing, bug",
        "billing / bug",
        "billing (or bug)",
        "billing (maybe bug or spam)",
        "billing\nbug",
        "billing\nAnswer: bug",
        "- billing\n- bug",
        '["billing", "bug"]',
        "billing – or rather a bug",
        "\\boxed{billing} or \\boxed{bug}",
        "account (it was closed)",
        "a bug",
        "refund",
        "The labels are billing and bug.",
    ],
)
def test_several_labels_are_none(answer: str) -> None:
    assert match_label(answer, QUEUES) is None


@pytest.mark.parametrize(
    ("answer", "label", "labels"),
    [
        ("account closed", "account closed", QUEUES),
        ("Account_Closed", "account closed", QUEUES),
        ("NOT SPAM", "not spam", QUEUES),
        ("not-spam", "not spam", QUEUES),
        ("\u22121", "-1", ("-1", "0", "1")),
        ("–1", "-1", ("-1", "0", "1")),
        ("+1", "1", ("-1", "0", "1")),
        ("1", "+1", ("-1", "0", "+1")),
        ("1.0", "1", ("0", "1")),
        ('{"label": -1}', "-1", ("-1", "1")),
        ('{"spam": true}', "true", ("true", "false")),
        ("True", "true", ("true", "false")),
        ("cafe\u0301", "café", ("café", "bar")),
        ("no\u00a0 reply", "no reply", ("no reply", "reply")),
        ("ＢＵＧ", "bug", QUEUES),  # noqa: RUF001
        ("İADE", "iade", ("iade", "fatura")),
        ("ISI", "\u0131s\u0131", ("\u0131s\u0131", "su")),
        ("STRASSE", "straße", ("straße", "weg")),
        ("❤", "❤️", ("❤️", "👎")),
        ("账单。", "账单", ("账单", "故障")),
        ("n/a", "N/A", ("N/A", "A")),
        ("yes (there is no problem)", "yes", ("yes", "no")),
        ("B. The other one", "B", ("A", "B", "C")),
        ("line one\nline two", "line one\nline two", ("line one\nline two", "other")),
        ('say "hi"', 'say "hi"', ('say "hi"', "bye")),
    ],
)
def test_spellings_of_one_label(answer: str, label: str, labels: tuple[str, ...]) -> None:
    assert match_label(answer, labels) == label


def seeds_of(*outputs: str) -> list[Seed]:
    return [Seed(f"input {n}", output) for n, output in enumerate(outputs)]


def test_spellings_in_the_seeds_are_one_label_in_the_commonest() -> None:
    outputs = [
        "bug",
        "Billing",
        "billing",
        "billing\u200b",
        "BUG",
        "bug",
        "caf\u00e9",
        "cafe\u0301",
    ]
    assert find_labels(seeds_of(*outputs)) == ("bug", "billing", "café")


def test_listed_labels_may_differ_in_case_and_not_in_what_nobody_sees() -> None:
    assert listed_labels(["US", "us", "US ", "\ufeffus", "a\u00a0b", "a b"]) == (
        "US",
        "us",
        "a\u00a0b",
    )


@pytest.mark.parametrize("piece", ["x" + " " * 100, "<answer>", "(", "- ", "**", "billing, ", "[["])
def test_an_endless_answer_is_none(piece: str) -> None:
    """In no time: a pattern that tried every way to read it would take minutes."""
    assert match_label(piece * 5000, QUEUES) is None
