"""Rows are those of their images, however a run was cut, and hold what a float can (8, 13, 14)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import featcache
from featcache.backbones.in_flight import InFlight
from featcache.backbones.load import load_backbone
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess
from featcache.errors import DeviceError, FeatcacheError, InterruptedRunError, NonFiniteError
from featcache.extraction.job import Job
from featcache.images.batches import ImageBatch, Span, after_loading, load_batches
from featcache.images.datasets import load_dataset
from featcache.images.splits import Split
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images, small_blocks

_N_TRAIN, _N_TEST = 90, 20
_N_PLANTED = 24


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Cut runs at every block by device errors, mix workers and batches, plant strange numbers."""
    images = make_images(folder / "images", n_train=_N_TRAIN, n_test=_N_TEST)
    return [
        _cuts(folder / "cuts", images, quick=quick),
        _alignment(folder / "rows", images, quick=quick),
        _values(folder / "values", quick=quick),
    ]


class StopAfter:
    """Presses Ctrl-C after so many extracted batches."""

    def __init__(self, n_batches: int) -> None:
        self.n_left = n_batches

    def __call__(self, progress: featcache.Progress) -> None:
        self.n_left -= progress.stage == "extract"
        if self.n_left < 0:
            raise KeyboardInterrupt


def _cuts(folder: Path, images: Path, *, quick: bool) -> Claim:
    """Run out of memory in the probe, and at every batch of a run; resume with other workers."""
    whole = extract(images, folder / "whole", batch_size=16).path.read_bytes()
    n_batches = -(-_N_TRAIN // 16) + -(-_N_TEST // 16)
    n_same = n_exit = 0
    cuts = range(1, n_batches, 3 if quick else 1)
    for n in cuts:
        cache = folder / f"cut{n}"
        with _failing(after=n + 1):  # the probe is the first forward pass
            try:
                extract(images, cache, batch_size=16)
            except DeviceError as err:
                n_exit += err.exit_code == 16
        resumed = extract(images, cache, batch_size=16, n_workers=n % 3)
        n_same += resumed.path.read_bytes() == whole
    with _failing(above=8):
        halved = extract(images, folder / "probe")
    is_halved = halved.choices["batch_size"].startswith("8 ")
    n_cuts = len(cuts)
    n_differ = _unpadded_rows_that_differ(images, folder / "control")
    return Claim(
        8,
        f"{n_cuts} runs cut by a failing device, one at every batch: {n_exit} times exit 16, "
        f"{n_same}/{n_cuts} byte-identical after a resume with 0, 1 or 2 workers; out of memory "
        f"in the probe halves the batch ({'yes' if is_halved else 'NO'})",
        n_exit == n_same == n_cuts and is_halved,
        f"a short batch that is not padded: {n_differ} of its rows differ in their last bits",
        n_differ > 0,
    )


@contextmanager
def _failing(*, after: int = 10**9, above: int = 10**9) -> Iterator[None]:
    """Let every backbone run out of memory after so many passes, or above a batch size."""
    original = BackboneRunner.__init__

    def patched(self: BackboneRunner, module: torch.nn.Module, **options: Any) -> None:
        original(self, module, **options)
        n_passes = 0

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            nonlocal n_passes
            n_passes += 1
            if n_passes > after or len(inputs) > above:
                raise torch.OutOfMemoryError("no memory left on the device")
            features: torch.Tensor = self.module(inputs)
            return features

        self.forward = forward

    BackboneRunner.__init__ = patched  # type: ignore[method-assign]
    try:
        yield
    finally:
        BackboneRunner.__init__ = original  # type: ignore[method-assign]


def _unpadded_rows_that_differ(images: Path, folder: Path) -> int:
    """Run the last rows as a batch of their own, in sizes where kernels may change."""
    cache = featcache.open_cache(extract(images, folder, batch_size=16).path)
    stored = np.array(cache["train"].features)
    module = load_backbone("mobilenet_v3_small", weights="random").module
    assert module is not None
    split = load_dataset(f"folder:{images}", data_dir=folder).splits["train"]
    preprocess = Preprocess.notebook(32)
    spans = [Span(0, n) for n in range(1, 16)]
    n_differ = 0
    for batch in load_batches(split, spans, preprocess=preprocess, n_workers=0):
        runner = BackboneRunner(
            module,
            preprocess=after_loading(split, preprocess),
            device="cpu",
            precision="fp32",
            batch_size=len(batch.images),
        )
        rows = runner.features(batch.images)
        n_differ += int((rows != stored[: len(rows)]).any(axis=1).sum())
    return n_differ


def _alignment(folder: Path, images: Path, *, quick: bool) -> Claim:
    """Every row, label and id belongs to its image, in all combinations."""
    workers, sizes, cuts = (0, 1, 2, 3), (8, 16, 32), (None, 1, 2, 3)
    combinations = list(product(workers, sizes, cuts))
    if quick:
        combinations = combinations[::16]
    alone = _one_image_at_a_time(images, folder)
    n_right = 0
    for n_workers, size, cut in combinations:
        cache_dir = folder / f"{n_workers}-{size}-{cut}"
        options: dict[str, Any] = {"batch_size": size, "n_workers": n_workers}
        if cut is not None:
            try:
                extract(images, cache_dir, on_progress=StopAfter(cut), **options)
            except InterruptedRunError:
                options["n_workers"] = (n_workers + 1) % 3
        n_right += _is_aligned(extract(images, cache_dir, **options).path, alone)
    shifted = {s: (np.roll(rows, 1, axis=0), ids) for s, (rows, ids) in alone.items()}
    control = _is_aligned(extract(images, folder / "0-8-None", batch_size=8).path, shifted)
    return Claim(
        13,
        f"rows, labels and ids aligned in {n_right} of {len(combinations)} combinations of "
        f"workers, batch sizes and the block where a run was cut",
        n_right == len(combinations),
        f"rows moved by one are {'NOT ' if control else ''}noticed",
        not control,
    )


def _one_image_at_a_time(images: Path, folder: Path) -> dict[str, tuple[npt.NDArray[Any], Any]]:
    """Rows of a run whose batches hold one image: no other image can stand in their place."""
    cache = featcache.open_cache(extract(images, folder / "alone", batch_size=1).path)
    return {n: (np.array(s.features), list(s.ids)) for n, s in cache.splits.items()}


def _is_aligned(path: Path, alone: dict[str, tuple[npt.NDArray[Any], Any]]) -> bool:
    cache = featcache.open_cache(path)
    for name, (rows, ids) in alone.items():
        split = cache[name]
        distance = np.abs(np.array(split.features)[:, None] - rows[None]).max(axis=2)
        if (distance.argmin(axis=1) != np.arange(len(rows))).any():
            return False
        classes = [cache.class_names[label] for label in split.labels]
        if list(split.ids) != ids or classes != [i.split("/")[1] for i in ids]:
            return False
    return True


def _values(folder: Path, *, quick: bool) -> Claim:
    """Plant one number in a random row: it is stored as it is, or refused, as the type can."""
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    normal = {"float32": (65504.0, 65505.0, 3e38, tiny, -tiny, 0.0), "float16": (65504.0, tiny)}
    refused = {"float32": (np.nan, np.inf, -np.inf), "float16": (np.nan, np.inf, 65505.0, 65519.0)}
    rng = np.random.default_rng(0)
    images = make_images(folder / "images", n_train=_N_PLANTED, n_test=4)
    n_tried = n_right = 0
    for dtype in ("float32", "float16"):
        for value in (*normal[dtype], *refused[dtype]):
            for _ in range(1 if quick else 5):
                row = int(rng.integers(_N_PLANTED))
                cache_dir = folder / f"{n_tried}"
                n_tried += 1
                try:
                    with _planted(value, row):
                        path = extract(images, cache_dir, batch_size=16, store_dtype=dtype).path
                except NonFiniteError as err:
                    n_right += value in refused[dtype] or bool(np.isnan(value))
                    n_right -= repr(_id_of(images, row)) not in str(err)
                except FeatcacheError:
                    continue
                else:
                    stored = featcache.open_cache(path)["train"].features[row, 7]
                    n_right += value in normal[dtype] and stored == np.dtype(dtype).type(value)
    naive = np.array([65520.0], np.float32)
    with np.errstate(over="ignore"):
        naive_inf = bool(np.isinf(naive.astype(np.float16)).all())
    return Claim(
        14,
        f"NaN, infinities, 65504, 65505, subnormals planted in {n_tried} runs: {n_right} stored "
        f"as they are, or refused with the image named",
        n_right == n_tried,
        f"numpy's cast of 65520 to float16 is {'inf, in silence' if naive_inf else 'finite'}",
        naive_inf,
    )


def _id_of(images: Path, row: int) -> str:
    found = sorted(images.glob("train/*/*.png"))
    return found[row].relative_to(images).as_posix()


@contextmanager
def _planted(value: float, row: int) -> Iterator[None]:
    """Put `value` into column 7 of a training row, whose image the backbone never sees."""
    original = Job.launch

    def launch(self: Job, split: Split, batch: ImageBatch, out: Tensor) -> InFlight:
        assert self.runner is not None, "there is a backbone"
        forward = self.runner.forward
        is_there = split.name == "train" and batch.span.start <= row < batch.span.stop

        def planted(inputs: Tensor) -> Tensor:
            features = forward(inputs)
            features[:, 0] = 1.0  # float16 takes rows whose largest number is a normal one
            if is_there:
                features[row - batch.span.start, 7] = value
            return features

        self.runner.forward = planted
        try:
            return original(self, split, batch, out)
        finally:
            self.runner.forward = forward

    Job.launch = launch  # type: ignore[method-assign]
    try:
        yield
    finally:
        Job.launch = original  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main("rows", claims))
