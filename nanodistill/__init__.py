"""Turn about ten seed examples and one instruction into a small model that you own.

    from nanodistill import distill

    result = distill(name="triage", seed="seeds.jsonl", instruction="Sort the message into …")
    result.predict("I was charged twice")

Names are resolved when they are first used, so that importing the package costs
next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanodistill.api import (
        DistillationResult,
        ask,
        ask_async,
        distill,
        distill_async,
        evaluate,
        evaluate_async,
        export,
        export_async,
        plan,
        plan_async,
        pull,
        pull_async,
        push,
        push_async,
        report,
        report_async,
        synthesize,
        synthesize_async,
        train,
        train_async,
    )
    from nanodistill.config import (
        AdvancedConfig,
        DistillationConfig,
        PromptTemplates,
        TeacherPrice,
        get_system_defaults,
        load_config,
    )
    from nanodistill.errors import NanoDistillError
    from nanodistill.providers.python_function import ScriptedProvider

__version__ = "0.2.0"

_HOME = {
    "AdvancedConfig": "config",
    "DistillationConfig": "config",
    "DistillationResult": "api",
    "NanoDistillError": "errors",
    "PromptTemplates": "config",
    "ScriptedProvider": "providers.python_function",
    "TeacherPrice": "config",
    "ask": "api",
    "ask_async": "api",
    "distill": "api",
    "distill_async": "api",
    "evaluate": "api",
    "evaluate_async": "api",
    "export": "api",
    "export_async": "api",
    "get_system_defaults": "config",
    "load_config": "config",
    "plan": "api",
    "plan_async": "api",
    "pull": "api",
    "pull_async": "api",
    "push": "api",
    "push_async": "api",
    "report": "api",
    "report_async": "api",
    "synthesize": "api",
    "synthesize_async": "api",
    "train": "api",
    "train_async": "api",
}

__all__ = [
    "AdvancedConfig",
    "DistillationConfig",
    "DistillationResult",
    "NanoDistillError",
    "PromptTemplates",
    "ScriptedProvider",
    "TeacherPrice",
    "ask",
    "ask_async",
    "distill",
    "distill_async",
    "evaluate",
    "evaluate_async",
    "export",
    "export_async",
    "get_system_defaults",
    "load_config",
    "plan",
    "plan_async",
    "pull",
    "pull_async",
    "push",
    "push_async",
    "report",
    "report_async",
    "synthesize",
    "synthesize_async",
    "train",
    "train_async",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nanodistill' has no attribute '{name}'")
    return getattr(import_module(f"nanodistill.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
