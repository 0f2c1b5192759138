"""From test rows to results.json, with real models in a real child."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation.conftest import TinyRun
from evaluation.tiny import TEMPLATE, make_adapter, make_dataset, make_model, some_rows
from nanodistill.errors import InputError, ModelError, RunLockedError
from nanodistill.evaluation import ExternalAnswer, ask, evaluate
from nanodistill.evaluation.eval_set import EvalSet, eval_set, shots
from nanodistill.evaluation.results import read_results
from nanodistill.evaluation.scorer import Scorer
from nanodistill.evaluation.worker import GeneratedAnswer, TaskPrompt
from nanodistill.events import Event, Notice, Table
from nanodistill.metrics.row_metrics import LabelAccuracy
from nanodistill.run_dir import RunFolder
from nanodistill.thinking import resolve_format
from nanodistill.types import Split, Trace


def test_an_evaluation_and_the_same_again(unevaluated: TinyRun) -> None:
    events: list[Event] = []
    first = evaluate(
        unevaluated.config(), unevaluated.dataset, unevaluated.run, on_event=events.append
    )
    assert (first.n, first.subject.split, first.subject.run) == (6, "test", "r1")
    assert list(first.models) == ["base", "base_few_shot", "student", "linear"]
    assert list(first.against) == ["base", "base_few_shot", "linear"]
    assert (first.generated, first.reused) == (18, 0)
    assert first.metric == "label"
    (table,) = [event for event in events if isinstance(event, Table)]
    assert [row[0] for row in table.rows][::2] == ["base", "student"]

    again = evaluate(unevaluated.config(), unevaluated.dataset, unevaluated.run)
    assert (again.generated, again.reused) == (0, 18)
    assert again.models == first.models
    assert again.against == first.against


def test_the_files_hold_all_of_it_and_no_path(tiny: TinyRun) -> None:
    result = evaluate(tiny.config(), tiny.dataset, tiny.run)
    folder = tiny.run.evaluation / "r1"
    assert result.folder == folder
    values = read_results(folder)
    assert values == json.loads(json.dumps(result.figures()))
    assert result.to_json()["results"] == str(folder / "results.json")
    assert set(values) >= {"n", "on", "models", "paired", "verdict", "dataset", "identities"}
    for model in ("base", "student"):
        assert set(values["models"][model]) >= {"metric", "value", "low", "high", "speed"}
    assert set(values["paired"]) >= {"diff", "low", "high", "p"}
    assert values["dataset"]["fingerprint"] == tiny.dataset.fingerprint
    assert str(tiny.root) not in (folder / "results.json").read_text()

    lines = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert len(lines) == 24
    golds = {row["id"]: (row["input"], row["output"]) for row in tiny.dataset.rows("test")}
    for line in lines:
        assert golds[line["id"]] == (line["input"], line["gold"])
        assert line["model"] == "linear" or line["score"] == 0
        assert line["model"] == "linear" or line["completion_tokens"] >= 1
    by_model = {(line["model"], line["id"]): line["prompt_tokens"] for line in lines}
    for id in golds:
        assert by_model["base", id] == by_model["student", id] < by_model["base_few_shot", id]


def test_another_training_run_asks_the_student_alone(tiny: TinyRun) -> None:
    evaluate(tiny.config(), tiny.dataset, tiny.run)
    tiny.trained("r2", seed=2)
    second = evaluate(tiny.config(), tiny.dataset, tiny.run)
    assert (second.subject.run, second.generated, second.reused) == ("r2", 6, 12)
    former = tiny.run.training / "r1" / "adapters"
    first = evaluate(tiny.config(), tiny.dataset, tiny.run, adapter=former)
    assert (first.subject.run, first.generated, first.reused) == ("r1", 0, 18)


def test_a_student_of_another_model_is_not_taken_for_this_ones(
    tiny: TinyRun, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match="no student trained on"):
        evaluate(tiny.config(student=str(other)), tiny.dataset, tiny.run)


def test_rows_that_were_trained_on_are_told(tiny: TinyRun) -> None:
    moved: list[tuple[Split, Trace]] = [
        ("test" if trace.source == "seed" else split, trace) for split, trace in some_rows()
    ]
    later = make_dataset(tiny.run, moved)
    events: list[Event] = []
    evaluate(tiny.config(), later, tiny.run, on_event=events.append)
    warnings = [e.text for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("4 of these 10 rows were among the student's training rows")


def test_an_unfinished_training_run_is_said_to_be_one(tiny: TinyRun) -> None:
    (tiny.run.training / "r1" / "result.json").unlink()
    events: list[Event] = []
    evaluate(tiny.config(), tiny.dataset, tiny.run, on_event=events.append)
    assert any(isinstance(e, Notice) and "r1 is unfinished" in e.text for e in events)
    (tiny.run.training / "r1" / "adapters" / "adapters.safetensors").unlink()
    with pytest.raises(InputError, match="r1 has not written an adapter"):
        evaluate(tiny.config(), tiny.dataset, tiny.run)


def test_another_model_in_the_students_place(tiny: TinyRun, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=5)
    result = evaluate(tiny.config(), tiny.dataset, tiny.run, model=str(other))
    assert re.fullmatch("other-[0-9a-f]{8}", result.subject.run)
    assert result.subject.student == "other"
    assert result.subject.identities["student"] != result.subject.identities["base"]


def test_an_adapter_from_elsewhere(tiny: TinyRun, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "mine", tiny.model, seed=9)
    result = evaluate(tiny.config(), tiny.dataset, tiny.run, adapter=adapter)
    assert re.fullmatch("mine-[0-9a-f]{8}", result.subject.run)
    with pytest.raises(ModelError, match=r"adapters\.safetensors and adapter_config\.json"):
        evaluate(tiny.config(), tiny.dataset, tiny.run, adapter=tmp_path)


def test_without_a_test_split_the_validation_rows_are_used_and_it_is_said(
    shared_run: TinyRun, tmp_path: Path
) -> None:
    tiny = TinyRun(tmp_path, shared_run.model)
    dataset = make_dataset(tiny.run, some_rows(test=0, valid=2, seeds=0))
    tiny.trained("r1")
    events: list[Event] = []
    result = evaluate(tiny.config(), dataset, tiny.run, on_event=events.append)
    assert (result.subject.split, result.n) == ("valid", 2)
    warnings = [e.text for e in events if isinstance(e, Notice) and e.level == "warning"]
    assert any("there is no test split" in text for text in warnings)
    assert "validation rows" in result.verdict
    assert "base_few_shot" not in result.models


def test_nothing_to_judge_by_or_nothing_to_judge(shared_run: TinyRun, tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, shared_run.model)
    empty = make_dataset(tiny.run, some_rows(test=0, valid=0))
    with pytest.raises(InputError, match="no test rows and no validation rows"):
        evaluate(tiny.config(), empty, tiny.run)
    dataset = make_dataset(tiny.run, some_rows())
    with pytest.raises(InputError, match="no trained student yet") as raised:
        evaluate(tiny.config(), dataset, tiny.run)
    assert "nanodistill train" in str(raised.value)


def test_two_evaluations_of_a_run_at_once_are_refused(tiny: TinyRun) -> None:
    with tiny.run.locked("eval"), pytest.raises(RunLockedError):
        evaluate(tiny.config(), tiny.dataset, tiny.run)


def test_a_teachers_answers_stand_beside(tiny: TinyRun) -> None:
    def teacher(judged: EvalSet) -> list[ExternalAnswer]:
        return [ExternalAnswer(row.id, row.gold, cost_usd=0.002) for row in judged.rows[1:]]

    result = evaluate(tiny.config(), tiny.dataset, tiny.run, teacher=teacher)
    score = result.models["teacher"]
    assert score.score.value == pytest.approx(5 / 6)
    assert score.unreadable == 1
    assert score.usd_per_1000 == pytest.approx(2)
    assert result.against["teacher"].diff == pytest.approx(-5 / 6)


def test_a_teacher_is_not_asked_where_there_is_no_student(tiny: TinyRun) -> None:
    def teacher(judged: EvalSet) -> list[ExternalAnswer]:
        raise AssertionError("this would have been paid for")

    with pytest.raises(InputError):
        evaluate(tiny.config(), tiny.dataset, RunFolder(tiny.root / "elsewhere"), teacher=teacher)


def test_right_wrong_and_unreadable_are_counted(shared_run: TinyRun) -> None:
    rows = eval_set(shared_run.dataset).rows
    judge = Scorer(LabelAccuracy(("billing", "bug")), resolve_format("xml"), rows)
    texts = [
        f"<thinking>so</thinking>{rows[0].gold.upper()}.",
        f"<thinking>so {rows[1].gold}",
        "",
        rows[3].gold,
        "shipping",
        f"it is {rows[5].gold}",
    ]
    answers = [GeneratedAnswer(str(n), text, "stop", 9, 3, 0.5, 7) for n, text in enumerate(texts)]
    predictions = judge.generated("student", answers)
    assert [one.score for one in predictions] == [1, 0, 0, 1, 0, 0]
    score = judge.score(predictions)
    assert score.score.value == pytest.approx(2 / 6)
    assert (score.unreadable, score.cut_off) == (2, 0)
    assert score.exact == score.score


def test_shots_are_the_seeds_of_the_train_split_by_turns(shared_run: TinyRun) -> None:
    shown = shots(shared_run.dataset, resolve_format("none"))
    assert [message["role"] for message in shown] == ["user", "assistant"] * 4
    assert all(message["content"].startswith("seed message") for message in shown[::2])
    answers = [message["content"] for message in shown[1::2]]
    assert set(answers[:2]) == {"billing", "bug"}


def test_prompts_are_those_of_training(shared_run: TinyRun) -> None:
    from nanodistill.evaluation.worker import tokens_of
    from nanodistill.models.loading import load_model
    from nanodistill.training.tokenize import tokenize_rows

    rows = list(shared_run.dataset.rows("test"))
    loaded = load_model(shared_run.model)
    trained = tokenize_rows(rows, loaded.tokenizer, "cot").examples
    for row, example, judged in zip(rows, trained, eval_set(shared_run.dataset).rows, strict=True):
        assert row["id"] == judged.id
        asked = tokens_of(loaded, TaskPrompt("k", judged.messages), ())
        assert asked == list(example.tokens[: example.prompt])


def test_ask_answers_as_the_evaluation_does(tiny: TinyRun) -> None:
    evaluate(tiny.config(), tiny.dataset, tiny.run)
    lines = pq.read_table(tiny.run.evaluation / "r1" / "predictions.parquet").to_pylist()
    line = next(line for line in lines if line["model"] == "student")
    answer = ask(tiny.config(), tiny.run, line["input"])
    assert (answer.text, answer.prompt_tokens) == (line["text"], line["prompt_tokens"])
    assert answer.model == "student"
    base = ask(tiny.config(), tiny.run, line["input"], base=True)
    assert base.model == "base"
    assert base.text != answer.text


def test_tokenizer_kwargs_arrive_and_what_they_change_is_asked_anew(tiny: TinyRun) -> None:
    mark = "!" * 10
    config = tiny.config(tokenizer_kwargs={"chat_template": mark + TEMPLATE})
    plain, marked = (ask(c, tiny.run, "hello") for c in (tiny.config(), config))
    assert marked.prompt_tokens == plain.prompt_tokens + len(mark)
    judged = [evaluate(c, tiny.dataset, tiny.run) for c in (tiny.config(), config, config)]
    assert [result.generated for result in judged] == [0, 18, 0]
    lines = pq.read_table(tiny.run.evaluation / "r1" / "predictions.parquet").to_pylist()
    own = next(
        line for line in lines if (line["model"], line["input"]) == ("base", "test message 0")
    )
    asked = ask(config, tiny.run, "test message 0", base=True)
    assert own["prompt_tokens"] == asked.prompt_tokens


def test_ask_without_a_student(shared_run: TinyRun, tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, shared_run.model)
    with pytest.raises(InputError, match="no trained student yet"):
        ask(tiny.config(), tiny.run, "hello")
    assert ask(tiny.config(), tiny.run, "hello", base=True).completion_tokens >= 1


def test_free_text_is_judged_by_similarity(shared_run: TinyRun, tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, shared_run.model)
    long = "We are sorry that your order number {} has not come; it leaves our house today."
    rows: list[tuple[Split, Trace]] = [
        ("train", Trace("a", "b", "user")),
        *(("test", Trace(f"where is order {n}", long.format(n), "user")) for n in range(4)),
    ]
    dataset = make_dataset(tiny.run, rows, labels=None)
    tiny.trained("r1")
    result = evaluate(tiny.config(), dataset, tiny.run)
    assert (result.metric, result.measure) == ("text", "chrF")
    assert result.paired.test == "bootstrap"


def test_the_embedded_model_with_examples_beats_itself_without(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path, Path("smollm2-135m"))
    seeds = {
        "billing": ["I was charged twice this month.", "Please refund my last invoice."],
        "shipping": ["My parcel has not come.", "Where is my delivery?"],
    }
    rows: list[tuple[Split, Trace]] = [
        ("train", Trace(text, label, "seed")) for label, texts in seeds.items() for text in texts
    ]
    rows += [
        ("test", Trace("The invoice shows a wrong amount.", "billing", "user")),
        ("test", Trace("The package was left at the wrong door.", "shipping", "user")),
    ]
    dataset = make_dataset(tiny.run, rows, labels=tuple(seeds))
    config = tiny.config(student="smollm2-135m", max_new_tokens=4)
    result = evaluate(config, dataset, tiny.run, model="smollm2-135m")
    base, shown, student = (result.models[n] for n in ("base", "base_few_shot", "student"))
    assert student.score == base.score
    assert result.paired.diff == 0
    assert (result.generated, result.reused) == (4, 0)
    assert shown.exact.value > base.exact.value
    assert shown.speed is not None
    assert base.speed is not None
    assert shown.speed.prompt_tokens > base.speed.prompt_tokens + 2 * 20
