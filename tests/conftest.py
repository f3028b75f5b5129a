"""What all tests share: small real datasets, and a cache folder of their own."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.extraction.result import ExtractResult
from tests.feature_caches import cache, make_cache, train  # noqa: F401 - fixtures of several rooms

_TESTS = itertools.count()
SMALL_BACKBONE = "mobilenet_v3_small"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small batches run faster on one thread, and a busy machine then does not stall them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _autograd_without_threads() -> None:
    """Begin it before inductor lets torch see a GPU that is not there.

    Autograd has a thread for each device that it sees at its first use, and refuses to run in a
    process that is forked from one with such threads. Tests of faults fork.
    """
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> None:
    """Behind nohup or `&` they are ignored, and commands respect that."""
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_surprises(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep tests away from the user's own weights, settings and caches."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.getbasetemp() / "torch-home"))
    caches = tmp_path_factory.getbasetemp() / "caches" / str(next(_TESTS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    # Kept from one run of the suite to the next: torch's headers take 20 s to compile.
    compiled = Path(tempfile.gettempdir()) / f"featcache-tests-{os.geteuid()}"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(compiled))
    monkeypatch.delenv("FEATCACHE_DEBUG", raising=False)


def save_image(path: Path, seed: int, *, size: tuple[int, int] = (20, 16)) -> None:
    """Write a (height, width) image of noise as PNG, whatever the ending says."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="png")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes; 300 images in train, 10 in test, of two sizes."""
    root = tmp_path / "pets"
    for i in range(300):
        label = "cat" if i % 2 else "dog"
        save_image(root / "train" / label / f"{i:03d}.png", i, size=(20, 16 + i % 3))
    for i in range(10):
        save_image(root / "test" / ("cat" if i % 2 else "dog") / f"{i}.png", 1000 + i)
    return root


@pytest.fixture
def extract(image_folder: Path, tmp_path: Path) -> Callable[..., ExtractResult]:
    """`featcache.extract` of the image folder, through a small random backbone at 32 px.

    Rows take 2,304 bytes, so a block has 512 rows at most; batches of 32 make it smaller blocks
    only where a test says so.
    """
    return partial(
        featcache.extract,
        f"folder:{image_folder}",
        backbone=SMALL_BACKBONE,
        weights="random",
        image_size=32,
        batch_size=32,
        n_workers=0,
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path / "data",
    )
