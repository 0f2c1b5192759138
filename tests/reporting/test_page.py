"""What report.html says at each stage of a run, and what it never says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import nanodistill
from nanodistill.dataset.manifest import CellCount
from nanodistill.dataset.quality import quality_facts
from nanodistill.errors import CorruptFileError, InputError
from nanodistill.reporting import write_report
from nanodistill.reporting.page import asset, embedded
from nanodistill.training.runs import training_folder
from nanodistill.types import Usage
from reporting.factories import RunFactory, always, mostly_right, right, word


class Text(HTMLParser):
    """The text of a page that a person sees, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.inside):
            self.words.append(data)


def page_of(factory: RunFactory, **fields: Any) -> str:
    return write_report(factory.config(**fields), factory.run).path.read_text()


def seen(page: str) -> str:
    parser = Text()
    parser.feed(page)
    return re.sub(r"\s+", " ", " ".join(parser.words))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_a_run_without_anything_has_no_report(factory: RunFactory) -> None:
    with pytest.raises(InputError, match="nothing to report yet"):
        write_report(factory.config(), factory.run)
    assert not factory.run.report.exists()


def test_a_journal_alone(factory: RunFactory) -> None:
    factory.add_call()
    said = seen(page_of(factory))
    assert "1 answer;" in said
    assert "Next: nanodistill synth RUN.toml" in said
    assert "$0.25" in said
    assert "1,200" in said


def test_a_cost_that_is_not_known_is_unknown_and_so_are_tokens(factory: RunFactory) -> None:
    factory.add_call(cost=None, usage=Usage())
    said = seen(page_of(factory))
    assert "cost an unknown amount" in said
    assert (
        said.count("unknown") == 6
    )  # the card, a sentence, the note, two counts of tokens, the cost
    assert "$0" not in said


def test_a_dataset_alone(factory: RunFactory) -> None:
    version = factory.add_dataset(cost_usd=None)
    said = seen(page_of(factory))
    assert "10 rows" in said
    assert "Next: nanodistill train RUN.toml" in said
    assert "8 training rows, 2 validation rows, 12 test rows (your own file)." in said
    assert version.fingerprint in said
    assert "near duplicate" in said
    for name, found in quality_facts(version.manifest):
        assert f"{name} {found}" in said
    assert "Teacher calls behind the dataset" in said


def test_a_training_that_goes_on(factory: RunFactory) -> None:
    factory.add_training(factory.add_dataset())
    training_folder(factory.run, "run1").result.unlink()
    page = page_of(factory)
    assert "Training is unfinished" in seen(page)
    assert "Training loss from 3.00 to 0.10 over 30 steps" in seen(page)
    curves = data_of(page)["curves"]["run1"]
    assert curves["chosen"] == 20
    assert [n for n, loss in zip(curves["steps"], curves["valid"], strict=True) if loss] == [
        10,
        20,
        30,
    ]


def test_a_long_training_is_drawn_with_a_bounded_number_of_points(factory: RunFactory) -> None:
    factory.add_training(factory.add_dataset(), updates=4321)
    updates = data_of(page_of(factory))["curves"]["run1"]["steps"]
    assert len(updates) < 1600
    assert updates[-1] == 4321


def test_everything(factory: RunFactory) -> None:
    factory.add_everything()
    report = write_report(factory.config(), factory.run)
    assert report.parts == ("scores", "rows", "training", "dataset", "spend")
    said = seen(report.path.read_text())
    assert "The student is ahead of its base" in said or "not distinguishable" in said
    assert "Against the teacher: " in said
    assert "$1.25" in said
    assert "Accuracy and F1 by label" in said
    assert "sha256:base+adapter" in said


@pytest.mark.parametrize(
    ("student", "base", "verdict"),
    [
        (right, always("animal"), "The student is ahead of its base by 50 points."),
        (always("animal"), right, "The student is behind its base by 50 points."),
        (right, right, "On 12 rows, the student and its base are not distinguishable"),
    ],
)
def test_the_verdict_is_as_strong_as_the_figures(
    factory: RunFactory, student: Any, base: Any, verdict: str
) -> None:
    factory.add_evaluation(factory.add_dataset(), base=base, student=student)
    assert verdict in seen(page_of(factory))


def test_validation_rows_are_said_to_be_no_test(factory: RunFactory) -> None:
    factory.add_evaluation(
        factory.add_dataset(tests=0, test_source=None), base=right, student=right
    )
    assert "these are validation rows" in seen(page_of(factory))


