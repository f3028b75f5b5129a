"""Compare cached rows with plain torchvision, one image at a time: 64 images, each named trunk.

    python tests/benchmarks/features.py OUT.json [--data-dir data] [--mobilenet-v2 WEIGHTS.pth]

The reference is PIL + ToTensor + Normalize and the torchvision model in its usual memory format,
batch 1, fp32. Beside fp32 rows stand bf16 rows and rows stored as float16. Without CIFAR-10 in the
data folder it takes scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import models, transforms

import featcache
from featcache.weights import read_state_dict

_N_IMAGES = 64
_VARIANTS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "float16 storage": {"store_dtype": "float16"},
}


def main() -> int:
    """Print one line per trunk and variant; exit 1 if fp32 leaves its tolerance."""
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
            with tempfile.TemporaryDirectory() as folder:
                result = featcache.extract(
                    dataset,
                    backbone=backbone,
                    weights=weights,
                    limit=_N_IMAGES,
                    data_dir=options.data_dir,
                    cache_dir=folder,
                    **keywords,
                )
                rows = np.array(featcache.open_cache(result.path)["test"].features, np.float64)
            difference = np.abs(rows - expected).max() / np.abs(expected).max()
            cosine = (rows * expected).sum(1) / (
                np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
            )
            lines.append(
                {
                    "dataset": dataset,
                    "backbone": backbone,
                    "weights": "ImageNet" if weights != "random" else "random",
                    "variant": variant,
                    "relative_difference": float(difference),
                    "least_cosine": float(cosine.min()),
                }
            )
            print(
                f"{backbone:<20} {variant:<16} max |difference| / max |feature| {difference:.1e}, "
                f"1 - least cosine {1 - cosine.min():.1e}"
            )
    options.out.write_text(json.dumps(lines, indent=2) + "\n")
    exact = [line for line in lines if line["variant"] == "fp32"]
    holds = all(
        line["relative_difference"] <= 1e-4 and line["least_cosine"] >= 0.999999 for line in exact
    )
    return 0 if holds else 1


def _reference(dataset: str, data_dir: str, backbone: str, weights: str) -> np.ndarray:
    """(64, D) float64, by the notebook's own pipeline."""
    if weights == "random":
        torch.manual_seed(0)
        model = models.get_model(backbone, weights=None)
    else:
        model = models.get_model(backbone, weights=None)
        model.load_state_dict(read_state_dict(weights), strict=False)
    model.classifier = torch.nn.Identity()
    model.eval()
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    split = featcache.load_dataset(dataset, data_dir=data_dir).splits["test"].limited(_N_IMAGES)
    rows = []
    with torch.inference_mode():
        for pixels in split.images.pixels:
            batch = transform(Image.fromarray(pixels))[None]
            rows.append(model(batch).flatten().double().numpy())
    return np.stack(rows)


if __name__ == "__main__":
    sys.exit(main())
