"""The student made ready in the training process: MLX's limits, trainable layers, optimizer.

mlx-lm creates the adapters (`linear_to_lora_layers`), and its loader reads what
`write_adapter` writes. mlx-lm's `keys` are paths inside a block, so
`target_modules`, which other libraries write bare (`q_proj`) or dotted
(`self_attn.q_proj`), are looked up in the model.
"""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.trainer import grad_checkpoint
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers

from nanodistill.config.settings import suggest
from nanodistill.errors import ConfigError, Problem
from nanodistill.hardware import GIB
from nanodistill.models.blas import threads
from nanodistill.run_dir import write_atomic
from nanodistill.training.checkpoints import Identity
from nanodistill.training.estimate import names_module
from nanodistill.training.resource_guard import ResourceLimits
from nanodistill.training.training_options import TrainingJob, TrainingOptions

if TYPE_CHECKING:
    from nanodistill.models.loading import LoadedModel

# The share of max_memory_gb for buffers that MLX keeps to reuse. With none every batch allocates
# again; with all of it little is left before the guard has to release them.
CACHE_SHARE = 0.25
WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
LINEAR = (Linear, QuantizedLinear)


def on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)


def prepare_mlx(limits: ResourceLimits) -> None:
    """Apply the user's memory limits to MLX.

    On a CPU compiling is turned off: it gains nothing there (3.3 s for a step of SmolLM2-135M,
    3.0 s without), waits up to 20 s for a C++ compiler, and makes the last bits of results
    depend on whether there is one.
    """
    if on_cpu():
        mx.disable_compile()
    mx.set_memory_limit(int(limits.memory_hard_limit_gb * GIB))
    mx.set_cache_limit(int(limits.max_memory_gb * GIB * CACHE_SHARE))


def limit_wired_memory(limits: ResourceLimits) -> None:
    """Wire no more memory than `max_memory_gb`. Only Metal wires memory."""
    if mx.metal.is_available():
        most = int(mx.device_info()["max_recommended_working_set_size"])
        mx.set_wired_limit(min(most, int(limits.max_memory_gb * GIB)))


def prepare_student(model: Module, options: TrainingOptions) -> dict[str, Any]:
    """Freeze `model` except for what `options` train.

    The adapters' initial values follow from the seed.

    Returns:
        The adapter's config in mlx-lm's names.

    Raises:
        ConfigError: `target_modules` names a module that the model lacks.
    """
    layers = trained_layers(model, options)
    config = {
        "fine_tune_type": options.settings.fine_tune_type,
        "num_layers": layers,
        "lora_parameters": None,
    }
    mx.random.seed(options.seed)
    model.freeze()
    if options.settings.fine_tune_type == "full":
        for layer in model.layers[-layers:]:
            layer.unfreeze()
        return config
    parameters = dict(options.mlx_lm(1)["lora_parameters"])
    if options.settings.target_modules is not None:
        parameters["keys"] = module_paths(model, options.settings.target_modules)
    dora = options.settings.fine_tune_type == "dora"
    try:
        linear_to_lora_layers(model, layers, parameters, use_dora=dora)
    except ValueError as error:
        problem = Problem("fine_tune_type" if dora else "target_modules", str(error))
        raise ConfigError(
            "This student can't be trained with these settings:", [problem]
        ) from error
    return config | {"lora_parameters": parameters}


def trained_layers(model: Module, options: TrainingOptions) -> int:
    """How many of the last layers are trained: at most all of them."""
    depth = len(model.layers)
    return depth if options.overrides.all_layers else min(options.settings.lora_layers, depth)


def module_paths(model: Module, names: Sequence[str]) -> list[str]:
    """Paths inside a block of the linear modules that `names` name."""
    paths = sorted(
        {
            path
            for layer in model.layers
            for path, module in layer.named_modules()
            if "weight" in module and (isinstance(module, LINEAR) or "to_lora" in dir(module))
        }
    )
    matches = {name: [path for path in paths if names_module(name, path)] for name in names}
    known = sorted({path.rsplit(".", 1)[-1] for path in paths})
    problems = [
        Problem(
            "target_modules",
            f"the student has no {name}{suggest(name, known)}; it has {', '.join(known)}",
        )
        for name, matching in matches.items()
        if not matching
    ]
    if problems:
        raise ConfigError("The student lacks modules named in target_modules:", problems)
    return sorted({path for matching in matches.values() for path in matching})


def checkpoint_layers(model: Module) -> None:
    """Recompute activations in the backward pass instead of keeping them.

    mlx-lm's `grad_checkpoint` patches a class, so it is called once for each kind of block.
    """
    kinds = {type(layer): layer for layer in model.layers}
    for layer in kinds.values():
        grad_checkpoint(layer)


