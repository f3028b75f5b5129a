"""timm's models against timm itself: cached rows, and every transform that was published.

    python -m tests.benchmarks.timm_models OUT.json [--only rows|transforms]

Rows: the 18 tiny architectures of timm's own tests and three others, with random weights. A folder
of images of several sizes is extracted, and each row is held to `create_model(num_classes=0)` of
the same seed behind timm's own transform. Transforms: all that differ among the published weights,
on images of several sizes and modes of shape; each must be equal to the bit, or be refused.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import list_models, list_pretrained

import featcache
from featcache.backbones.timm_transforms import published_preprocess, published_size
from featcache.backbones.timm_weights import find_model
from featcache.errors import UsageError
from featcache.images.transform import BatchPreprocessor
from tests.benchmarks.measure import machine

_OTHERS = ("mobilenetv3_small_050", "levit_128s", "vit_small_patch16_dinov3")
_SEED = 3
_TOLERANCE = 1e-4  # of the largest feature
_SIZES = ((300, 400), (500, 333), (97, 130), (256, 256))  # (height, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("rows", "transforms"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine("cpu"), "timm": timm.__version__}
    if asked.out.exists():
        found |= json.loads(asked.out.read_text())
    if asked.only != "transforms":
        found["rows"] = list(_all_rows())
    if asked.only != "rows":
        found["transforms"] = _transforms()
    asked.out.write_text(json.dumps(found, indent=1))
    for row in found.get("rows", []):
        print(f"{row['architecture']:28} {row['n_features']:5} {row['difference']:.1e}")
    if "transforms" in found:
        told = found["transforms"]
        print(
            f"{told['n_equal']} equal, {len(told['refused'])} refused, {told['n_weights']} weights"
        )
    bad = [r for r in found.get("rows", []) if r["difference"] > _TOLERANCE]
    assert not bad, bad
    assert not found.get("transforms", {}).get("other"), found["transforms"]["other"]


def _all_rows() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _written(folder / "images")
        for architecture in (*list_models("test_*"), *_OTHERS):
            yield _compared(architecture, folder, images)


def _written(root: Path) -> Path:
    """Write a folder of two classes, with images of several sizes."""
    numbers = np.random.default_rng(0)
    for i, size in enumerate(itertools.islice(itertools.cycle(_SIZES), 8)):
        path = root / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return root


def _compared(architecture: str, folder: Path, images: Path) -> dict[str, Any]:
    """Extract the images, and compute them again by timm alone."""
    started = time.perf_counter()
    path = featcache.extract(
        f"folder:{images}",
        backbone=f"timm:{architecture}",
        weights="random",
        seed=_SEED,
        batch_size=4,
        n_workers=0,
        compile="never",
        cache_dir=folder / "cache",
    ).path
    cache = featcache.open_cache(path)
    torch.manual_seed(_SEED)
    model = timm.create_model(architecture, num_classes=0).eval()
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    opened = [Image.open(images / name).convert("RGB") for name in cache["train"].ids]
    with torch.no_grad():
        fresh = model(torch.stack([transform(image) for image in opened])).numpy()
    stored = cache["train"].features[:]
    return {
        "architecture": architecture,
        "n_features": cache.n_features,
        "pool": cache.identity["pool"],
        "difference": float(np.abs(stored - fresh).max() / np.abs(fresh).max()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _transforms() -> dict[str, Any]:
    """Compare every distinct published transform with ours."""
    names = list_pretrained()
    distinct: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in names:
        data = find_model(f"timm:{name}").data
        distinct.setdefault(repr(sorted(data.items())), (name, data))
    equal, refused, other = 0, {}, []
    for name, data in distinct.values():
        try:
            preprocess = published_preprocess(name, data, published_size(name, data))
        except UsageError as err:
            refused[name] = str(err)
            continue
        if all(_is_equal(preprocess, data, size) for size in _SIZES):
            equal += 1
        else:
            other.append(name)
    n_refused = 0
    for name in names:
        data = find_model(f"timm:{name}").data
        n_refused += distinct[repr(sorted(data.items()))][0] in refused
    return {
        "n_weights": len(names),
        "n_distinct": len(distinct),
        "n_equal": equal,
        "refused": refused,
        "n_weights_refused": n_refused,
        "other": other,
    }


def _is_equal(
    preprocess: featcache.Preprocess, data: dict[str, Any], size: tuple[int, int]
) -> bool:
    pixels = np.random.default_rng(1).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    theirs = create_transform(**data, is_training=False)(Image.fromarray(pixels[0]))
    ours = BatchPreprocessor(preprocess, size, torch.device("cpu"))(torch.from_numpy(pixels))
    return torch.equal(ours[0], theirs)


if __name__ == "__main__":
    main()
