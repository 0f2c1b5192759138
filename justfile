# NanoDistill's tasks. Every recipe uses what is in .venv, whatever the caller's PATH holds.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

python := ".venv/bin/python"
docs_python := ".venv/docs/bin/python"
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

# Write the run's report.html with what there is so far; `eval` writes it too
[no-exit-message]
report run="pipelines/quickstart.toml" *args: setup
    {{ nanodistill }} report "$@"

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
test *args: setup lint browser
    {{ python }} -m pytest -q -n 2 "$@"

# Where continuous integration is root on Debian and has no browser to open reports in, install one
[private]
browser:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ "${CI:-}" != true ] || [ ! -e /etc/debian_version ] || [ "$(id -u)" != 0 ]; then exit 0; fi
    if command -v chromium chromium-browser google-chrome chrome >/dev/null; then exit 0; fi
    export DEBIAN_FRONTEND=noninteractive
    if ! (apt-get update && apt-get install -y --no-install-recommends chromium) &>/dev/null; then
        echo "No browser could be installed: the tests that open a report in one will be skipped"
    fi

# Check style and types
lint: setup
    {{ python }} -m ruff check
    {{ python }} -m ruff format --check
    {{ python }} -m mypy --num-workers auto

# Measure the teacher service beside bare clients: throughput, a rate limit, memory; `--peers` adds curator
bench *args: setup
    PYTHONPATH=tests {{ python }} tests/benchmarks/bench_teacher.py "$@"

# Simulate what each constant of rate limiting is worth, at half and at double (two minutes)
bench-limits *args: setup
    PYTHONPATH=tests {{ python }} tests/benchmarks/limit_constants.py "$@"

# Kill `synth` at random instants, so many times, and count what was asked twice: `just kill-test 50`
kill-test kills="50": setup
    PYTHONPATH=tests {{ python }} tests/benchmarks/kill_soak.py {{ kills }}

# Let a server lie to `synth`, so many answers long: `just hostile-test 10000`
hostile-test answers="10000": setup
    PYTHONPATH=tests {{ python }} tests/benchmarks/hostile_soak.py {{ answers }}

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

# Kill a training run N times at random instants and compare what becomes of it, to the bit
kill-train n="20" *args: setup
    PYTHONPATH=tests {{ python }} tests/benchmarks/kill_training.py "$@"

# Mend what ruff can mend by itself
format: setup
    {{ python }} -m ruff check --fix
    {{ python }} -m ruff format

# Make the site of docs/ in site/; `just docs --open` shows it in a browser, with its search
docs *args:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ ! -x {{ docs_python }} ]; then
        "${PYTHON:-python3}" -m venv .venv/docs
    fi
    state="{{ sha256_file("docs/building/constraints.txt") }}"
    if [ "$(cat .venv/docs/setup-state 2>/dev/null || true)" != "$state" ]; then
        {{ docs_python }} -m pip --disable-pip-version-check --no-input install --quiet \
            --no-deps --require-hashes -r docs/building/constraints.txt
        echo "$state" > .venv/docs/setup-state
    fi
    export NO_MKDOCS_2_WARNING=1 PATH="$PWD/.venv/docs/bin:$PATH"
    case "${1:-}" in
        --open) exec {{ docs_python }} -m mkdocs serve --strict --open -f docs/building/mkdocs.yml ;;
        *) exec {{ docs_python }} -m mkdocs build --strict -f docs/building/mkdocs.yml "$@" ;;
    esac

# Write constraints.txt anew from pyproject.toml. Pins stay as they are unless `just lock --upgrade`
lock *args:
    #!/usr/bin/env bash
    set -euo pipefail
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet uv==0.13.9
    compile() {
        "$tools/bin/uv" pip compile --no-config --universal --python-version 3.11 --quiet \
            --generate-hashes --no-emit-index-url --custom-compile-command "just lock" "$@"
    }
    compile pyproject.toml --extra cpu --extra baseline --extra dev --output-file constraints.txt "$@"
    compile --group docs --output-file docs/building/constraints.txt "$@"

# Remove caches and build output. Runs in outputs/ and .venv stay
clean:
    rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
    find nanodistill tests pipelines -name __pycache__ -type d -prune -exec rm -rf {} +
