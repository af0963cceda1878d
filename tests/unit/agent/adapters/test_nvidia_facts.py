"""Which GPU counts where there are several, and what is said where there is none."""

from __future__ import annotations

import pytest

from agent.adapters.facts.accelerators import Gpu, Nvml, choose, visible

A10 = Gpu(name="A10", uuid="GPU-a10", compute_capability="8.6", memory_bytes=24 << 30)
T4 = Gpu(name="T4", uuid="GPU-t4", compute_capability="7.5", memory_bytes=16 << 30)


def nvml(*gpus: Gpu) -> Nvml:
    return Nvml(driver="550.54.15", cuda=12040, gpus=gpus)


def test_the_gpu_is_told_with_its_driver() -> None:
    facts, reason = choose(nvml(A10), {})
    assert (facts.name, facts.compute_capability, facts.memory_bytes) == ("A10", "8.6", 24 << 30)
    assert (facts.driver, facts.cuda, facts.gpus, reason) == ("550.54.15", "12.4", 1, "")


def test_of_gpus_of_two_kinds_none_is_guessed() -> None:
    facts, reason = choose(nvml(A10, T4), {})
    assert (facts.gpus, facts.compute_capability) == (2, "")
    assert "CUDA_DEVICE_ORDER" in reason


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "A10"),
        ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}, "T4"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-t4"}, "T4"),
    ],
)
def test_the_settings_of_cuda_say_which_gpu_it_is(environ: dict[str, str], name: str) -> None:
    assert choose(nvml(A10, T4), environ)[0].name == name


@pytest.mark.parametrize("setting", ["", "-1", "7", "NoDevFiles", "MIG-1"])
def test_gpus_that_are_hidden_do_not_count(setting: str) -> None:
    facts, reason = choose(nvml(A10), {"CUDA_VISIBLE_DEVICES": setting})
    assert facts.gpus == 0
    assert "CUDA_VISIBLE_DEVICES" in reason


def test_from_the_first_gpu_that_is_not_there_none_counts() -> None:
    assert visible((A10, T4), "1,9,0") == ((T4,), "")


def test_a_driver_without_a_gpu_says_where_to_look() -> None:
    facts, reason = choose(nvml(), {})
    assert facts.gpus == 0
    assert "nvidia-smi" in reason
