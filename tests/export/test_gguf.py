"""The GGUF writer: against the way llama.cpp's converter writes, its own reader, and llama.cpp."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from models.tiny import Kind, Tiny, byte_level, sentencepiece, weights, write_gguf
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

from export.conftest import MAX_NEW_TOKENS, TrainedRun, as_folder
from nanodistill.errors import ModelError, VerificationError
from nanodistill.events import ignore
from nanodistill.exporting import export, llama_cpp
from nanodistill.exporting.gguf_vocabulary import PROBE, add_tokenizer, find_pre_name
from nanodistill.exporting.gguf_writer import add_shape, check_writable, permuted, unwritable
from nanodistill.exporting.parity import ParityCheck
from nanodistill.exporting.targets import GgufTarget, Options
from nanodistill.exporting.trained_adapter import find_trained_adapter
from nanodistill.hardware import cores
from nanodistill.models.generation import prompt_tokens
from nanodistill.models.gguf.convert import GgufFile, convert_gguf
from nanodistill.models.gguf.tokenizer_files import PRE_TOKENIZERS, write_tokenizer
from nanodistill.models.loading import load_model
from nanodistill.run_dir import RunFolder, write_json
from nanodistill.types import Message

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def untrained_adapter(folder: Path, model: Path) -> Path:
    """An adapter that changes nothing."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    loaded, _ = load_model(model)
    loaded.freeze()
    lora = {"rank": 2, "scale": 3.0, "dropout": 0.0}
    linear_to_lora_layers(loaded, 1, lora)
    folder.mkdir()
    found: dict[str, Any] = dict(tree_flatten(loaded.trainable_parameters()))
    mx.save_safetensors(str(folder / "adapters.safetensors"), found)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def tensors_of(file: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    return {t.name: (t.tensor_type.name, t.data) for t in GGUFReader(file).tensors}


def metadata_of(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_writes_what_llamacpps_converter_writes(arch: str, tied: bool, tmp_path: Path) -> None:
    from nanodistill.exporting.gguf_writer import write_gguf as write
    from nanodistill.exporting.mlx_folder import fused

    head_dim = 16 if arch == "qwen2" else 32  # mlx_lm has no other for it
    tiny = Tiny(arch=arch, tied=tied, head_dim=head_dim, matrices=Kind.F16)
    pre = {"llama": "smollm"}.get(arch, "qwen2")
    theirs, folder = as_folder(tmp_path, tiny, **{"ggml.pre": pre})
    adapter = untrained_adapter(tmp_path / "adapter", folder)
    ours = tmp_path / "ours.gguf"
    write(fused(folder, adapter), folder, ours, "f16", {"name": "tiny", "template": "x"})
    wanted, got = tensors_of(theirs), tensors_of(ours)
    assert list(got) == list(dict.fromkeys([*got, *wanted]))
    for name, (kind, data) in wanted.items():
        assert got[name][0] == kind, name
        assert np.array_equal(got[name][1], data), name
    said, meant = metadata_of(ours), metadata_of(theirs)
    for key in meant.keys() - {"GGUF.kv_count", "GGUF.tensor_count", "tokenizer.chat_template"}:
        assert said[key] == meant[key], key


def test_rows_that_make_no_blocks_stay_float16(tmp_path: Path) -> None:
    from nanodistill.exporting.gguf_writer import write_gguf as write
    from nanodistill.exporting.mlx_folder import fused

    _, folder = as_folder(tmp_path, Tiny(heads=3, kv_heads=3, head_dim=16, matrices=Kind.F16))
    adapter = untrained_adapter(tmp_path / "adapter", folder)
    ours = tmp_path / "ours.gguf"
    write(fused(folder, adapter), folder, ours, "q8_0", {"name": "tiny", "template": None})
    kinds = {name: kind for name, (kind, _) in tensors_of(ours).items()}
    assert kinds["blk.0.attn_output.weight"] == "F16"
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_a_number_beyond_float16_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load, save_file

    from nanodistill.exporting.gguf_writer import write_gguf as write
    from nanodistill.exporting.mlx_folder import fused

    _, folder = as_folder(tmp_path, Tiny())
    file = folder / "model.safetensors"
    held = load(file.read_bytes())
    held["model.embed_tokens.weight"][3, 3] = 1e5
    save_file(held, file)
    adapter = untrained_adapter(tmp_path / "adapter", folder)
    with pytest.raises(ModelError, match=r"token_embd\.weight holds 100000"):
        write(
            fused(folder, adapter), folder, tmp_path / "x.gguf", "f16", {"name": "", "template": ""}
        )


def test_rows_are_permuted_as_the_reader_puts_them_back() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert np.array_equal(permuted(rows, 2), rows[order])


def shape(**more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "vocab_size": 300,
        **more,
    }


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, {"llama.rope.freq_base": 10000.0}),
        ({"rope_theta": 5e5}, {"llama.rope.freq_base": 5e5}),
        ({"rope_parameters": {"rope_theta": 2e4}}, {"llama.rope.freq_base": 2e4}),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0,
                              "original_max_position_embeddings": 256}},
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 256},
        ),
        ({"rope_scaling": LLAMA3}, {"llama.rope.freq_base": 10000.0}),
        ({"head_dim": None}, {"llama.attention.key_length": 16}),
    ],
)  # fmt: skip
def test_what_the_file_says_of_rope(
    more: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    config = shape(**more)
    assert unwritable(config) is None
    writer = GGUFWriter(tmp_path / "shape.gguf", "llama")
    add_shape(writer, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = metadata_of(tmp_path / "shape.gguf")
    assert {key: found[key] for key in said} == said


def test_llama_3s_scaling_is_written_as_its_factors(tmp_path: Path) -> None:
    from nanodistill.exporting.gguf_writer import write_gguf as write
    from nanodistill.exporting.mlx_folder import fused

    _, folder = as_folder(tmp_path, Tiny(head_dim=64))
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_scaling": LLAMA3, "rope_theta": 500000.0}
    (folder / "config.json").write_text(json.dumps(config))
    adapter = untrained_adapter(tmp_path / "adapter", folder)
    ours, again = tmp_path / "ours.gguf", tmp_path / "again"
    write(fused(folder, adapter), folder, ours, "f16", {"name": "tiny", "template": "x"})
    again.mkdir()
    convert_gguf(ours, again)
    read = json.loads((again / "config.json").read_text())
    assert read["rope_scaling"] == LLAMA3
    assert read["rope_theta"] == 500000.0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"model_type": "phi3"}, "architecture is 'phi3'"),
        ({"hidden_act": "gelu"}, "not SiLU"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "no place in the file"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "slides over a window"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 1]}, None),
        ({"model_type": "smollm3", "no_rope_layers": [0, 1]}, "leaves rope out in other layers"),
        ({"model_type": "mistral", "sliding_window": None}, None),
    ],
)
def test_what_can_not_be_written_is_named(more: dict[str, Any], why: str | None) -> None:
    if why is None:
        check_writable(shape(**more), "it")
        return
    with pytest.raises(ModelError, match=why) as refused:
        check_writable(shape(**more), "it")
    assert "--converter" in str(refused.value.next_step)


