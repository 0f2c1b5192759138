"""The stop button of a notebook, in a real Jupyter kernel: the work ends, and only then the cell.

What is asked of the teacher after a cell has ended would be paid for by nobody's wish. The
server is looked at before and after a further cell: a false success is possible where the
machine is very slow, a false failure is not.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation.tiny import make_dataset
from evaluation.tiny import some_rows as dataset_rows
from providers.server import TeacherServer
from synthesis.test_over_http import answering
from synthesis.writer import Writer
from training.tiny import make_config, make_student

from nanodistill.run_dir import RunFolder

pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

TESTS = Path(__file__).parent
LATENCY = 0.2
PATIENCE = 300
INTERRUPTED = {"KeyboardInterrupt", "RunInterruptedError", "CancelledError"}


class Kernel:
    """A running kernel, and what its cells printed."""

    def __init__(self, client: Any, interrupt: Callable[[], None]) -> None:
        self._client = client
        self.interrupt = interrupt

    def start(self, code: str) -> str:
        """Begin a cell. It ends in `ended`, with what this returns."""
        cell: str = self._client.execute(textwrap.dedent(code))
        return cell

    def ended(self, cell: str) -> tuple[str, str]:
        """The name of the cell's exception ("" without one), and what it printed."""
        printed: list[str] = []
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while (reply := self._client.get_shell_msg(timeout=PATIENCE))["parent_header"][
            "msg_id"
        ] != cell:
            pass
        return reply["content"].get("ename", ""), "".join(printed)

    def run(self, code: str) -> str:
        """What a cell printed that ends well."""
        failed, printed = self.ended(self.start(code))
        assert not failed, printed
        return printed


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    started, client = manager.start_new_kernel(startup_timeout=PATIENCE, cwd=str(tmp_path))
    try:
        kernel = Kernel(client, started.interrupt_kernel)
        kernel.run(f"import sys; sys.path.insert(0, {str(TESTS)!r}); import nanodistill")
        yield kernel
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


CONFIGURE = """
from pathlib import Path
from synthesis.runs import config_in
config = config_in(
    Path("."), teacher="openai/any", max_concurrency=4, augment_factor=6,
    litellm_kwargs={{"api_base": {url!r}, "api_key": "sk-x"}},
)
"""
FORMS = {
    "plain": "result = nanodistill.synthesize(config)",
    "awaited": "result = await nanodistill.synthesize_async(config)",
}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_asked_behind_a_cell_that_was_stopped(
    kernel: Kernel, teacher_server: TeacherServer, form: str
) -> None:
    teacher_server.set(answer=answering(Writer()), latency=LATENCY)
    kernel.run(CONFIGURE.format(url=teacher_server.url))
    cell = kernel.start(FORMS[form])
    until(lambda: teacher_server.total >= 3)
    kernel.interrupt()
    raised, _ = kernel.ended(cell)
    asked = teacher_server.total
    assert raised in INTERRUPTED
    assert kernel.run("print(6 * 7)") == "42\n"
    time.sleep(5 * LATENCY)
    assert (teacher_server.total, teacher_server.in_flight) == (asked, 0)

    teacher_server.set(latency=0.0)
    printed = kernel.run(FORMS[form] + "\nprint(result.kept, result.calls['reused'])")
    kept, reused = map(int, printed.split())
    assert kept == 72
    assert 0 < reused <= asked


TRAIN = "result = nanodistill.train(config, on_event=hear)"


def test_training_that_was_stopped_goes_on_from_its_checkpoint(
    kernel: Kernel, tmp_path: Path
) -> None:
    student = make_student(tmp_path / "student")
    settings = {"num_train_epochs": 10, "logging_steps": 1}
    config = make_config(student, tmp_path, **settings)
    make_dataset(RunFolder(config.run_folder), dataset_rows(seeds=40))
    begun = tmp_path / "begun"
    kernel.run(f"""
        from pathlib import Path
        from nanodistill.events import Progress
        from training.tiny import make_config
        config = make_config(Path({str(student)!r}), Path({str(tmp_path)!r}), **{settings!r})

        def hear(event):
            if isinstance(event, Progress):
                Path({str(begun)!r}).touch()
    """)
    cell = kernel.start(TRAIN)
    until(begun.exists)
    kernel.interrupt()
    raised, printed = kernel.ended(cell)
    assert raised in INTERRUPTED, printed
    assert kernel.run("print(6 * 7)") == "42\n"
    printed = kernel.run(TRAIN + "\nprint(result.steps, result.resumed_from)")
    steps, resumed_from = printed.split()
    assert 0 < int(resumed_from) < int(steps)
