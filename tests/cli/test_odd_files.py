"""Every command over a run folder in which one file is not what it was: named, and no fault."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluation.tiny import make_adapter, make_model
from huggingface_hub import constants
from reporting.factories import RunFactory

from nanodistill.cli import run as command
from nanodistill.errors import InputError, ModelError
from nanodistill.evaluation.endpoint import KEY_VARIABLE, find_endpoint
from nanodistill.exporting.mlx_folder import touched_modules
from nanodistill.models.loading import load_model
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.synthesis.policy import TaskPolicy, hash_of
from nanodistill.training.estimate import read_model_metadata
from nanodistill.training.runs import index_path

SEEDS = [{"input": f"word {n}", "output": ("animal", "plant")[n % 2]} for n in range(8)]
RUN_FILE = """\
name = "words"
seed = "seeds.jsonl"
instruction = "Say whether the word is an animal or a plant."
teacher = "python:teacher.py:answer"
student = "tiny-student"
output_dir = "."
"""
COMMANDS = {
    "plan": ["plan", "RUN"],
    "status": ["status", "RUN"],
    "report": ["report", "RUN"],
    "show": ["dataset", "show", "RUN"],
    "verify": ["dataset", "verify", "RUN"],
    "diff": ["dataset", "diff", "RUN", "v0001", "v0001"],
    "edit": ["dataset", "edit", "RUN", "--out", "OUT"],
    "prune": ["dataset", "prune", "RUN"],
    "prune --yes": ["dataset", "prune", "RUN", "--yes"],
    "train": ["train", "RUN", "--dry-run"],
    "ask": ["ask", "RUN", "hello"],
    "eval": ["eval", "RUN"],
    "export": ["export", "RUN"],
    "push": ["push", "RUN", "owner/words"],
    "push adapter": ["push", "RUN", "owner/words", "--what", "adapter"],
    "push fused": ["push", "RUN", "owner/words", "--what", "fused"],
}
FILES = [
    "format.json",
    "policy.json",
    "journal.sqlite",
    "datasets/index.json",
    "datasets/v*/manifest.json",
    "datasets/v*/data/train-*.parquet",
    "training/index.json",
    "training/run1/metrics.jsonl",
    "training/run1/config.json",
    "training/run1/result.json",
    "evaluation/run1/results.json",
    "evaluation/run1/predictions.parquet",
    "model/nanodistill.json",
]


def is_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def holds(content: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(content))


def void(_: object) -> None:
    """For a lambda that is called for what it does."""


def shortened(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def in_other_types(path: Path) -> None:
    """Each value of another type than it was, in JSON files; a byte changed in others."""
    content = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        path.write_bytes(content[:40] + b"\0garbage" + content[48:])
        return
    lines = content.splitlines() if path.suffix == ".jsonl" else [content]
    path.write_text("\n".join(json.dumps(changed(json.loads(line))) for line in lines) + "\n")


def changed(value: object) -> object:
    if isinstance(value, dict):
        return {name: changed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [changed(item) for item in value]
    return ["other"] if isinstance(value, str) else "other"


def less_its_fields(path: Path) -> None:
    path.write_bytes(b"{}" if path.suffix == ".json" else b"{}\n")


def of_a_newer_release(path: Path) -> None:
    if path.suffix == ".json":
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps(value | {"format": 99}))


CORRUPTIONS: dict[str, Callable[[Path], None]] = {
    "folder": is_folder,
    "broken link": is_broken_link,
    "empty": holds(b""),
    "null": holds(b"null"),
    "list": holds(b"[1, 2]\n"),
    "deep": holds(b'{"format": ' + b"[" * 100_000),
    "binary": holds(b"\x00\x01\xff\xfe" * 50),
    "latin-1": holds('{"format": "é"}'.encode("latin-1")),
    "utf-16": holds('{"format": "é"}'.encode("utf-16")),
    "cut": shortened,
    "other types": in_other_types,
    "no fields": less_its_fields,
    "newer": of_a_newer_release,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every part there is, but for the models themselves."""
    root = tmp_path_factory.mktemp("whole")
    made = RunFactory(root)
    made.add_everything()
    policy = TaskPolicy.model_validate(
        {
            name: "as it is"
            for name, field in TaskPolicy.model_fields.items()
            if field.annotation is str
        }
        | {"topics": ["trees"], "styles": []}
    )
    held = {"made_from": "ab" * 32, "was_made": hash_of(policy), "policy": policy.model_dump()}
    write_json(made.run.policy, held)
    write_json(made.run.root / "format.json", {"format": 1})
    adapter = made.run.training / "run1" / "adapters"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes(b"")
    (adapter / "adapter_config.json").write_text("{}")
    made.run.model.mkdir()
    write_json(made.run.model / "nanodistill.json", exported(made))
    (root / "seeds.jsonl").write_text("\n".join(map(json.dumps, SEEDS)))
    (root / "teacher.py").write_text("def answer(request): return 'animal'\n")
    (root / "run.toml").write_text(RUN_FILE)
    return root


