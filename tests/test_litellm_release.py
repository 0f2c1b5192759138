"""The release of LiteLLM that is installed makes both kinds of call that we need.

Whole series of releases failed on every call with tools unless a package was there that they did
not ask for, and instructor's default mode for LiteLLM passes tools. So this runs in a process of
its own on what the set-up installed, and nothing of ours is between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from providers.server import TeacherServer

CALLS = """
import asyncio, json, sys
import instructor, litellm
from pydantic import BaseModel

class Label(BaseModel):
    label: str

async def main() -> None:
    call = {
        "model": "openai/any", "api_base": sys.argv[1], "api_key": "none",
        "messages": [{"role": "user", "content": "Where is my parcel?"}],
    }
    plain = await litellm.acompletion(**call)
    client = instructor.from_litellm(litellm.acompletion)
    tool = await client.chat.completions.create(**call, response_model=Label, max_retries=0)
    print(json.dumps([plain.choices[0].message.content, tool.label]))

asyncio.run(main())
"""


def test_plain_calls_and_calls_with_tools(teacher_server: TeacherServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS, teacher_server.url],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    text, label = json.loads(done.stdout.splitlines()[-1])
    assert text
    assert label
    first, second = teacher_server.calls
    assert not first.body.get("tools")
    assert second.body["tools"][0]["function"]["name"] == "Label"
