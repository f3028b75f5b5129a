from __future__ import annotations

from collections.abc import Callable

import pytest

from featcache.core.memory import (
    MemoryWatch,
    free_memory,
)


class Gpu:
    """What torch tells of a GPU's memory, in bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.reserved = self.peak = 100
        self.free, self.n_ooms = 1000, 3
        answers: dict[str, Callable[..., object]] = {
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda _: None,
            "memory_allocated": lambda _: self.allocated,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_allocated": lambda _: self.peak,
            "mem_get_info": lambda _: (self.free, 2000),
            "memory_stats": lambda _: {"num_ooms": self.n_ooms},
        }
        for name, answer in answers.items():
            monkeypatch.setattr(f"torch.cuda.{name}", answer)


def test_a_batch_that_leaves_a_fifth_of_what_it_takes_has_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.peak, gpu.free = 600, 600

    assert not watch.was_short()


def test_a_batch_that_leaves_less_is_short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.peak, gpu.free = 600, 599

    assert watch.was_short()


def test_an_algorithm_that_was_refused_its_workspace_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    watch = MemoryWatch("cuda:0")

    gpu.n_ooms += 1

    assert watch.was_short()


def test_what_torch_caches_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    gpu.free, gpu.allocated, gpu.reserved = 7_000, 200, 9_000

    assert free_memory("cuda:0") == (15_800, "GPU memory")