def exported(made: RunFactory) -> dict[str, object]:
    lineage = dict.fromkeys(("base", "base_identity", "adapter_sha256", "dataset"), "x")
    task = {"instruction": "Say it.", "instruction_in_template": False, "thinking_format": "none"}
    return {
        "format": 1, "name": "words", "to": "mlx", "form": "as base", "key": "k",
        "lineage": lineage | {"run": "run1", "fingerprint": "f", "licence": None, "teacher": None},
        "task": task | {"train_on": "cot", "labels": None, "response_schema": None,
                        "max_new_tokens": 8},
        "parity": None, "libraries": {},
    }  # fmt: skip


def some_commands(turn: int) -> dict[str, list[str]]:
    """Every third command, by turns: each meets each kind of corruption, if not in each file."""
    return {name: COMMANDS[name] for name in list(COMMANDS)[turn % 3 :: 3]}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("file", FILES)
def test_an_odd_file_is_named_and_is_no_fault(
    file: str,
    corruption: str,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    here = tmp_path / "here"
    wrong = {}
    turn = FILES.index(file) + list(CORRUPTIONS).index(corruption)
    for name, words in some_commands(turn).items():
        shutil.copytree(whole, here, symlinks=True)
        (path,) = (here / "words").glob(file)
        os.chmod(path, 0o644)
        CORRUPTIONS[corruption](path)
        given = {"RUN": str(here / "run.toml"), "OUT": str(tmp_path / "out.jsonl")}
        code = command([given.get(word, word) for word in words])
        told = capsys.readouterr().err
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        shutil.rmtree(here)
        # A version that is not what it was is a difference found, which is exit code 1.
        fine = code in (0, 2, 3) or (code == 1 and "is not what it was" in told)
        if not fine or "fault of NanoDistill" in told or "Traceback" in told:
            wrong[name] = (code, told[-600:])
    assert wrong == {}


@pytest.mark.parametrize("file", ["adapter_config.json", "adapters.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b'{"num_layers": "x"}', b"\xff" * 64], ids=range(5)
)
def test_an_adapter_that_is_none(file: str, content: bytes, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    adapter = make_adapter(tmp_path / "adapter", model)
    (adapter / file).write_bytes(content)
    with pytest.raises(ModelError, match="adapter"):
        load_model(str(model), adapter=adapter)
    if file.endswith(".safetensors"):
        with pytest.raises(ModelError, match=file):
            touched_modules(adapter / file)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h/v1", "http://[", '"http://h/v1"', ""])
def test_an_endpoint_that_is_none(url: str) -> None:
    with pytest.raises(InputError, match="--endpoint"):
        find_endpoint(url, "model")


def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "abc\n123")
    with pytest.raises(InputError, match=KEY_VARIABLE) as refused:
        find_endpoint("http://127.0.0.1:9/v1", "model")
    assert "abc" not in str(refused.value)


@pytest.mark.parametrize("length", [2**60, 10**6], ids=["absurd", "cut"])
def test_a_safetensors_header_longer_than_its_file(length: int, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    (weights,) = model.glob("model*.safetensors")
    weights.write_bytes(length.to_bytes(8, "little") + b'{"a": ')
    with pytest.raises(ModelError, match=weights.name):
        read_model_metadata(model)


def test_status_needs_of_the_training_index_what_it_shows(whole: Path, tmp_path: Path) -> None:
    here = shutil.copytree(whole, tmp_path / "here", symlinks=True)
    index = index_path(RunFolder(here / "words"))
    runs = [{"run": "run1", "dataset": "owner/elsewhere@main", "student": "tiny-student"}]
    write_json(index, {"latest": "run1", "runs": runs})
    assert command(["status", str(here / "run.toml")]) == 0
    write_json(index, {"latest": "run1", "runs": [{**runs[0], "run": "../../away"}]})
    assert command(["status", str(here / "run.toml")]) == 2
