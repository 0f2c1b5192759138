"""Each option is seen where it has its effect: in the adapters, the optimizer, or the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nanodistill.config import TrainingSettings
from nanodistill.config.mlx_options import OPTIMIZER_SETTINGS, MlxSettings
from nanodistill.errors import ConfigError
from nanodistill.training.training_options import TrainingOptions
from training.tiny import make_config, make_student

import mlx.core as mx  # isort: skip - after tiny has loaded the BLAS
from mlx.nn.layers.base import Module  # isort: skip
from mlx_lm.tuner.dora import DoRALinear  # isort: skip
from mlx_lm.tuner.lora import LoRALinear  # isort: skip
from mlx_lm.utils import load_model  # isort: skip

from nanodistill.training import mlx_setup  # isort: skip
from nanodistill.training.mlx_setup import NORM, TrackedOptimizer, build_optimizer  # isort: skip

UPDATES = 10


@dataclass
class PreparedStudent:
    """What the trainer makes of some settings."""

    options: TrainingOptions
    model: Module
    optimizer: Any

    @property
    def adapter(self) -> LoRALinear:
        adapter: LoRALinear = self.layers("self_attn.q_proj")[-1]
        return adapter

    def layers(self, path: str) -> list[Any]:
        found = []
        for layer in self.model.layers:
            module = layer
            for part in path.split("."):
                module = module[part]
            found.append(module)
        return found

    def rates(self, updates: int = UPDATES) -> list[float]:
        """The learning rate of each update."""
        model = Module()
        model.w = mx.ones((2,))
        rates = []
        for _ in range(updates):
            self.optimizer.update(model, {"w": mx.ones((2,))})
            rates.append(self.optimizer.learning_rate.item())
        return rates


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("arrive") / "student")


def prepare(student: Path, **settings: Any) -> PreparedStudent:
    options = TrainingOptions.from_config(make_config(student, student.parent, **settings), {})
    model: Module = load_model(student)[0]
    mlx_setup.prepare_student(model, options)
    return PreparedStudent(options, model, build_optimizer(options.mlx_lm(UPDATES), 1.0))


def adapted(prepared: PreparedStudent, path: str = "self_attn.q_proj") -> list[bool]:
    return [isinstance(module, LoRALinear | DoRALinear) for module in prepared.layers(path)]


FIELDS: dict[str, tuple[dict[str, Any], Callable[[PreparedStudent], object], object]] = {
    "batch_size": ({"batch_size": 3}, lambda m: m.options.rows_per_update, 3),
    "learning_rate": ({"learning_rate": 0.5}, lambda m: m.rates(1), [0.5]),
    "num_train_epochs": ({"num_train_epochs": 3}, lambda m: m.options.updates(7), 21),
    "max_seq_length": ({"max_seq_length": 99}, lambda m: m.options.mlx_lm(1)["max_seq_length"], 99),
    "lora_rank": ({"lora_rank": 3}, lambda m: m.adapter.lora_a.shape[1], 3),
    "lora_layers": ({"lora_layers": 1}, adapted, [False, False, True]),
    "lora_alpha": ({"lora_alpha": 12, "lora_rank": 4}, lambda m: m.adapter.scale, 3.0),
    "lora_dropout": ({"lora_dropout": 0.25}, lambda m: m.adapter.dropout._p_1, 0.75),
    "target_modules": (
        {"target_modules": ["k_proj", "mlp.up_proj"]},
        lambda m: [adapted(m, p)[-1] for p in ("self_attn.q_proj", "self_attn.k_proj",
                                               "mlp.up_proj", "mlp.down_proj")],
        [False, True, True, False],
    ),
    "fine_tune_type": (
        {"fine_tune_type": "dora"}, lambda m: type(m.adapter), DoRALinear,
    ),
    "optimizer": ({"optimizer": "sgd"}, lambda m: type(m.optimizer).__name__, "SGD"),
    "weight_decay": ({"weight_decay": 0.3}, lambda m: m.optimizer.weight_decay, 0.3),
    "lr_scheduler": (
        {"lr_scheduler": "linear", "learning_rate": 0.5},
        lambda m: [round(rate, 4) for rate in m.rates()],
        [0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05],
    ),
    "warmup_steps": (
        {"warmup_steps": 3, "learning_rate": 0.5},
        lambda m: [round(rate, 4) for rate in m.rates(6)],
        [0.125, 0.25, 0.375, 0.5, 0.5, 0.5],
    ),
    "gradient_accumulation_steps": (
        {"gradient_accumulation_steps": 5, "batch_size": 2},
        lambda m: (m.options.rows_per_update, m.options.mlx_lm(7)["iters"]), (10, 35),
    ),
    "eval_steps": ({"eval_steps": 4}, lambda m: m.options.eval_every(100, 9), 4),
    "save_steps": ({"save_steps": 4}, lambda m: m.options.save_every(100), 4),
    "logging_steps": ({"logging_steps": 4}, lambda m: m.options.log_every(100), 4),
    "seed": ({"mlx_lm_kwargs": {"seed": 5}}, lambda m: m.options.seed, 5),
    "scale": ({"mlx_lm_kwargs": {"scale": 2.5}}, lambda m: m.adapter.scale, 2.5),
    "all_layers": ({"mlx_lm_kwargs": {"num_layers": -1}}, adapted, [True, True, True]),
    "max_steps": ({"mlx_lm_kwargs": {"max_steps": 6}}, lambda m: m.options.updates(100), 6),
    "iters": (
        {"mlx_lm_kwargs": {"iters": 9}, "gradient_accumulation_steps": 4},
        lambda m: m.options.updates(100), 3,
    ),
    "steps_per_eval": (
        {"mlx_lm_kwargs": {"steps_per_eval": 9}, "gradient_accumulation_steps": 4},
        lambda m: m.options.eval_every(100, 9), 3,
    ),
    "save_every": (
        {"mlx_lm_kwargs": {"save_every": 9}, "gradient_accumulation_steps": 4},
        lambda m: m.options.save_every(100), 3,
    ),
    "steps_per_report": (
        {"mlx_lm_kwargs": {"steps_per_report": 8}, "gradient_accumulation_steps": 4},
        lambda m: m.options.log_every(100), 2,
    ),
    "optimizer_config": (
        {"mlx_lm_kwargs": {"optimizer_config": {"adamw": {"eps": 0.1}}}},
        lambda m: m.optimizer.eps, 0.1,
    ),
    "lr_schedule": (
        {"mlx_lm_kwargs": {"lr_schedule": {"name": "exponential_decay", "arguments": [1, 0.5]}}},
        lambda m: m.rates(3), [1.0, 0.5, 0.25],
    ),
    "warmup_init": (
        {"warmup_steps": 2, "learning_rate": 0.5, "mlx_lm_kwargs": {"warmup_init": 0.25}},
        lambda m: m.rates(3), [0.25, 0.375, 0.5],
    ),
    "warmup_ratio": (
        {"learning_rate": 0.5, "mlx_lm_kwargs": {"warmup_ratio": 0.3}},
        lambda m: m.rates(4), [0.125, 0.25, 0.375, 0.5],
    ),
}  # fmt: skip
ELSEWHERE = {
    "allow_out_of_range", "mlx_lm_kwargs",                      # about the configuration itself
    "max_grad_norm",                                            # below
    "train_on", "tokenizer_kwargs",                             # test_tokenize
    "long_rows", "mask_prompt", "val_batches",                  # test_preflight
    "early_stopping_patience",                                  # test_loop
    "best_by",                                                  # test_validation_score
    "gradient_checkpointing", "clear_cache_threshold",          # test_mlx_setup
    "report_to",                                                # test_metrics_log
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_an_option_arrives(student: Path, name: str) -> None:
    settings, look, expected = FIELDS[name]
    prepared = prepare(student, **settings)
    assert look(prepared) == expected
    assert look(prepare(student)) != expected, "the default would not show"


def test_no_option_is_left_out_here() -> None:
    every = set(TrainingSettings.model_fields) | set(MlxSettings.model_fields)
    assert set(FIELDS) | ELSEWHERE == every


SETTINGS = {
    "betas": [0.7, 0.8], "eps": 0.01, "bias_correction": False, "weight_decay": 0.123,
    "momentum": 0.7, "dampening": 0.2, "nesterov": False, "ns_steps": 3, "clip_threshold": 0.5,
    "decay_rate": -0.5, "beta_1": 0.6, "scale_parameter": False, "relative_step": True,
    "warmup_init": True,
}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZER_SETTINGS)
def test_an_optimizers_own_settings_arrive(student: Path, optimizer: str) -> None:
    given = {name: SETTINGS[name] for name in OPTIMIZER_SETTINGS[optimizer]}
    if optimizer == "adafactor":
        given["eps"] = [1e-20, 0.1]
    kwargs = {"optimizer": optimizer, "optimizer_config": given}
    prepared = prepare(student, mlx_lm_kwargs=kwargs).optimizer
    assert {name: getattr(prepared, name) for name in given} == given


def test_the_first_step_of_adamw_is_as_large_as_asked_for(student: Path) -> None:
    prepared = prepare(student, learning_rate=0.1, weight_decay=0.0)
    model = Module()
    model.w = mx.ones((3,))
    prepared.optimizer.update(model, {"w": mx.full((3,), 0.02)})
    assert mx.abs(1 - model.w).tolist() == pytest.approx([0.1] * 3, rel=1e-4)


@pytest.mark.parametrize(("limit", "moved"), [(None, 10.0), (1.0, 1.0)])
def test_gradients_are_clipped(limit: float | None, moved: float) -> None:
    import mlx.optimizers as optim

    updates = TrackedOptimizer(optim.SGD(learning_rate=1.0), limit)
    model = Module()
    model.w = mx.zeros((1,))
    updates.start(model, None)
    updates.update(model, {"w": mx.array([10.0])})
    assert float(-model.w[0]) == pytest.approx(moved, rel=1e-4)
    assert updates.state[NORM].item() == 10, "the norm before clipping"


def test_full_training_unfreezes_the_last_layers_whole(student: Path) -> None:
    prepared = prepare(student, fine_tune_type="full", lora_layers=2)
    names = mlx_setup.trainable(prepared.model)
    assert {name.split(".")[2] for name in names} == {"1", "2"}
    assert "model.layers.2.input_layernorm.weight" in names


def test_more_layers_than_there_are_means_all(student: Path) -> None:
    assert adapted(prepare(student, lora_layers=32)) == [True, True, True]


def test_the_adapters_follow_from_the_seed(student: Path) -> None:
    first, same, other = (
        prepare(student, random_seed=seed).adapter.lora_a.tolist() for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


def test_a_module_that_the_student_lacks_is_named_with_the_nearest(student: Path) -> None:
    with pytest.raises(ConfigError, match=r"no q_prj, did you mean 'q_proj'\?; it has down_proj"):
        prepare(student, target_modules=["q_prj"])


def test_presets_fill_what_nobody_set(student: Path) -> None:
    preset = {"batch_size": 8, "lora_rank": 32, "max_seq_length": 2048}
    config = make_config(student, student.parent, lora_rank=8, mlx_lm_kwargs={"max_length": 99})
    settings = TrainingOptions.from_config(config, preset).settings
    assert settings.batch_size == 4, "set by the test's own configuration"
    assert settings.lora_rank == 8, "set, though it is the default"
    assert settings.max_seq_length == 99, "kwargs lie over presets"
    bare = config.model_copy()
    bare.model_fields_set.discard("batch_size")
    assert TrainingOptions.from_config(bare, preset).settings.batch_size == 8


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"lora_rank": 4}, True),
        ({"mlx_lm_kwargs": {"seed": 1}}, True),
        ({"random_seed": 1}, True),
        ({"train_on": "answer"}, True),
        ({"eval_steps": 3}, True),
        ({"save_steps": 3}, False),
        ({"logging_steps": 3}, False),
        ({"report_to": "trackio"}, False),
        ({"gradient_checkpointing": True}, False),
        ({"max_memory_gb": 32}, False),
    ],
)
def test_what_changes_the_outcome_is_another_run(
    student: Path, change: dict[str, Any], is_another: bool
) -> None:
    def run_id(**settings: Any) -> str:
        config = make_config(student, student.parent, **settings)
        return TrainingOptions.from_config(config, {}).run_id("data", "student", None)

    assert (run_id() != run_id(**change)) == is_another
    options = TrainingOptions.from_config(make_config(student, student.parent, **change), {})
    assert TrainingOptions.from_json(options.to_json()) == options
