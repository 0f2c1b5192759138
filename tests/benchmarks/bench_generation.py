"""Tokens per second of a local model, by size of the batch.

    python tests/benchmarks/bench_generation.py [MODEL]     (default: the embedded model)

Prompts of about 45 tokens, 40 tokens for each answer. `NANODISTILL_BLAS` chooses the BLAS.
"""

from __future__ import annotations

import os
import sys
import time

from nanodistill.models.batching import SequenceBatch
from nanodistill.models.generation import prompt_tokens
from nanodistill.models.loading import LoadedModel, load_model
from nanodistill.models.sampling import Sampling

BATCHES = (1, 8, 32)
TOKENS = 40


def measure(loaded: LoadedModel, size: int, temperature: float) -> tuple[float, float]:
    """Tokens per second: of reading the prompts, and of all that is drawn after the first."""
    batch = SequenceBatch(loaded, max_batch=size)
    prompts = [
        prompt_tokens(loaded, [{"role": "user", "content": f"Write message {i} about billing."}])
        for i in range(size)
    ]
    for i, prompt in enumerate(prompts):
        sampling = Sampling(TOKENS, temperature=temperature, top_p=0.95, seed=i)
        batch.add(i, prompt, sampling)
    started = time.perf_counter()
    while not batch.step():
        pass
    read = time.perf_counter()
    drawn = 0
    while len(batch):
        drawn += len(batch.step())
    ended = time.perf_counter()
    batch.close()
    return sum(map(len, prompts)) / (read - started), drawn / (ended - read)


def main() -> None:
    loaded = load_model(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")
    print(f"{loaded.blas.describe()}; {loaded.note}; load {os.getloadavg()[0]:.1f}")
    print("batch  temperature  prompt tokens/s  tokens/s")
    for size in BATCHES:
        for temperature in (0.0, 0.9):
            prompt, answer = measure(loaded, size, temperature)
            print(f"{size:5}  {temperature:11}  {prompt:15.0f}  {answer:8.1f}")


if __name__ == "__main__":
    main()
