"""Whoever waits for work in another thread stops it, and gets the exception once it has ended."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from providers.server import TeacherServer

RUN = """
import asyncio, json, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import anyio
from nanodistill import DistillationConfig, distill_async, synthesize, synthesize_async

URL, FOLDER, SERVER_TOTAL = sys.argv[1:4]
seeds = [{"input": f"message {n} about a thing", "output": "ab"[n % 2]} for n in range(10)]
FIELDS = dict(
    name="run", seed=seeds, instruction="Sort the messages into a and b.", teacher="openai/any",
    output_dir=FOLDER,
    thinking_format="none", augment_factor=30, max_concurrency=4, examples_per_call=1,
    extract_policy=False, check_seeds=False,
    litellm_kwargs={"api_base": URL, "api_key": "sk-x"},
)
config = DistillationConfig(**FIELDS)

def interrupt_soon():
    import urllib.request
    def work():
        while json.load(urllib.request.urlopen(SERVER_TOTAL))["total"] < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=work, daemon=True).start()

def total():
    import urllib.request
    return json.load(urllib.request.urlopen(SERVER_TOTAL))["total"]

def report(error):
    at_once = total()
    time.sleep(1.0)
    print(json.dumps([type(error).__name__, at_once, total()]), flush=True)
    os._exit(0)
"""
FORMS = {
    "in a running loop": """
        async def main():
            interrupt_soon()
            synthesize(config)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        except BaseException as error:
            report(error)
    """,
    "cancelled twin": """
        async def main():
            task = asyncio.create_task(distill_async(**{**FIELDS, "student": "smollm2-135m"}))
            while total() < 3:
                await asyncio.sleep(0.02)
            task.cancel()
            try:
                await task
            except BaseException as error:
                report(error)
        asyncio.run(main())
    """,
    "cancelled coroutine": """
        async def main():
            task = asyncio.create_task(synthesize_async(config))
            while await asyncio.to_thread(total) < 3:
                await asyncio.sleep(0.02)
            task.cancel()
            try:
                await task
            except BaseException as error:
                report(error)
        asyncio.run(main())
    """,
    "anyio's cancel scope": """
        async def main():
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    async def watch():
                        while await anyio.to_thread.run_sync(total) < 3:
                            await anyio.sleep(0.02)
                        scope.cancel()
                    tasks.start_soon(watch)
                    await distill_async(**{**FIELDS, "student": "smollm2-135m"})
            report(asyncio.CancelledError())
        asyncio.run(main())
    """,
    "plain": """
        interrupt_soon()
        try:
            synthesize(config)
        except BaseException as error:
            report(error)
    """,
}
RAISED = {"KeyboardInterrupt", "CancelledError", "RunInterruptedError"}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_asked_after_an_interrupt(
    tmp_path: Path, teacher_server: TeacherServer, form: str
) -> None:
    teacher_server.set(latency=0.2, record="nothing")
    script = tmp_path / "script.py"
    script.write_text(RUN + textwrap.dedent(FORMS[form]))
    state = f"{teacher_server.root}/_state"
    done = subprocess.run(
        [sys.executable, str(script), teacher_server.url, str(tmp_path), state],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr[-3000:]
    raised, at_once, later = json.loads(done.stdout.splitlines()[-1])
    assert raised in RAISED
    assert later == at_once < 300


def test_a_reader_that_leaves_ends_no_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from nanodistill.cli import main; main()", "--help"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert (child.wait(60), child.stderr.read()) == (0, b"")
    child.stderr.close()
