from __future__ import annotations

import pytest
import torch

from featcache.account import cost_account
from featcache.memory import FreeMemory
from featcache.runtime import (
    numeric_class,
    pick_batch_size,
    pick_n_workers,
    pick_precision,
)


def test_the_batch_size_is_a_power_of_two_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "featcache.runtime.free_memory", lambda _: FreeMemory(1_000_000_000, "memory")
    )

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


def test_a_trunk_cheaper_than_its_head_never_pays() -> None:
    account = cost_account(
        seconds_per_image=1e-9, n_images=100, n_train=100, n_features=64, device="cpu"
    )

    assert account.break_even_epoch is None