def test_a_student_that_was_not_judged_is_not_the_one_reported(factory: RunFactory) -> None:
    dataset = factory.add_dataset()
    factory.add_training(dataset, "run1")
    factory.add_evaluation(dataset, base=always("animal"), student=right)
    factory.add_training(dataset, "run2", train_on="answer")
    said = seen(page_of(factory))
    assert re.search("run2 is newer .* run1", said)


def test_several_students_stand_side_by_side(factory: RunFactory) -> None:
    dataset = factory.add_dataset()
    for run_id, student, says in (("r1", "tiny-student", mostly_right), ("r2", "large", right)):
        factory.add_training(dataset, run_id, student)
        factory.add_evaluation(dataset, run_id, student, base=always("animal"), student=says)
    page = page_of(factory)
    assert re.search(r"same 12 test rows, best first .*interval large 100%", seen(page))
    rows = data_of(page)["rows"]
    assert [view["name"] for view in rows["views"]] == ["tiny-student", "large"]
    assert len(rows["answers"]) == 3  # two students and the one base of both
    assert data_of(page_of(factory, student="large"))["rows"]["views"][0]["name"] == "large"


def test_students_that_were_trained_on_other_things_are_called_so(factory: RunFactory) -> None:
    dataset = factory.add_dataset()
    for run_id, train_on in (("r1", "cot"), ("r2", "answer")):
        factory.add_training(dataset, run_id, train_on=train_on)
        factory.add_evaluation(dataset, run_id, base=always("animal"), student=right)
    views = data_of(page_of(factory, train_on="answer"))["rows"]["views"]
    assert [view["name"] for view in views] == [
        "tiny-student, trained on answer",
        "tiny-student, trained on cot",
    ]


def test_open_answers_have_no_matrix_and_are_graded(factory: RunFactory) -> None:
    dataset = factory.add_dataset(labels=None)
    factory.add_evaluation(dataset, metric="text", base=always("an animal"), student=right)
    page = page_of(factory)
    assert data_of(page)["rows"]["graded"]
    assert "Confusion" not in seen(page)
    assert "length ratio" in seen(page)


def test_fields_of_json_answers_are_told_apart(factory: RunFactory) -> None:
    tests = [replaced(n, f'{{"kind": "animal", "legs": {n}}}') for n in range(6)]
    dataset = factory.add_dataset(tests, labels=None, response_schema={"type": "object"})
    factory.add_evaluation(dataset, base=always('{"kind": "animal", "legs": 0}'), student=right)
    said = seen(page_of(factory))
    assert "Accuracy by field" in said
    assert re.search(r"legs 17% 100%", said)


def replaced(n: int, output: str) -> Any:
    from dataclasses import replace

    return replace(word(n), output=output)


def test_a_damaged_file_is_named(factory: RunFactory) -> None:
    factory.add_everything()
    (factory.run.evaluation / "run1" / "results.json").write_text('{"run": "run1"}')
    with pytest.raises(CorruptFileError, match="not what an evaluation writes"):
        write_report(factory.config(), factory.run)
    (factory.run.evaluation / "run1" / "results.json").unlink()
    training_folder(factory.run, "run1").metrics.write_text("no json\n")
    with pytest.raises(CorruptFileError, match=r"metrics\.jsonl.*line 1"):
        write_report(factory.config(), factory.run)


