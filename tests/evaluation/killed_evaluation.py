"""An evaluation that is killed by SIGKILL at its n-th answer: killed_evaluation.py ROOT MODEL N.

Prints the process id of its child first.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil

from evaluation.conftest import TinyRun
from nanodistill.evaluation import evaluate
from nanodistill.events import Event, Progress


def main() -> None:
    root, model, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    tiny = TinyRun(root, model)

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.done == last:
            (child,) = psutil.Process().children()
            sys.stdout.write(f"{child.pid}\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate(tiny.config(), tiny.dataset, tiny.run, on_event=on_event)


if __name__ == "__main__":
    main()
