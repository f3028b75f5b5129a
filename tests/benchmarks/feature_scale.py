"""Does the scale of VGG16's features explain the notebook's figures?

    python -m tests.benchmarks.feature_scale STEM CACHE [--weights FILE --data-dir FOLDER]
        [--scales 1 1/2 1/4 1/8 1/16] [--seeds N] [--refine] [--device DEVICE]

VGG16 is positively homogeneous in its last convolution: weights and bias of that layer times s give
all features times s. With --weights this is shown first, bit for bit, on 64 images, and that the
weights are the cache's. Then the notebook's three systems are trained on the cache's rows times s,
as `reproduce` trains them. The scale is chosen by the plain system's test_loss alone; the other
five figures are predicted there and set beside the notebook's. --refine trains at one scale more,
where the plain system's test_loss between two scales would be the notebook's.

Each head is written to STEM.json as it is done, and the same command goes on; STEM.md and STEM.svg
are made of what is there. The loop over the seeds is the outermost, so a call that was stopped
leaves as many seeds of each setting.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

import featcache
from featcache.backbones.state_dict import read_state_dicts
from featcache.core.device import pick_device
from featcache.store import Cache
from featcache.training.notebook_systems import find_system
from tests.benchmarks.altered import AlteredTraining
from tests.benchmarks.feature_scale_page import PLAIN, SYSTEM_NAMES, page, picture
from tests.benchmarks.resultfile import ResultFile, save_picture

_N_IMAGES = 64
_DIGITS = 3  # of a scale between two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--scales", nargs="+", default=["1", "1/2", "1/4", "1/8", "1/16"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device).value
    cache = featcache.open_cache(options.cache)
    assert cache.identity["backbone"] == "vgg16", "these are the systems of VGG16"
    path = options.stem.with_name(options.stem.name + ".json")
    file = ResultFile(path, {"cache": cache.fingerprint}, device=device)
    if options.weights and "homogeneous" not in file.content:
        file.content["homogeneous"] = homogeneous(
            cache, options.weights, data_dir=options.data_dir, scales=options.scales, device=device
        )
        file.save()
    training = AlteredTraining(cache, device=device)
    train_all(file, training, options.scales, n_seeds=options.seeds)
    if options.refine:
        # Kept: more seeds would move it a little, and all heads of the old one would be in vain.
        refined = file.content.get("refined") or between(file, options.scales)
        if refined:
            file.content["refined"] = refined
            train_all(file, training, [refined], n_seeds=options.seeds)
        else:
            print("the notebook's loss lies between no two of these scales")
    path.with_suffix(".md").write_text(page(file))
    save_picture(picture(file), path.with_suffix(".svg"))


def train_all(
    file: ResultFile, training: AlteredTraining, scales: list[str], *, n_seeds: int
) -> None:
    """Train what the file lacks, with the settings of `reproduce`."""
    for seed, scale, name in product(range(n_seeds), scales, SYSTEM_NAMES):
        key = {"scale": scale, "system": name, "seed": seed}
        if file.has(**key):
            continue
        system, factor = find_system(name), float(Fraction(scale))
        train = replace(system.train, seed=seed)
        started = time.perf_counter()
        figures = training.figures(system.head, train, alter=partial(torch.mul, other=factor))
        file.add({**key, **figures})
        told = f"{figures['test_acc']:.4f} / {figures['test_loss']:.4f}"
        print(f"{key}: {told}, {time.perf_counter() - started:.1f} s", flush=True)


def between(file: ResultFile, scales: list[str]) -> str | None:
    """Find the scale where the plain system's test_loss would be the notebook's.

    Between the two scales around it the loss is taken for linear in log(s); None if there are none.
    """
    wanted = find_system(PLAIN).test_loss
    by_scale = sorted(
        (float(Fraction(s)), file.spread("test_loss", scale=s, system=PLAIN).mean) for s in scales
    )
    for (low, loss_at_low), (high, loss_at_high) in pairwise(by_scale):
        if min(loss_at_low, loss_at_high) <= wanted <= max(loss_at_low, loss_at_high):
            part = (wanted - loss_at_low) / (loss_at_high - loss_at_low)
            found = f"{math.exp(math.log(low) + part * math.log(high / low)):.{_DIGITS}g}"
            same = [scale for scale in scales if float(Fraction(scale)) == float(found)]
            return same[0] if same else found
    return None


def homogeneous(
    cache: Cache, weights: Path, *, data_dir: Path, scales: list[str], device: str
) -> dict[str, Any]:
    """Show that scaled weights give scaled rows, bit for bit, on images of the cache's dataset."""
    with TemporaryDirectory() as folder:
        rows, extracted = _rows(cache, weights, data_dir, Path(folder), device)
        found = featcache.open_cache(extracted.path).identity["weights_sha256"]
        assert found == cache.identity["weights_sha256"], "the weights are not the cache's"
        assert rows.any(), "all rows are nought"
        for scale in scales:
            factor = float(Fraction(scale))
            if math.frexp(factor)[0] != 0.5:
                continue  # only a power of two leaves the digits as they are
            scaled = Path(folder) / "scaled.safetensors"
            save_file(scaled_state(weights, factor), scaled)
            theirs, _ = _rows(cache, scaled, data_dir, Path(folder), device)
            assert np.array_equal(theirs, rows * np.float32(factor)), f"not so at {scale}"
            print(f"weights times {scale}: {len(rows)} rows are {scale} of the rows, bit for bit")
    return {
        "n_images": len(rows),
        "n_features": rows.shape[1],
        "largest": float(rows.max()),
        "engine": extracted.choices["trunk"],
    }


def scaled_state(weights: Path, factor: float) -> dict[str, Tensor]:
    """Read weights of VGG16 as float32, those of its last convolution times a factor."""
    [state] = read_state_dicts(weights).values()
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("features.")}
    last = f"features.{max(numbers)}."
    return {
        name: tensor.float() * (factor if name.startswith(last) else 1)
        for name, tensor in state.items()
    }


def _rows(
    cache: Cache, weights: Path, data_dir: Path, folder: Path, device: str
) -> tuple[npt.NDArray[np.float32], featcache.ExtractResult]:
    extracted = featcache.extract(
        cache.provenance["dataset"],
        backbone="vgg16",
        weights=weights,
        image_size=cache.identity["preprocess"]["resize"][0],
        limit=_N_IMAGES // 2,  # of each of the two splits
        device=device,
        cache_dir=folder / "cache",
        data_dir=data_dir,
    )
    made = featcache.open_cache(extracted.path)
    rows = [made[split].read(0, len(made[split])) for split in ("train", "test")]
    return np.concatenate(rows), extracted


if __name__ == "__main__":
    main()
