"""The child process: what it is asked, what it answers, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evaluation.conftest import TinyRun
from evaluation.tiny import make_adapter, make_model
from nanodistill.errors import ModelError, NanoDistillError
from nanodistill.evaluation.answer_generation import (
    CHILD,
    AnswerCache,
    GenerationWorker,
    OutOfMemoryError,
    PendingAnswers,
    child_environment,
    generate_missing,
)
from nanodistill.evaluation.eval_models import EvalModel, find_student_ref
from nanodistill.evaluation.eval_set import eval_set, shots
from nanodistill.evaluation.pipeline import build_models
from nanodistill.evaluation.worker import (
    GeneratedAnswer,
    GenerationJob,
    GenerationTask,
    TaskPrompt,
    tokens_of,
)
from nanodistill.events import Event, Notice, ignore
from nanodistill.models.loading import load_model
from nanodistill.models.resolve import resolve_model
from nanodistill.thinking import resolve_format
from nanodistill.types import Message

HUNGRY = str(Path(__file__).with_name("hungry_child.py"))
KILLED = str(Path(__file__).with_name("killed_evaluation.py"))
TESTS = Path(__file__).parents[1]


def prompt(key: str, text: str) -> TaskPrompt:
    head = Message(role="system", content="Sort the message into billing or bug.")
    return TaskPrompt(key, (head, Message(role="user", content=text)))


def pending_answers(tiny: TinyRun) -> list[PendingAnswers]:
    rows = eval_set(tiny.dataset).rows
    return [PendingAnswers(one, rows, one.keys(rows, 6)) for one in eval_models(tiny)]


def eval_models(tiny: TinyRun) -> list[EvalModel]:
    base = resolve_model(str(tiny.model))
    student = find_student_ref(tiny.config(), tiny.run, base, None, ignore)
    return build_models(base, student, shots(tiny.dataset, resolve_format("none")))


@pytest.fixture(scope="module")
def worker() -> Iterator[GenerationWorker]:
    """One child for several tests."""
    with GenerationWorker(ignore) as running:
        yield running


def done(
    worker: GenerationWorker, *tasks: GenerationTask, batch_size: int = 4
) -> dict[str, GeneratedAnswer]:
    return {one.key: one for one in worker.run(GenerationJob(tasks, 6, batch_size))}


def test_the_shared_beginning_changes_no_answer(
    shared_run: TinyRun, worker: GenerationWorker
) -> None:
    prompts = [prompt(str(n), f"message {n} {'x' * (3 * n)}") for n in range(9)]
    alone = {
        one.key: done(worker, GenerationTask(str(shared_run.model), None, (), (one,)))[one.key]
        for one in prompts
    }
    together = done(worker, GenerationTask(str(shared_run.model), None, (), tuple(prompts)))
    assert {k: a.text for k, a in together.items()} == {k: a.text for k, a in alone.items()}
    assert {k: a.prompt_tokens for k, a in together.items()} == {
        k: a.prompt_tokens for k, a in alone.items()
    }
    assert len({answer.text for answer in alone.values()}) > 2


def test_an_adapter_answers_otherwise_and_the_base_stays_what_it_was(
    shared_run: TinyRun, worker: GenerationWorker
) -> None:
    adapter = str(shared_run.run.training / "r1" / "adapters")
    asked = tuple(prompt(str(n), f"message {n}") for n in range(3))
    base = GenerationTask(str(shared_run.model), None, (), asked)
    before = done(worker, base)
    student = done(worker, GenerationTask(str(shared_run.model), adapter, (), asked))
    after = done(worker, base)
    assert [a.text for a in before.values()] != [a.text for a in student.values()]
    assert {k: a.text for k, a in before.items()} == {k: a.text for k, a in after.items()}


def test_shots_are_left_out_as_the_context_demands(
    shared_run: TinyRun, worker: GenerationWorker
) -> None:
    question, answer = "q" * 80, "a" * 10
    shown = [Message(role="user", content=question), Message(role="assistant", content=answer)] * 16
    asked = (prompt("k", "message"),)
    bare = done(worker, GenerationTask(str(shared_run.model), None, (), asked))["k"]
    few = done(worker, GenerationTask(str(shared_run.model), None, tuple(shown), asked))["k"]
    one_shot = len("user\n") + len(question) + len("assistant\n") + len(answer) + 2 * 3
    extra = few.prompt_tokens - bare.prompt_tokens
    assert extra % one_shot == 0
    assert extra // one_shot == (512 - 6 - bare.prompt_tokens) // one_shot > 1
    two = done(worker, GenerationTask(str(shared_run.model), None, tuple(shown[:4]), asked))["k"]
    assert two.prompt_tokens - bare.prompt_tokens == 2 * one_shot


def test_a_prompt_beyond_the_context_gets_no_answer_and_stops_nobody(
    shared_run: TinyRun, worker: GenerationWorker
) -> None:
    asked = (prompt("long", "x" * 600), prompt("short", "x"))
    answers = done(worker, GenerationTask(str(shared_run.model), None, (), asked))
    assert answers["long"].text == ""
    assert answers["long"].finish_reason == "length"
    assert answers["short"].completion_tokens == 6


def test_a_model_that_is_not_there_is_an_error_and_the_child_goes_on(
    shared_run: TinyRun, worker: GenerationWorker
) -> None:
    asked = (prompt("k", "message"),)
    with pytest.raises(ModelError, match="There is no model"):
        done(worker, GenerationTask("./nowhere", None, (), asked))
    assert "k" in done(worker, GenerationTask(str(shared_run.model), None, (), asked))


def test_an_adapter_of_another_model_is_an_error(
    shared_run: TinyRun, worker: GenerationWorker, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", hidden_size=64, head_dim=16)
    adapter = make_adapter(tmp_path / "adapter", other)
    with pytest.raises(ModelError, match="doesn't fit"):
        done(
            worker,
            GenerationTask(str(shared_run.model), str(adapter), (), (prompt("k", "message"),)),
        )


def test_examples_stand_between_instruction_and_question(shared_run: TinyRun) -> None:
    shown = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    loaded = load_model(shared_run.model)
    tokens = tokens_of(loaded, prompt("k", "message"), shown)
    assert loaded.tokenizer.decode(tokens) == (
        "<|im_start|>system\nSort the message into billing or bug.<|im_end|>\n"
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nmessage<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_fault_in_the_child_is_quoted_and_is_not_taken_for_want_of_memory(
    shared_run: TinyRun,
) -> None:
    task = GenerationTask(str(shared_run.model), None, (), (prompt("k", "message"),))
    with (
        GenerationWorker(ignore) as worker,
        pytest.raises(NanoDistillError, match="max_tokens is 0, must be at least 1") as raised,
    ):
        list(worker.run(GenerationJob((task,), 0, 1)))
    assert not isinstance(raised.value, OutOfMemoryError)


def test_a_child_that_runs_out_of_memory_goes_on_with_half_the_batch(
    tiny: TinyRun, tmp_path: Path
) -> None:
    events: list[Event] = []
    asked = pending_answers(tiny)
    answers = AnswerCache(tmp_path / "answers.jsonl")
    settings = tiny.config(eval_batch_size=8)
    made = generate_missing(asked, answers, settings, events.append, (sys.executable, HUNGRY, "2"))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert made == 18 == len(AnswerCache(answers.path))
    assert notices == [
        "batch of 8",
        "out of memory; retrying with batch size 4",
        "batch of 4",
        "out of memory; retrying with batch size 2",
        "batch of 2",
    ]


def test_no_memory_for_a_single_prompt_is_an_error_with_a_way_out(
    tiny: TinyRun, tmp_path: Path
) -> None:
    answers = AnswerCache(tmp_path / "answers.jsonl")
    settings = tiny.config(eval_batch_size=2)
    with pytest.raises(OutOfMemoryError, match="ran out of memory"):
        generate_missing(
            pending_answers(tiny), answers, settings, ignore, (sys.executable, HUNGRY, "0")
        )
    assert len(AnswerCache(answers.path)) == 2


def test_a_child_that_fails_otherwise_is_quoted(tiny: TinyRun, tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such luck')")
    answers = AnswerCache(tmp_path / "answers.jsonl")
    with pytest.raises(NanoDistillError, match=r"exit code 1\b.*\nno such luck"):
        generate_missing(pending_answers(tiny), answers, tiny.config(), ignore, command)


def test_an_idle_child_ends_when_nobody_can_ask_any_more(shared_run: TinyRun) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(CHILD, stdin=pipe, stdout=pipe, env=child_environment()) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        job = GenerationJob(
            (GenerationTask(str(shared_run.model), None, (), (prompt("k", "message"),)),), 6, 1
        )
        child.stdin.write(json.dumps(job.to_json()).encode() + b"\n")
        child.stdin.flush()
        while "done" not in json.loads(child.stdout.readline()):
            pass
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=30) == 0


def test_killed_it_goes_on_where_it_was_and_leaves_no_child(unevaluated: TinyRun) -> None:
    killed = subprocess.run(
        [sys.executable, KILLED, str(unevaluated.root), str(unevaluated.model), "5"],
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert killed.returncode == -9, killed.stderr
    child = int(killed.stdout)
    if psutil.pid_exists(child):
        psutil.Process(child).wait(timeout=30)
    path = unevaluated.run.evaluation / "answers.jsonl"
    kept = dict(AnswerCache(path))
    assert len(kept) == 5
    answers = AnswerCache(path)
    assert (
        generate_missing(pending_answers(unevaluated), answers, unevaluated.config(), ignore)
        == 18 - 5
    )
    assert {key: answers[key] for key in kept} == kept
    assert (
        generate_missing(pending_answers(unevaluated), answers, unevaluated.config(), ignore) == 0
    )


def test_all_models_get_the_same_prompts(tiny: TinyRun) -> None:
    nothing = AnswerCache(tiny.root / "nothing.jsonl")
    asked = {
        one.eval_model.name: [prompt.messages for prompt in one.missing(nothing)]
        for one in pending_answers(tiny)
    }
    assert asked["base"] == asked["student"] == asked["base_few_shot"]
    assert asked["base"] == [row.messages for row in eval_set(tiny.dataset).rows]


def test_an_answers_key_is_all_that_decides_it(tiny: TinyRun) -> None:
    rows = eval_set(tiny.dataset).rows
    base, few_shot, student = eval_models(tiny)
    keys = [*base.keys(rows, 6), *few_shot.keys(rows, 6), *student.keys(rows, 6)]
    keys += base.keys(rows, 7)
    assert len(set(keys)) == len(keys) == 4 * len(rows)
    moved = EvalModel("another name", base.model)
    assert moved.keys(rows, 6) == base.keys(rows, 6)