def written_tokenizer(tmp_path: Path, folder: Path, size: int, **config: Any) -> GgufFile:
    """What our writer says of the tokenizer in `folder`, in a file without tensors."""
    file = tmp_path / "vocabulary.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(512)
    add_tokenizer(writer, folder, {"vocab_size": size, **config}, "the template")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(file)


def folder_of(tmp_path: Path, told: dict[str, Any]) -> tuple[Path, GgufFile]:
    """A folder with the tokenizer of a GGUF file that says `told`, and that file."""
    file, folder = tmp_path / "told.gguf", tmp_path / "told"
    write_gguf(file, Tiny(), weights(Tiny(), len(told["ggml.tokens"])), told)
    folder.mkdir()
    convert_gguf(file, folder)
    return folder, GgufFile(file)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_the_way_of_cutting_text_is_found(pre: str, tmp_path: Path) -> None:
    told = byte_level(pre)
    folder, theirs = folder_of(tmp_path, told)
    ours = written_tokenizer(tmp_path, folder, len(told["ggml.tokens"]), eos_token_id=[2, 0])
    found = ours["tokenizer.ggml.pre"]
    assert PRE_TOKENIZERS[found] == PRE_TOKENIZERS[pre]
    keys = ("model", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id",
            "padding_token_id", "unknown_token_id", "add_bos_token")  # fmt: skip
    for key in keys:
        assert ours[f"tokenizer.ggml.{key}"] == theirs[f"tokenizer.ggml.{key}"], key
    assert ours["tokenizer.ggml.eot_token_id"] == 0
    assert ours["tokenizer.chat_template"] == "the template"


def test_sentencepiece_goes_there_and_back(tmp_path: Path) -> None:
    told = sentencepiece()
    folder, theirs = folder_of(tmp_path, told)
    ours = written_tokenizer(tmp_path, folder, len(told["ggml.tokens"]) + 5, eos_token_id=2)
    for key in ("model", "bos_token_id", "eos_token_id"):
        assert ours[f"tokenizer.ggml.{key}"] == theirs[f"tokenizer.ggml.{key}"]
    tokens, kinds = ours["tokenizer.ggml.tokens"], ours["tokenizer.ggml.token_type"]
    assert tokens[:-5] == theirs["tokenizer.ggml.tokens"]
    assert kinds[:-5] == theirs["tokenizer.ggml.token_type"]
    assert (tokens[-1], kinds[-1]) == (f"[PAD{len(tokens) - 1}]", 5)
    assert ours["tokenizer.ggml.add_bos_token"]

    again = tmp_path / "again"
    again.mkdir()
    write_tokenizer(ours, again)
    before, after = (Tokenizer.from_file(str(f / "tokenizer.json")) for f in (folder, again))
    for text in ("the world", "in  the world, hello!", "über A1B", PROBE):
        assert before.encode(text).ids == after.encode(text).ids


