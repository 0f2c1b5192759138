# NanoDistill's tasks. Every recipe uses what is in .venv, whatever the caller's PATH holds.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

python := ".venv/bin/python"
nanodistill := ".venv/bin/nanodistill"

[private]
default:
    @"{{ just_executable() }}" --justfile "{{ justfile() }}" --list --unsorted

# Make .venv if it is missing, and install what is pinned in constraints.txt and the project
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ ! -x {{ python }} ]; then
        "${PYTHON:-python3}" -m venv .venv
    fi
    {{ python }} -c 'import sys; sys.exit(sys.version_info < (3, 11) and "NanoDistill needs Python 3.11 or later; .venv has %d.%d. Remove .venv, then: PYTHON=/path/to/python3.11 just setup" % sys.version_info[:2])'
    # The directory counts, because the project is installed as a link to it.
    state="{{ sha256(sha256_file("constraints.txt") + sha256_file("pyproject.toml") + justfile_directory()) }} $({{ python }} -VV)"
    if [ "$(cat .venv/setup-state 2>/dev/null || true)" = "$state" ]; then
        exit 0
    fi
    rm -f .venv/setup-state
    echo "Installing the pinned dependencies into .venv (2 GB on disk; a few minutes the first time)"
    pip() { {{ python }} -m pip --disable-pip-version-check --no-input "$@"; }
    pip install --compile --no-deps --require-hashes -r constraints.txt
    pip install --quiet --no-deps --no-build-isolation -e .
    pip check
    echo "$state" > .venv/setup-state

# Set up, then make the quickstart's dataset, train its student and evaluate it
demo: setup synth train eval

# Make a dataset with the teacher; run again to go on. `just synth my.toml --limit 20` is a preview
[no-exit-message]
synth run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} synth "$@"

# Train the student on the run's latest dataset; run again to go on
[no-exit-message]
train run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} train "$@"

# Score base and student on the run's test set
[no-exit-message]
eval run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} eval "$@"

# Write the student as one model and score it again: `just export my.toml --to gguf`
[no-exit-message]
export run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} export "$@"

# Serve the student behind OpenAI's chat interface on this machine: `just serve my.toml --port 8081`
[no-exit-message]
serve run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} serve "$@"

# Put the run's dataset version on the Hub, or with `--what fused` its model; private unless `--public`
[no-exit-message]
push run repo *args: setup
    {{ nanodistill }} push "$@"

# Check style, types and tests; arguments go to pytest: `just test -k journal`
test *args: setup lint
    {{ python }} -m pytest -q -n 2 "$@"

# Check style and types
lint: setup
    {{ python }} -m ruff check
    {{ python }} -m ruff format --check
    {{ python }} -m mypy --num-workers auto

# Measure the teacher service: throughput by transport, side by side with the bare clients
bench *args: setup
    {{ python }} tests/benchmarks/bench_teacher.py "$@"

# Measure local generation, and synthesis and dataset versions of 100,000 rows
bench-data: setup
    {{ python }} tests/benchmarks/bench_generation.py
    {{ python }} tests/benchmarks/bench_dataset.py

# Measure what the coverage plan is worth: the quickstart with and without it (half an hour)
ablation *args: setup
    {{ python }} tests/benchmarks/ablation_coverage.py "$@"

# Measure training: trained rows per second of `mlx_lm lora` and ours, side by side (minutes)
bench-train *args: setup
    {{ python }} tests/benchmarks/bench_training.py "$@"

# Mend what ruff can mend by itself
format: setup
    {{ python }} -m ruff check --fix
    {{ python }} -m ruff format

# Write constraints.txt anew from pyproject.toml. Pins stay as they are unless `just lock --upgrade`
lock *args:
    #!/usr/bin/env bash
    set -euo pipefail
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet uv==0.13.9
    "$tools/bin/uv" pip compile pyproject.toml --no-config --universal --python-version 3.11 \
        --extra cpu --extra dev --generate-hashes --no-emit-index-url \
        --custom-compile-command "just lock" --quiet --output-file constraints.txt "$@"

# Remove caches and build output. Runs in outputs/ and .venv stay
clean:
    rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
    find nanodistill tests pipelines -name __pycache__ -type d -prune -exec rm -rf {} +