def test_no_key_and_no_folder_of_this_machine(
    factory: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, environment = "tok-1234567890abcdef", "env-abcdef1234567890"
    monkeypatch.setenv("SOME_API_KEY", environment)
    private = [secret, environment, "sk-abcdefghijklmnop1234", f"{factory.root}/deep/file.txt"]
    told = " ".join([*private, f"{Path.home()}/x"])
    dataset = factory.add_dataset([replaced(0, "plant"), replaced(1, told)], labels=None)
    factory.add_training(dataset, student=str(factory.root / "models" / "my-model"))
    factory.add_evaluation(dataset, student=always(told), base=right)
    page = page_of(
        factory, litellm_kwargs={"api_key": secret, "api_base": "http://inside.example/v1"},
        student=str(factory.root / "models" / "my-model"),
    )  # fmt: skip
    for hidden in (
        secret,
        environment,
        "sk-abcdefghij",
        str(factory.root),
        str(Path.home()),
        "inside.",
    ):
        assert hidden not in page
    assert "…/file.txt" in page
    assert "…/my-model" in page


def test_models_that_lie_in_a_folder_are_called_by_their_name(factory: RunFactory) -> None:
    factory.add_training(
        factory.add_dataset(teacher="mlx//elsewhere/teachers/big"), student="/elsewhere/a/small"
    )
    page = page_of(factory, teacher="mlx//elsewhere/teachers/big", student="/elsewhere/a/small")
    assert "/elsewhere" not in page
    assert "mlx/…/big" in page
    assert "…/small" in page


def test_a_dataset_that_lies_elsewhere_is_said_to(factory: RunFactory) -> None:
    import shutil

    factory.add_evaluation(factory.add_dataset(), base=always("animal"), student=right)
    shutil.rmtree(factory.run.datasets)
    report = write_report(factory.config(), factory.run)
    assert report.parts == ("scores", "rows")
    assert "is not in this run's folder" in seen(report.path.read_text())


def test_an_account_by_place_in_the_plan(factory: RunFactory) -> None:
    places = {f"label=plant; topic={n}": CellCount(requested=1, kept=1) for n in range(10)}
    lost = {"label=animal; topic=0": CellCount(requested=2, kept=0, rejected={"loop": 2})}
    page = page_of_dataset(factory, cells=places | lost)
    assert "label=animal; topic=0 2 0 2 0" in seen(page)
    more = {f"label=plant; topic={n}": CellCount(requested=0, kept=0) for n in range(10, 15)}
    page = page_of_dataset(RunFactory(factory.root, "more"), cells=places | lost | more)
    assert "label: plant 10 10 0 0" in seen(page)


def page_of_dataset(factory: RunFactory, **facts: Any) -> str:
    factory.add_dataset(**facts)
    return page_of(factory)


def test_nothing_in_the_file_names_another_place() -> None:
    for name in ("page.html", "style.css", "report.js"):
        assert not re.search(r"https?:|//[a-z]|@import|url\(", asset(name).replace("// ", "")), name


def test_our_scripts_make_no_markup_from_text() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
    assert not re.search(forbidden, asset("report.js"))
    for name in ("report.js", "uPlot.iife.min.js"):
        assert not re.search(r"</script|<!--", asset(name), re.IGNORECASE)


def test_the_vendored_library_is_what_its_note_says() -> None:
    import hashlib

    noted = re.findall(r"`(uPlot\S+)` \| [\d.]+ \| MIT[^|]*\| `([0-9a-f]{64})`", asset("README.md"))
    assert len(noted) == 2
    for name, digest in noted:
        assert hashlib.sha256(asset(name).encode()).hexdigest() == digest


def test_data_cannot_leave_its_element() -> None:
    written = embedded({"a": "</script><!--<script>&\u2028"})
    assert not re.search("[<>&]", written)
    assert json.loads(written) == {"a": "</script><!--<script>&\u2028"}


def test_markup_in_names_labels_and_settings_stays_text(factory: RunFactory) -> None:
    hostile = "<script>window.hacked = 1</script><img src=x onerror=alert(1)>"
    factory.add_dataset(instruction=hostile, labels=("animal", "plant", hostile), teacher=hostile)
    page = page_of(factory, teacher="python:evil:<b>")
    parser = Text()
    parser.feed(page)
    assert parser.tags.count("script") == 3
    assert "img" not in parser.tags
    assert "window.hacked = 1" in seen(page)


def test_from_python(factory: RunFactory) -> None:
    factory.add_call()
    assert nanodistill.report(factory.config()).path == factory.run.report
    assert nanodistill.report(factory.config()).to_json()["parts"] == ["spend"]


@pytest.mark.anyio
async def test_from_python_that_awaits(factory: RunFactory, anyio_backend: str) -> None:
    factory.add_call()
    assert (await nanodistill.report_async(factory.config())).path == factory.run.report


def test_the_command(
    factory: RunFactory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from nanodistill.cli import run

    factory.add_everything()
    file = tmp_path / "words.toml"
    file.write_text(
        'name = "words"\nseed = "seeds.jsonl"\ninstruction = "Say animal or plant."\n'
        'student = "tiny-student"\n'
        f"output_dir = {json.dumps(str(factory.root))}\n"
    )
    assert run(["report", str(file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["report"] == str(factory.run.report)
    assert values["parts"] == ["scores", "rows", "training", "dataset", "spend"]