def trainable(model: Module) -> dict[str, mx.array]:
    """The trained weights by path."""
    return dict(tree_flatten(model.trainable_parameters()))


def adapter_config(config: Mapping[str, Any], options: TrainingOptions, student: str) -> str:
    """The text of adapter_config.json.

    Args:
        config: what `prepare_student` returned.
        student: what `mlx_lm.load` takes for the base model; see `ResolvedModel.for_mlx_lm`.
    """
    whole = {"model": student, **config, "train_on": options.settings.train_on}
    return json.dumps(whole, indent=2) + "\n"


def write_adapter(folder: Path, weights: Path, config: str) -> None:
    """Make `folder` an adapter for `mlx_lm.load(model, adapter_path=folder)`.

    Each file is replaced atomically. The config never changes during a run and comes first, so
    a reader always sees a config with old or new weights.
    """
    write_atomic(folder / CONFIG, config.encode())
    write_atomic(folder / WEIGHTS, weights.read_bytes())


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "sgd": optim.SGD,
    "adafactor": optim.Adafactor,
    "muon": optim.Muon,
}
NORM, LOSS, RUNNING = "gradient_norm", "loss", "running_loss"


def build_optimizer(config: Mapping[str, Any], rate: float) -> optim.Optimizer:
    """The optimizer of a config in mlx-lm's names, with `rate` times its learning rate."""
    name = config["optimizer"]
    schedule = build_schedule(config["lr_schedule"]) if "lr_schedule" in config else None
    peak = config["learning_rate"]

    def scaled(step: mx.array) -> mx.array:
        value = peak if schedule is None else schedule(step)
        return mx.array(rate * value, mx.float32)

    return OPTIMIZERS[name](learning_rate=scaled, **config["optimizer_config"][name])


def accepted_settings(name: str) -> set[str]:
    """The parameters of an optimizer's class apart from its learning rate."""
    return set(inspect.signature(OPTIMIZERS[name]).parameters) - {"learning_rate"}


class TrackedOptimizer:
    """Adds gradient clipping and per-update figures to an optimizer, for mlx-lm's loop.

    mlx-lm calls `update(model, gradients)` inside its compiled step and carries `state` in and
    out of it. That state is the only way out, so it also holds the gradients' norm before
    clipping and the sum of the losses of an update's batches.
    """

    def __init__(self, optimizer: optim.Optimizer, max_norm: float | None) -> None:
        self._optimizer = optimizer
        self._max_norm = max_norm

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizer.state
        return state

    @property
    def learning_rate(self) -> mx.array:
        rate: mx.array = self._optimizer.learning_rate
        return rate

    def start(self, model: Module, saved: Mapping[str, mx.array] | None) -> None:
        """Start fresh, or from what `flat_state` returned."""
        if saved is not None:
            self._optimizer.state = tree_unflatten(list(saved.items()))
        self._optimizer.init(model.trainable_parameters())
        for figure in (NORM, LOSS, RUNNING):
            self.state[figure] = mx.array(0.0)
        mx.eval(self.state)

    def flat_state(self) -> dict[str, mx.array]:
        """The optimizer's own state for a checkpoint, without the figures."""
        own = {key: value for key, value in self.state.items() if key not in (NORM, LOSS, RUNNING)}
        return dict(tree_flatten(own))

    def add_loss(self, loss: mx.array) -> None:
        """Called for each batch, inside the compiled step."""
        self.state[RUNNING] = self.state[RUNNING] + loss

    def update(self, model: Module, gradients: dict[str, Any]) -> None:
        limit = float("inf") if self._max_norm is None else self._max_norm
        clipped, norm = optim.clip_grad_norm(gradients, limit)
        self.state[NORM] = norm.astype(mx.float32)
        self.state[LOSS], self.state[RUNNING] = self.state[RUNNING], mx.array(0.0)
        self._optimizer.update(model, gradients if self._max_norm is None else clipped)


def checkpoint_identity(job: TrainingJob) -> Identity:
    """What a checkpoint of `job` belongs to."""
    options = job.options.identity_values()
    flat = {**options["settings"], **options["beyond"], "seed": options["seed"]}
    return Identity(data=job.data, options={"student": job.student, **flat})


def machine_details(job: TrainingJob, loaded: LoadedModel) -> dict[str, Any]:
    """What the last bits of the result depend on besides the job's settings."""
    return {
        "batch": job.micro_batch,
        "blas": loaded.blas.version or loaded.blas.name,
        "device": str(mx.default_device()),
        "gradient checkpointing": job.checkpointing,
        "machine": platform.machine(),
        "max_memory_gb": job.limits.max_memory_gb,
        "mlx": metadata.version("mlx"),
        "mlx-lm": metadata.version("mlx-lm"),
        "threads": threads(),
        "weights": loaded.dtype,
    }
