"""A child that the system would kill for memory where a batch is larger than argv[1].

It answers one prompt before it dies, as a real one may.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    bearable = int(sys.argv[1])
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [prompt for task in job["tasks"] for prompt in task["prompts"]]
        say({"notice": {"text": f"batch of {job['batch_size']}", "level": "info"}})
        for prompt in prompts:
            say({"generated": answer(prompt["key"])})
            if job["batch_size"] > bearable:
                os.kill(os.getpid(), signal.SIGKILL)
        say({"done": True})


def answer(key: str) -> dict[str, object]:
    return {
        "key": key,
        "text": "bug",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 1,
        "seconds": 0.1,
        "peak_memory": 100,
    }


if __name__ == "__main__":
    main()
