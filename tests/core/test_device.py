from __future__ import annotations

import pytest
import torch

from featcache.core import device
from featcache.core.device import (
    numeric_class,
    pick_batch_size,
    pick_n_workers,
    pick_precision,
)
from featcache.core.memory import FreeMemory
from featcache.errors import UsageError
from featcache.extraction.cost import cost_account


def test_the_batch_size_is_a_power_of_two_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a GPU too, which need not be there.
    monkeypatch.setattr(device, "free_memory", lambda _: FreeMemory(1_000_000_000, "memory"))

    assert pick_batch_size("cpu", nbytes_per_image=1_000_000).value == 16
    assert pick_batch_size("cpu", nbytes_per_image=40_000_000).value == 4
    assert pick_batch_size("cpu", nbytes_per_image=10**12).value == 1
    assert pick_batch_size("cuda:0", nbytes_per_image=1_000_000).value == 256
    assert "1.0 GB" in pick_batch_size("cpu", nbytes_per_image=40_000_000).why


def test_choices_carry_their_reason() -> None:
    assert pick_precision("auto", "cpu") == ("fp32", "the CPU's default")
    assert pick_precision("bf16", "cpu") == ("bf16", "asked for")
    assert pick_n_workers(3) == (3, "asked for")
    assert pick_n_workers(None).why.endswith("cores")


def test_the_numeric_class_names_what_decides_the_bits() -> None:
    facts = numeric_class(device="cpu", precision="fp32", batch_size=16)

    assert facts["batch_size"] == 16
    assert facts["threads"] == torch.get_num_threads()
    assert facts["torch"] == torch.__version__


def test_the_account_finds_the_epoch_from_which_the_cache_is_cheaper() -> None:
    account = cost_account(
        seconds_per_image=0.01, n_images=60_000, n_train=50_000, n_features=64, device="cpu"
    )

    assert account.extraction_s == pytest.approx(600)
    assert account.end_to_end_epoch_s == pytest.approx(500)
    assert 0 < account.cache_epoch_s < 60
    assert account.break_even_epoch == 2


def test_a_backbone_cheaper_than_its_head_never_pays() -> None:
    account = cost_account(
        seconds_per_image=1e-9, n_images=100, n_train=100, n_features=64, device="cpu"
    )

    assert account.break_even_epoch is None


@pytest.fixture
def turing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of before Ampere, by what torch tells of it."""

    class Properties:
        major, minor, multi_processor_count = 7, 5, 40

    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Properties)


@pytest.mark.usefixtures("turing")
def test_a_gpu_without_tf32_and_bf16_is_not_asked_for_them() -> None:
    assert pick_precision("auto", "cuda:0") == ("fp32", "this GPU has no TF32")
    assert pick_precision("fp16", "cuda:0").value == "fp16"
    for precision in ("tf32", "bf16"):
        with pytest.raises(
            UsageError,
            match=rf"--precision {precision} needs a GPU of compute capability 8.0 or later, and "
            r"Tesla T4 has 7\.5.*Use fp16",
        ):
            pick_precision(precision, "cuda:0")


def test_amds_numbers_of_a_gpu_are_not_taken_for_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.hip", "7.0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 4))

    assert pick_precision("auto", "cuda:0").value == "fp32"
    with pytest.raises(UsageError, match="only on NVIDIA GPUs"):
        pick_precision("tf32", "cuda:0")


@pytest.mark.usefixtures("turing")
def test_the_numeric_class_of_a_gpu_names_its_size_driver_and_overrides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    facts = numeric_class(device="cuda:0", precision="fp32", batch_size=256)

    assert (facts["device"], facts["capability"], facts["multiprocessors"]) == (
        "Tesla T4",
        "7.5",
        40,
    )
    assert {"driver", "cuda", "cudnn"} <= facts.keys()
    assert facts["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "CUBLAS_WORKSPACE_CONFIG" not in facts