def test_a_tokenizer_that_has_no_name_is_refused(tmp_path: Path) -> None:
    odd = Tokenizer(models.BPE({"a": 0}, []))
    odd.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="has no name in GGUF"):
        find_pre_name(odd, False, tmp_path / "tokenizer.json")
    told = byte_level()
    folder, _ = folder_of(tmp_path, told)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match="normalizes text"):
        written_tokenizer(tmp_path, folder, len(told["ggml.tokens"]))


@pytest.mark.parametrize(("kind", "least"), [("f16", 10), ("q8_0", 6)])
def test_llamacpp_answers_as_the_adapter_does(llama: TrainedRun, kind: Any, least: int) -> None:
    """Random weights answer letters without sense, so that the last bits decide some of them."""
    config, run = llama.config(export_tolerance=100), llama.run
    done = export(config, run, to="gguf", options=Options(gguf_type=kind))
    assert done.path == run.root / "gguf" / kind / f"tiny-{kind.upper()}.gguf"
    assert done.parity is not None
    assert done.parity.scored_in == "llama.cpp"
    rows = list(llama.dataset.rows("test"))
    prompts = [tuple(row["messages"][:-1]) for row in rows]
    found = [each.text for each in llama_cpp.ask(done.path, prompts, MAX_NEW_TOKENS, ignore)]
    pairs = zip(found, (row["output"] for row in rows), strict=True)
    assert sum(whole(text) == whole(gold) for text, gold in pairs) >= least


def whole(text: str) -> str:
    """Without characters that were cut, which the two write in different ways."""
    return text.replace("\ufffd", "").strip()


def test_without_llamacpp_the_file_is_read_back(llama: TrainedRun) -> None:
    config, run = llama.config(), llama.run
    source = find_trained_adapter(config, run, None, None, ignore)
    place = llama.root / "read"
    target = GgufTarget(place, source, Options(), "tiny", ignore, reader="mlx")
    folder = llama.root / "work"
    folder.mkdir()
    target.build("f16", folder)
    parity = target.score(ParityCheck(config, run, source, ignore), folder)
    assert (parity.scored_in, parity.same, parity.lost) == ("mlx", 12, 0)
    assert [file.name for file in folder.iterdir()] == ["tiny-F16.gguf"]


def test_tokenizer_kwargs_are_written_into_the_file(llama: TrainedRun, tmp_path: Path) -> None:
    config = llama.config(tokenizer_kwargs={"chat_template": "another"})
    source = find_trained_adapter(config, llama.run, None, None, ignore)
    target = GgufTarget(tmp_path, source, Options(), "tiny", ignore, reader="mlx")
    target.build("f16", tmp_path)
    assert GgufFile(tmp_path / target.file)["tokenizer.chat_template"] == "another"


NO_PLACE_AND_DATED = (
    "{{ strftime_now('%d %b %Y') }}{{ date_string | default('no date') }}\n"
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_without_a_place_for_the_instruction_and_with_a_date_is_settled_in_the_file(
    llama: TrainedRun, tmp_path: Path
) -> None:
    config = llama.config(tokenizer_kwargs={"chat_template": NO_PLACE_AND_DATED})
    run = RunFolder(tmp_path / "run")
    shutil.copytree(llama.run.root, run.root)
    write_json(run.training / "student.json", {"template_date": "2024-07-06T05:04:03"})
    source = find_trained_adapter(config, run, None, None, ignore)
    target = GgufTarget(tmp_path, source, Options(), "tiny", ignore, reader="mlx")
    target.build("f16", tmp_path)
    messages = next(iter(source.dataset.rows("test")))["messages"][:-1]
    said = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    prompt = f"06 Jul 2024no date\n<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    template = str(GgufFile(tmp_path / target.file)["tokenizer.chat_template"])
    (text,), _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True, date_string="now"
    )
    assert text == prompt
    loaded = load_model(source.base.name, tokenizer_kwargs=source.tokenizer_kwargs)
    tokens = prompt_tokens(loaded, messages)
    assert loaded.tokenizer.decode(tokens) == prompt
    (answer,) = llama_cpp.ask(tmp_path / target.file, [messages], 2, ignore)
    assert answer.prompt_tokens == len(tokens)


def test_llamacpp_gets_cores_that_are_free() -> None:
    assert 1 <= llama_cpp.free_cores() <= cores()


def test_a_file_that_llamacpp_refuses(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    write_gguf(file, Tiny(), weights(Tiny(), 300), byte_level())  # tokens for fewer rows
    with pytest.raises(VerificationError, match=r"llama\.cpp does not answer with broken\.gguf"):
        llama_cpp.ask(file, [[Message(role="user", content="hi")]], 2, ignore)
