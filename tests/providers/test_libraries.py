"""What the libraries below us change in the host's process is undone."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, logging, os, sys
def state():
    loggers = [logging.getLogger(name) for name in ("httpx", "openai", "")]
    return [[l.disabled, l.level, len(l.handlers)] for l in loggers] + [
        sorted(k for k in os.environ if "LITELLM" in k)
    ]
logging.basicConfig(level=logging.INFO)
logging.getLogger("httpx").setLevel(logging.DEBUG)
before = state()
from nanodistill import DistillationConfig, plan
config = DistillationConfig(
    name="run", seed=[{"input": f"message {n}", "output": "ab"[n % 2]} for n in range(4)],
    instruction="Sort the messages into a and b.", teacher="openai/any", output_dir=sys.argv[1],
    litellm_kwargs={"api_base": "http://127.0.0.1:9/v1", "api_key": "k"},
)
plan(config)
assert "litellm" in sys.modules
print(json.dumps([before, state()]))
"""


def test_the_hosts_loggers_and_variables_are_as_they_were(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert after == before
