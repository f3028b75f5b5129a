"""Compare cached rows with plain torchvision, one image at a time, for each named backbone.

    python tests/benchmarks/features.py OUT.json [--data-dir data] [--mobilenet-v2 WEIGHTS.pth]

The reference is PIL + ToTensor + Normalize and the torchvision model in its usual memory format,
batch 1, fp32. Beside fp32 rows stand rows stored as float16 (64 images each) and bf16 rows (8, as a
CPU without bf16 instructions takes a second for each). Without CIFAR-10 in the data folder it
takes scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import models, transforms

import featcache
from featcache.backbones.state_dict import read_state_dicts
from featcache.backbones.unwrapping import find_backbone
from featcache.errors import NonFiniteError

_N_IMAGES = 64
_VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"limit": _N_IMAGES},
    "float16 storage": {"limit": _N_IMAGES, "store_dtype": "float16"},
    "bf16": {"limit": 8, "precision": "bf16"},
}


def main() -> int:
    """Print one line per backbone and variant; exit 1 if fp32 leaves its tolerance."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--mobilenet-v2", default="random")
    options = parser.parse_args()
    has_cifar = (Path(options.data_dir) / "cifar-10-batches-py").is_dir()
    dataset = "cifar10" if has_cifar else "digits"
    lines = []
    for backbone in ("vgg16", "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2"):
        weights = options.mobilenet_v2 if backbone == "mobilenet_v2" else "random"
        expected = _reference(dataset, options.data_dir, backbone, weights)
        for variant, keywords in _VARIANTS.items():
            figures = _compare(expected, dataset, options.data_dir, backbone, weights, keywords)
            weights_name = "random" if weights == "random" else "ImageNet"
            lines.append(
                {"backbone": backbone, "weights": weights_name, "variant": variant, **figures}
            )
            print(" ".join(f"{key}={value}" for key, value in lines[-1].items()), flush=True)
    options.out.write_text(json.dumps(lines, indent=2) + "\n")
    exact = [line for line in lines if line["variant"] == "fp32"]
    holds = all(
        line["relative_difference"] <= 1e-4 and line["one_minus_cosine"] <= 1e-6 for line in exact
    )
    return 0 if holds else 1


def _compare(
    expected: dict[str, np.ndarray],
    dataset: str,
    data_dir: str,
    backbone: str,
    weights: str,
    keywords: Mapping[str, Any],
) -> dict[str, Any]:
    """Extract and compare the test rows by their ids."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = featcache.extract(
                dataset,
                backbone=backbone,
                weights=weights,
                data_dir=data_dir,
                cache_dir=folder,
                **keywords,
            )
        except NonFiniteError as err:
            return {"refused": str(err).partition(":")[0]}
        split = featcache.open_cache(result.path)["test"]
        rows = np.array(split.features, np.float64)
        wanted = np.stack([expected[image_id] for image_id in split.ids])
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted, axis=1)
    return {
        "n": len(rows),
        "relative_difference": float(np.abs(rows - wanted).max() / np.abs(wanted).max()),
        "one_minus_cosine": float(1 - ((rows * wanted).sum(1) / norms).min()),
    }


def _reference(dataset: str, data_dir: str, backbone: str, weights: str) -> dict[str, np.ndarray]:
    """Rows of (D,) float64 by image id, by the notebook's own pipeline."""
    if weights == "random":
        torch.manual_seed(0)
        model = models.get_model(backbone, weights=None)
    else:
        model = models.get_model(backbone, weights=None)
        states, own = read_state_dicts(weights), model.state_dict()
        model.load_state_dict(find_backbone(states, own, source=weights)[0].state, strict=False)
    model.classifier = torch.nn.Identity()
    model.eval()
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    split = featcache.load_dataset(dataset, data_dir=data_dir).splits["test"]
    split, few = split.limited(_N_IMAGES), split.limited(8)
    rows = {}
    with torch.inference_mode():
        for part in (split, few):
            for image_id, pixels in zip(part.ids, part.images.pixels, strict=True):
                batch = transform(Image.fromarray(pixels))[None]
                rows[image_id] = model(batch).flatten().double().numpy()
    return rows


if __name__ == "__main__":
    sys.exit(main())
