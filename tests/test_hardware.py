"""Chips, and the presets that suit them."""

from __future__ import annotations

import pytest

from nanodistill.config import DistillationConfig, TrainingSettings
from nanodistill.hardware import (
    CPU_PRESET,
    PRESETS,
    Hardware,
    apple,
    cores,
    detect_hardware,
    preset,
)


@pytest.mark.parametrize(
    ("brand", "memory_gb", "generation", "tier", "expected"),
    [
        ("Apple M1", 8, "M1", "", "small"),
        ("Apple M2", 16, "M2", "", "medium"),
        ("Apple M4", 32, "M4", "", "medium"),
        ("Apple M2 Pro", 16, "M2", "Pro", "medium"),
        ("Apple M3 Pro", 36, "M3", "Pro", "large"),
        ("Apple M3 Max", 128, "M3", "Max", "largest"),
        ("Apple M1 Ultra", 64, "M1", "Ultra", "largest"),
        ("Apple M5 Max", 48, "M5", "Max", "large"),
    ],
)
def test_an_apple_chip_is_known_by_its_name(
    brand: str, memory_gb: float, generation: str, tier: str, expected: str
) -> None:
    found = apple(brand, memory_gb, cores=8)
    assert (found.generation, found.tier, preset(found)[0]) == (generation, tier, expected)
    assert found.tflops is not None


def test_a_chip_of_the_future_still_has_a_preset() -> None:
    found = apple("Apple Z9 Mega", 64, 16)
    assert (preset(found)[0], found.tflops) == ("medium", None)


@pytest.mark.parametrize(("memory_gb", "expected"), [(8, "small"), (24, "medium"), (80, "largest")])
def test_a_gpu_goes_by_its_own_memory(memory_gb: float, expected: str) -> None:
    assert preset(Hardware("cuda", "NVIDIA H100", 16, memory_gb))[0] == expected


def test_a_linux_cpu_has_its_own() -> None:
    assert preset(Hardware("cpu", "AMD EPYC", 64, 512)) == CPU_PRESET


def test_presets_set_training_fields_to_values_that_hold() -> None:
    for _, values in (*PRESETS, CPU_PRESET):
        assert set(values) <= set(TrainingSettings.model_fields)
        rows = [{"input": "a", "output": "b"}]
        DistillationConfig(name="a", seed=rows, instruction="Do this now.", **values)


def test_this_machine_is_described() -> None:
    found = detect_hardware()
    assert found.cores == cores() > 0
    assert found.memory_gb > 0.5
    assert found.chip in found.describe()
