"""Peers in environments of their own: curator, installed from the package index on demand.

    python tests/benchmarks/peers.py URL BACKEND CALLS AT_ONCE      (in the peer's environment)

prints the seconds that curator takes for so many calls with the same JSON schema.
Its telemetry, viewer and response cache are off; imports are outside the clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CURATOR = "bespokelabs-curator"
MOST_SECONDS = 300


def curator_python(cache: Path, *, install: bool) -> tuple[Path | None, str]:
    """The interpreter that has curator, or None; and its version or why there is none."""
    python = cache / "curator" / "bin" / "python"
    if install and not python.exists():
        subprocess.run([sys.executable, "-m", "venv", cache / "curator"], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, CURATOR], capture_output=True, text=True, check=False)
        if done.returncode:
            return None, f"could not be installed: {(done.stderr.splitlines() or ['?'])[-1]}"
    if not python.exists():
        return None, "is not installed; --peers installs it"
    version = f"from importlib.metadata import version; print(version({CURATOR!r}))"
    found = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
    return (python, found.stdout.strip()) if found.returncode == 0 else (None, "does not start")


def run_curator(python: Path, backend: str, url: str, at_once: int, calls: int) -> float:
    """Seconds for `calls` calls by curator in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "HOME": folder,
            "OPENAI_API_KEY": "sk-benchmark",
            "OPENAI_BASE_URL": url,
            "TELEMETRY_ENABLED": "false",
            "CURATOR_VIEWER": "false",
            "CURATOR_DISABLE_CACHE": "true",
            "CURATOR_DISABLE_RICH_DISPLAY": "1",
            "CURATOR_CACHE_DIR": folder,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HUB_OFFLINE": "1",
            "TIKTOKEN_CACHE_DIR": str(_encodings(python)),
        }
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        done = subprocess.run(
            [python, __file__, url, backend, str(calls), str(at_once)],
            env=inherited | own, cwd=folder, capture_output=True, text=True, check=False,
            timeout=MOST_SECONDS,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"curator failed: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def _encodings(python: Path) -> Path:
    """Where curator's own LiteLLM keeps tiktoken's tables, which are fetched else."""
    packages = python.parents[1].glob("lib/python*/site-packages")
    (found,) = (each / "litellm/litellm_core_utils/tokenizers" for each in packages)
    return found


def main(url: str, backend: str, calls: int, at_once: int) -> None:
    """Runs in the peer's environment."""
    from bespokelabs import curator  # type: ignore[import-not-found]
    from pydantic import BaseModel

    class Output(BaseModel):
        reasoning: str
        queue: str

    class Row(BaseModel):
        input: str
        output: Output

    class Rows(BaseModel):
        examples: list[Row]

    class Asking(curator.LLM):  # type: ignore[misc]
        response_format = Rows

        def prompt(self, row: dict[str, str]) -> str:
            return row["text"]

        def parse(self, row: dict[str, str], response: Rows) -> list[dict[str, str]]:
            return [
                {"input": each.input, "output": each.output.queue} for each in response.examples
            ]

    model = "gpt-4o-mini" if backend == "openai" else "openai/gpt-4o-mini"
    asking = Asking(
        model_name=model,
        backend=backend,
        response_format=Rows,
        backend_params={
            "base_url": url,
            "max_concurrent_requests": at_once,
            "max_requests_per_minute": 10_000_000,
            "max_tokens_per_minute": 10_000_000_000,
        },
    )
    rows = [{"text": f"text number {number} of many"} for number in range(calls)]
    began = time.perf_counter()
    made = asking(rows)
    seconds = time.perf_counter() - began
    assert len(made.dataset if hasattr(made, "dataset") else made) >= calls
    sys.stdout.write(f"\n{seconds}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
