"""featcache leaves the process as it found it."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from featcache.config import HeadSpec
from featcache.core.process_wide import WhileAnyInside, nvml_left_alone, warnings_ignored
from featcache.core.random_state import seeded
from featcache.heads.mlp import build_head
from featcache.training.train_result import TrainResult

_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
# Beyond 32 MiB glibc never adapts: such an array is mapped and zeroed each time, or kept for good.
_ARRAYS = """
import resource
import numpy as np
def page_faults(size_mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.empty(size_mib << 20, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
_EXTRACTION = """
import sys
import featcache
def both():
    return [min(page_faults(size_mib) for _ in range(5)) for size_mib in (8, 64)]
before = both()
featcache.extract("digits", backbone="mobilenet_v3_small", weights="random", image_size=32,
                  limit=20, cache_dir=sys.argv[1])
print(*before, *both())
"""
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="page faults as glibc's thresholds cause them"
)


@needs_glibc
def test_arrays_cost_the_page_faults_of_before_after_an_extraction(tmp_path: Path) -> None:
    # A process of its own: the heap of one that ran other tests may hold 64 MiB that are free.
    said = subprocess.run(
        [sys.executable, "-c", _ARRAYS + _EXTRACTION, str(tmp_path)],
        capture_output=True,
        check=True,
    ).stdout

    small_before, large_before, small_after, large_after = map(int, said.split())
    assert max(small_before, small_after) <= 10
    assert min(large_before, large_after) > 100  # 32 huge pages for each array at least


@needs_glibc
def test_a_program_that_keeps_freed_memory_has_no_page_faults() -> None:
    script = (
        "from featcache.core.allocator import keep_freed_memory\n"
        f"{_ARRAYS}page_faults(64); print(page_faults(64))\n"
        "keep_freed_memory(); page_faults(64); print(page_faults(64))"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout

    before, after = map(int, said.split())
    assert before > 100
    assert after <= 10


def overlapping(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """Let a second thread come while a first is inside, and stay until after it has left."""
    in_first, in_second, out_of_first = (threading.Event() for _ in range(3))

    def one() -> None:
        with first():
            in_first.set()
            assert in_second.wait(10)
        out_of_first.set()

    def other() -> None:
        assert in_first.wait(10)
        with second():
            in_second.set()
            assert out_of_first.wait(10)

    threads = [threading.Thread(target=body) for body in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_overlapping_downloads_leave_stdout_and_the_timeout_of_sockets() -> None:
    from featcache.images.sources.torchvision_download import _DOWNLOADING

    before = sys.stdout, sys.stderr, socket.getdefaulttimeout()
    seen = []

    @contextlib.contextmanager
    def downloading() -> Any:
        with _DOWNLOADING():
            seen.append((isinstance(sys.stdout, io.StringIO), socket.getdefaulttimeout()))
            yield

    overlapping(downloading, downloading)

    assert seen == [(True, 30.0)] * 2
    assert (sys.stdout, sys.stderr, socket.getdefaulttimeout()) == before


def test_overlapping_threads_leave_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_NVML, "1")
    seen = []

    @contextlib.contextmanager
    def training() -> Any:
        with nvml_left_alone():
            seen.append(_NVML in os.environ)
            yield
            seen.append(_NVML in os.environ)  # the second one's is after the first has left

    overlapping(training, training)

    assert seen == [False] * 4
    assert os.environ[_NVML] == "1"


def test_steps_of_training_ask_the_cuda_runtime_for_a_gpu_not_the_driver(
    train: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_NVML, "1")
    seen = []

    train(on_progress=lambda _: seen.append(_NVML in os.environ))

    assert set(seen) == {False}
    assert os.environ[_NVML] == "1"


def test_overlapping_threads_leave_the_filters_of_warnings() -> None:
    before = list(warnings.filters)

    overlapping(
        lambda: warnings_ignored(DeprecationWarning),
        lambda: warnings_ignored(module="pytorch_lightning"),
    )

    assert list(warnings.filters) == before


def test_warnings_are_ignored_inside(recwarn: pytest.WarningsRecorder) -> None:
    with warnings_ignored(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert recwarn.list == []
    with pytest.warns(UserWarning, match="new"), warnings_ignored(DeprecationWarning):
        warnings.warn("new", stacklevel=1)


def test_what_cannot_be_entered_is_tried_again_by_the_next() -> None:
    tries = []

    @contextlib.contextmanager
    def failing_once() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not now")
        yield

    inside = WhileAnyInside(failing_once)
    with pytest.raises(OSError, match="not now"), inside():
        pass

    with inside():
        pass

    assert len(tries) == 2


def test_a_head_has_the_weights_that_torch_would_draw() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))

    head = build_head(HeadSpec(hidden=(8,)), n_features=12, n_classes=3, seed=7)

    for ours, theirs in zip(head.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_threads_draw_their_own_random_numbers_one_after_the_other() -> None:
    with seeded(1):
        expected = torch.rand(4)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn, is_inside = [], threading.Event()

    def other() -> None:
        is_inside.wait(10)
        with seeded(1):
            drawn.append(torch.rand(4))

    thread = threading.Thread(target=other)
    thread.start()
    with seeded(1):
        is_inside.set()
        thread.join(0.05)
        drawn.append(torch.rand(4))
    thread.join(10)

    assert all(torch.equal(numbers, expected) for numbers in drawn)
    assert len(drawn) == 2
    assert torch.equal(torch.random.get_rng_state(), before)
