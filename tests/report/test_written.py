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
from nanodistill.errors import CorruptFileError, InputError
from nanodistill.reporting import write_report
from nanodistill.reporting.page import asset, embedded
from nanodistill.training.runs import training_folder
from nanodistill.types import Usage
from report.made import Made, always, mostly_right, right, word


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


def page_of(made: Made, **fields: Any) -> str:
    return write_report(made.config(**fields), made.run).path.read_text()


def seen(page: str) -> str:
    parser = Text()
    parser.feed(page)
    return re.sub(r"\s+", " ", " ".join(parser.words))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_a_run_without_anything_has_no_report(made: Made) -> None:
    with pytest.raises(InputError, match="nothing to report yet"):
        write_report(made.config(), made.run)
    assert not made.run.report.exists()


def test_a_journal_alone(made: Made) -> None:
    made.asked()
    said = seen(page_of(made))
    assert "The teacher has given 1 answer; there is no dataset yet." in said
    assert "Next: nanodistill synth RUN.toml" in said
    assert "$0.25" in said
    assert "1,200" in said


def test_a_cost_that_is_not_known_is_unknown_and_so_are_tokens(made: Made) -> None:
    made.asked(cost=None, usage=Usage())
    said = seen(page_of(made))
    assert "cost an amount that is not known" in said
    assert said.count("unknown") == 4  # the tile, tokens in, tokens out, cost
    assert "$0" not in said


def test_a_dataset_alone(made: Made) -> None:
    version = made.dataset(cost_usd=None)
    said = seen(page_of(made))
    assert "A dataset of 10 rows is ready; nothing is trained yet." in said
    assert "8 training rows, 2 validation rows, 12 test rows (a file of the user's)." in said
    assert version.fingerprint in said
    assert "near duplicate" in said
    assert "near-duplicates removed 1" in said
    assert "Teacher calls behind the dataset" in said


def test_a_training_that_goes_on(made: Made) -> None:
    made.trained(made.dataset())
    training_folder(made.run, "run1").result.unlink()
    page = page_of(made)
    assert "training has not ended" in seen(page)
    assert "Training loss from 3.00 to 0.10 over 30 updates" in seen(page)
    curves = data_of(page)["curves"]["run1"]
    assert curves["chosen"] == 20
    assert [n for n, loss in zip(curves["updates"], curves["valid"], strict=True) if loss] == [
        10,
        20,
        30,
    ]


def test_a_long_training_is_drawn_with_a_bounded_number_of_points(made: Made) -> None:
    made.trained(made.dataset(), updates=4321)
    updates = data_of(page_of(made))["curves"]["run1"]["updates"]
    assert len(updates) < 1600
    assert updates[-1] == 4321


def test_everything(made: Made) -> None:
    made.whole()
    report = write_report(made.config(), made.run)
    assert report.parts == ("scores", "rows", "training", "dataset", "spend")
    said = seen(report.path.read_text())
    assert "The student is ahead of its base" in said or "cannot be told from its base" in said
    assert "Against the teacher: " in said
    assert "$1.25" in said
    assert "Accuracy and F1 by label" in said
    assert "sha256:base+adapter" in said


@pytest.mark.parametrize(
    ("student", "base", "verdict"),
    [
        (right, always("animal"), "The student is ahead of its base by 50 points."),
        (always("animal"), right, "The student is behind its base by 50 points."),
        (right, right, "On 12 rows, the student cannot be told from its base"),
    ],
)
def test_the_verdict_is_as_strong_as_the_figures(
    made: Made, student: Any, base: Any, verdict: str
) -> None:
    made.judged(made.dataset(), base=base, student=student)
    assert verdict in seen(page_of(made))


def test_validation_rows_are_said_to_be_no_test(made: Made) -> None:
    made.judged(made.dataset(tests=0, test_source=None), base=right, student=right)
    assert "these are validation rows, which training was steered by" in seen(page_of(made))


def test_a_student_that_was_not_judged_is_not_the_one_reported(made: Made) -> None:
    dataset = made.dataset()
    made.trained(dataset, "run1")
    made.judged(dataset, base=always("animal"), student=right)
    made.trained(dataset, "run2", train_on="answer")
    said = seen(page_of(made))
    assert "Training run run2 is newer, and not judged yet; this is about run1." in said


def test_several_students_stand_side_by_side(made: Made) -> None:
    dataset = made.dataset()
    for run_id, student, says in (("r1", "tiny-student", mostly_right), ("r2", "large", right)):
        made.trained(dataset, run_id, student)
        made.judged(dataset, run_id, student, base=always("animal"), student=says)
    page = page_of(made)
    assert re.search(r"same 12 test rows, the best first .*interval large 100%", seen(page))
    rows = data_of(page)["rows"]
    assert [view["name"] for view in rows["views"]] == ["tiny-student", "large"]
    assert len(rows["answers"]) == 3  # two students and the one base of both
    assert data_of(page_of(made, student="large"))["rows"]["views"][0]["name"] == "large"


def test_students_that_were_trained_on_other_things_are_called_so(made: Made) -> None:
    dataset = made.dataset()
    for run_id, train_on in (("r1", "cot"), ("r2", "answer")):
        made.trained(dataset, run_id, train_on=train_on)
        made.judged(dataset, run_id, base=always("animal"), student=right)
    views = data_of(page_of(made, train_on="answer"))["rows"]["views"]
    assert [view["name"] for view in views] == [
        "tiny-student, trained on answer",
        "tiny-student, trained on cot",
    ]


