"""The quickstart's path: inputs for labels by chat, curation, split, version."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from nanodistill.providers.python_function import ScriptedProvider
from nanodistill.types import Request
from synthesis.runs import CHAT, Notices, config_in, notes_of, rejected_of, rows_of, run
from synthesis.writer import LABELS, SEEDS, Writer, right_label

TEST_MESSAGE = "Kindly tell me whether the courier left my lamp with the neighbour upstairs or not."


def test_rows_for_every_label_are_kept_and_written(tmp_path: Path) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, **CHAT), teacher)
    rows = rows_of(result)
    assert result.wanted == result.kept == len(rows) == 72
    assert Counter(row["output"] for row in rows) == dict.fromkeys(LABELS, 18)
    assert Counter(row["source"] for row in rows) == {"seed": 12, "synthetic": 60}
    assert all(right_label(row["input"]) == row["output"] for row in rows)
    assert all(row["thinking"] is None for row in rows)
    assert teacher.stages() == {"generate": 60}
    assert len(rows_of(result, "valid")) == round(72 * 0.2)


def test_a_call_shows_seeds_of_its_label_as_earlier_turns(tmp_path: Path) -> None:
    teacher = Writer()
    run(config_in(tmp_path, **CHAT, few_shot=2), teacher)
    for request in teacher.asked:
        roles = [turn["role"] for turn in request.messages]
        assert roles == [*["user", "assistant"] * 2, "user"]
        orders = {turn["content"] for turn in request.messages if turn["role"] == "user"}
        assert len(orders) == 1
        shown = [turn["content"] for turn in request.messages if turn["role"] == "assistant"]
        label = orders.pop().removeprefix("Write a new example of ").rstrip(".")
        assert all({"input": text, "output": label} in SEEDS for text in shown)
        assert request.params["stop"] == ["\n"]
    assert max(request.ordinal for request in teacher.asked) > 0


def test_the_same_command_again_asks_nothing_and_finds_its_version(tmp_path: Path) -> None:
    config = config_in(tmp_path, **CHAT)
    first = run(config, Writer())
    teacher = Writer()
    again = run(config, teacher)
    assert teacher.asked == []
    assert again.calls == {"made": 0, "reused": 60, "retried": 0}
    assert first.dataset is not None
    assert again.dataset is not None
    assert again.dataset.path == first.dataset.path


def test_a_larger_factor_asks_for_the_rest_alone(tmp_path: Path) -> None:
    run(config_in(tmp_path, **CHAT), Writer())
    teacher = Writer()
    result = run(config_in(tmp_path, **CHAT, augment_factor=8), teacher)
    assert result.kept == 96
    assert len(teacher.asked) == 24
    assert result.calls["reused"] == 60


def test_what_repeats_or_refuses_is_counted_and_asked_for_again(tmp_path: Path) -> None:
    teacher = Writer(repeats=0.3, refuses=0.1)
    result = run(config_in(tmp_path, **CHAT), teacher)
    assert result.kept == 72
    assert result.rejected["duplicate"] >= 10
    assert result.failed == {"refusal": len(teacher.asked) - 60 - result.rejected["duplicate"]}
    assert all("the same as" in row["detail"] for row in rejected_of(result, "duplicate"))
    assert len({row["input"] for row in rows_of(result)}) == 72


def test_a_leaked_test_message_reaches_no_training_row(tmp_path: Path) -> None:
    teacher = Writer(leaks=TEST_MESSAGE.upper() + " Thanks!", leak_share=0.2)
    test = [{"input": TEST_MESSAGE, "output": "shipping"}]
    result = run(config_in(tmp_path, **CHAT, test=test), teacher)
    assert result.rejected["contaminated"] >= 5
    assert [row["input"] for row in rows_of(result, "test")] == [TEST_MESSAGE]
    assert not any("lamp" in row["input"].lower() for row in rows_of(result))
    assert "lamp" not in teacher.prompts()


def test_with_check_labels_the_teacher_has_to_confirm(tmp_path: Path) -> None:
    teacher = Writer(mislabels=0.3)
    result = run(config_in(tmp_path, **CHAT, check_labels=True), teacher)
    assert result.kept == 72
    assert result.rejected["label_disagreement"] >= 10
    assert all(right_label(row["input"]) == row["output"] for row in rows_of(result))
    assert teacher.stages()["check"] == teacher.stages()["generate"]
    assert result.dataset is not None
    found = result.dataset.manifest.recheck
    assert found is not None
    assert (found.agreed, found.of) == (60, 60 + result.rejected["label_disagreement"])
    unchecked = run(config_in(tmp_path / "unchecked", **CHAT), teacher)
    assert unchecked.dataset is not None
    assert unchecked.dataset.manifest.recheck is None
    assert "recheck is off" in notes_of(unchecked)


def test_without_coverage_a_turn_is_a_row_with_the_label_that_the_teacher_gave(
    tmp_path: Path,
) -> None:
    teacher = Writer(mislabels=0.3)
    result = run(config_in(tmp_path, **CHAT, coverage=False), teacher)
    assert result.kept == 72
    assert {row["cell"] for row in rows_of(result)} == {""}
    assert any(right_label(row["input"]) != row["output"] for row in rows_of(result))
    user, assistant, *_ = teacher.asked[0].messages
    assert user["content"].startswith("Write a new example.\nIts output is one of: billing, ")
    assert assistant["content"].startswith("Input: ")
    assert assistant["content"].splitlines()[1].removeprefix("Output: ") in LABELS
    assert "stop" in teacher.asked[0].params


def test_a_teacher_that_says_one_thing_only_ends_the_run_early(tmp_path: Path) -> None:
    teacher = Writer(repeats=1.0)
    result = run(config_in(tmp_path, **CHAT, min_rows=4), teacher)
    assert result.stopped_because == "saturated"
    assert result.kept == 16
    assert len(teacher.asked) < 200


def test_an_order_that_comes_back_is_no_input(tmp_path: Path) -> None:
    writer = Writer()

    def echo(request: Request) -> Any:
        said = request.messages[-1]["content"].removeprefix("Write ")
        return said if int(request.key, 16) % 2 else writer(request)

    config = config_in(tmp_path, **CHAT, max_rounds=4)
    result = run(config, ScriptedProvider(echo))
    assert result.rejected["leak"] > 20
    assert not [row for row in rows_of(result) if "new example" in row["input"]]


def test_a_preview_pays_for_the_whole(tmp_path: Path) -> None:
    teacher = Writer(repeats=0.2)
    preview = run(config_in(tmp_path, **CHAT), teacher, limit=10)
    assert preview.dataset is None
    assert len(preview.preview) == 10
    asked_first = len(teacher.asked)
    assert asked_first < 20
    whole = run(config_in(tmp_path, **CHAT), teacher)
    keys = [request.key for request in teacher.asked]
    assert len(keys) == len(set(keys))
    assert whole.calls["reused"] == asked_first
    kept = {row["input"] for row in rows_of(whole)}
    assert {row.input for row in preview.preview} <= kept


def test_held_out_seeds_are_the_test_and_in_no_prompt(tmp_path: Path) -> None:
    teacher = Writer()
    result = run(config_in(tmp_path, **CHAT, holdout_seeds=4), teacher)
    test = rows_of(result, "test")
    assert Counter(row["output"] for row in test) == dict.fromkeys(LABELS, 1)
    for row in test:
        assert row["input"] not in teacher.prompts()
    assert not {row["input"] for row in test} & {row["input"] for row in rows_of(result)}


def test_it_says_what_it_will_ask_and_what_it_has(tmp_path: Path) -> None:
    heard = Notices()
    run(config_in(tmp_path, **CHAT), Writer(), on_event=heard)
    assert "First round of generation: 60 to ask, no price known." in heard.texts
    run(config_in(tmp_path, **CHAT, augment_factor=7), Writer(), on_event=heard)
    assert "First round of generation: 60 calls kept, 12 to ask, no price known." in heard.texts
