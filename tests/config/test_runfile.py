"""Run files: where paths lead, what --set does, which line a problem is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanodistill.config import load_config
from nanodistill.errors import ConfigError, InputError

HEAD = 'name = "run"\nseed = "seeds.jsonl"\ninstruction = "Do the sum."\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "checks.py").touch()
    (tmp_path / "cot.md").touch()
    more = (
        'output_dir = "out"\nstudent = "model"\nverifier = "checks:good"\n'
        'custom_cot_system_prompt = "cot.md"\nteacher = "mlx/model"\n'
    )
    config = load_config(write(tmp_path, HEAD + more), ["test=held_out.jsonl"])
    assert config.seed == str(tmp_path / "seeds.jsonl")
    assert config.output_dir == str(tmp_path / "out")
    assert config.student == str(tmp_path / "model")
    assert config.teacher == f"mlx/{tmp_path / 'model'}"
    assert config.verifier == f"{tmp_path / 'checks.py'}:good"
    assert config.custom_cot_system_prompt == str(tmp_path / "cot.md")
    assert config.test == "held_out.jsonl"


def test_names_that_are_no_paths_stay(tmp_path: Path) -> None:
    more = 'student = "owner/model"\nverifier = "package.module:good"\n'
    config = load_config(write(tmp_path, HEAD + more))
    assert config.student == "owner/model"
    assert config.verifier == "package.module:good"
    assert config.output_dir == "./outputs"


def test_set_reads_toml_and_else_text_and_reaches_into_tables(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "[litellm_kwargs]\ntop_p = 0.5\n")
    overrides = ["lora_rank=16", "litellm_kwargs.api_base=http://x", "litellm_kwargs.seed=3"]
    config = load_config(path, [*overrides, "instruction=Say hello there"])
    assert config.lora_rank == 16
    assert config.litellm_kwargs == {"top_p": 0.5, "api_base": "http://x", "seed": 3}
    assert config.instruction == "Say hello there"


def test_problems_name_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "lora_rnk = 3\n\n[litellm_kwargs]\ntop_p = 1\nn = 2\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["batch_size=99"])
    text = str(caught.value)
    assert f"{path}:4: lora_rnk: unknown key" in text
    assert f"{path}:8: litellm_kwargs.n: can't be set here: set `samples_per_input`" in text
    assert "  batch_size: is 99" in text


def test_prompts_of_the_bundle_are_relative_to_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "cot.md").write_text("Think.")
    more = '[prompt_templates]\ncot_system = "cot.md"\npolicy_extraction_system = "Look."\n'
    config = load_config(write(tmp_path, HEAD + more))
    assert config.custom_cot_system_prompt == str(tmp_path / "cot.md")
    assert config.custom_policy_extraction_prompt == "Look."


def test_problems_inside_tables_and_bundles_have_their_own_lines(tmp_path: Path) -> None:
    tables = "[mlx_lm_kwargs]\nwarmup_steps = 1\nlora_alfa = 3\n[advanced_config]\ntop_p = 3\n"
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, HEAD + tables))
    places = [problem.where.partition("run.toml:")[2] for problem in caught.value.problems]
    assert sorted(places) == ["6: mlx_lm_kwargs.lora_alfa", "8: advanced_config.top_p"]


@pytest.mark.parametrize("override", ["lora_rank", "=3", "seed.x=1"])
def test_an_override_that_is_none(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, HEAD), [override])


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no run file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"is no valid TOML.*line 1"):
        load_config(write(tmp_path, "name = \n"))