def test_open_answers_have_no_matrix_and_are_graded(made: Made) -> None:
    dataset = made.dataset(labels=None)
    made.judged(dataset, metric="text", base=always("an animal"), student=right)
    page = page_of(made)
    assert data_of(page)["rows"]["graded"]
    assert "Confusion" not in seen(page)
    assert "length ratio" in seen(page)


def test_fields_of_json_answers_are_told_apart(made: Made) -> None:
    tests = [replaced(n, f'{{"kind": "animal", "legs": {n}}}') for n in range(6)]
    dataset = made.dataset(tests, labels=None, response_schema={"type": "object"})
    made.judged(dataset, base=always('{"kind": "animal", "legs": 0}'), student=right)
    said = seen(page_of(made))
    assert "Accuracy by field" in said
    assert re.search(r"legs 17% 100%", said)


def replaced(n: int, output: str) -> Any:
    from dataclasses import replace

    return replace(word(n), output=output)


def test_a_damaged_file_is_named(made: Made) -> None:
    made.whole()
    (made.run.evaluation / "run1" / "results.json").write_text('{"run": "run1"}')
    with pytest.raises(CorruptFileError, match="not what an evaluation writes"):
        write_report(made.config(), made.run)
    (made.run.evaluation / "run1" / "results.json").unlink()
    training_folder(made.run, "run1").metrics.write_text("no json\n")
    with pytest.raises(CorruptFileError, match=r"metrics\.jsonl.*line 1"):
        write_report(made.config(), made.run)


def test_no_key_and_no_folder_of_this_machine(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, environment = "tok-1234567890abcdef", "env-abcdef1234567890"
    monkeypatch.setenv("SOME_API_KEY", environment)
    told = (
        f"{secret} {environment} sk-abcdefghijklmnop1234 {made.root}/deep/file.txt {Path.home()}/x"
    )
    dataset = made.dataset([replaced(0, "plant"), replaced(1, told)], labels=None)
    made.trained(dataset, student=str(made.root / "models" / "my-model"))
    made.judged(dataset, student=always(told), base=right)
    page = page_of(
        made, litellm_kwargs={"api_key": secret, "api_base": "http://inside.example/v1"},
        student=str(made.root / "models" / "my-model"),
    )  # fmt: skip
    for hidden in (
        secret,
        environment,
        "sk-abcdefghij",
        str(made.root),
        str(Path.home()),
        "inside.",
    ):
        assert hidden not in page
    assert "…/file.txt" in page
    assert "…/my-model" in page


def test_models_that_lie_in_a_folder_are_called_by_their_name(made: Made) -> None:
    made.trained(made.dataset(teacher="mlx//elsewhere/teachers/big"), student="/elsewhere/a/small")
    page = page_of(made, teacher="mlx//elsewhere/teachers/big", student="/elsewhere/a/small")
    assert "/elsewhere" not in page
    assert "mlx/…/big" in page
    assert "…/small" in page


def test_a_dataset_that_lies_elsewhere_is_said_to(made: Made) -> None:
    import shutil

    made.judged(made.dataset(), base=always("animal"), student=right)
    shutil.rmtree(made.run.datasets)
    report = write_report(made.config(), made.run)
    assert report.parts == ("scores", "rows")
    assert "is not in this run's folder" in seen(report.path.read_text())


def test_an_account_by_place_in_the_plan(made: Made) -> None:
    places = {f"label=plant; topic={n}": CellCount(requested=1, kept=1) for n in range(10)}
    lost = {"label=animal; topic=0": CellCount(requested=2, kept=0, rejected={"loop": 2})}
    page = page_of_dataset(made, cells=places | lost)
    assert "label=animal; topic=0 2 0 2 0" in seen(page)
    more = {f"label=plant; topic={n}": CellCount(requested=0, kept=0) for n in range(10, 15)}
    page = page_of_dataset(Made(made.root, "more"), cells=places | lost | more)
    assert "label: plant 10 10 0 0" in seen(page)


def page_of_dataset(made: Made, **facts: Any) -> str:
    made.dataset(**facts)
    return page_of(made)


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


def test_markup_in_names_labels_and_settings_stays_text(made: Made) -> None:
    hostile = "<script>window.hacked = 1</script><img src=x onerror=alert(1)>"
    made.dataset(instruction=hostile, labels=("animal", "plant", hostile), teacher=hostile)
    page = page_of(made, teacher="python:evil:<b>")
    parser = Text()
    parser.feed(page)
    assert parser.tags.count("script") == 3
    assert "img" not in parser.tags
    assert "window.hacked = 1" in seen(page)


def test_from_python(made: Made) -> None:
    made.asked()
    assert nanodistill.report(made.config()).path == made.run.report
    assert nanodistill.report(made.config()).to_json()["parts"] == ["spend"]


@pytest.mark.anyio
async def test_from_python_that_awaits(made: Made, anyio_backend: str) -> None:
    made.asked()
    assert (await nanodistill.report_async(made.config())).path == made.run.report


def test_the_command(made: Made, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from nanodistill.cli import run

    made.whole()
    file = tmp_path / "words.toml"
    file.write_text(
        'name = "words"\nseed = "seeds.jsonl"\ninstruction = "Say animal or plant."\n'
        'student = "tiny-student"\n'
        f"output_dir = {json.dumps(str(made.root))}\n"
    )
    assert run(["report", str(file), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["report"] == str(made.run.report)
    assert values["parts"] == ["scores", "rows", "training", "dataset", "spend"]
