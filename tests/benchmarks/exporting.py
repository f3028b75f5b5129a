"""Exported files beside PyTorch: three backbones, every format, every way to resize.

    python -m tests.benchmarks.exporting OUT.json --weights vgg16.safetensors [--dataset digits]
        [--data-dir data] [--images 360] [--image-size 224] [--only vgg16]

A head is trained on 100 images a split of each backbone: mobilenet_v3_small and timm:test_resnet
with random weights, vgg16 with those of --weights (random without). Each is exported in every
format. Then a new process runs --images images of the test split in batches of 1, 7, 64, 64 and
so on. A second process gets the same file with one bit flipped. Last, the code of the cards is run.
`pytorch_to_float64` says how far PyTorch's own fp32 is from float64 there, on 72 of the images.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import featcache
from featcache.deployment.backbone import rebuild_backbone
from featcache.deployment.exports.check import check_file
from featcache.errors import CorruptError, FeatcacheError
from featcache.images.decode_batches import resize_image
from featcache.images.transform import BatchPreprocessor
from tests.benchmarks.resultfile import ResultFile

BACKBONES = ("mobilenet_v3_small", "vgg16", "timm:test_resnet")
BATCHES = (1, 7, 64)
# Format, input ("size" is that of the dataset's images), name of the file.
FILES: Sequence[tuple[str, str, str]] = (
    ("onnx", "crop", "crop.onnx"),
    ("onnx", "size", "size.onnx"),
    ("onnx", "any", "any.onnx"),
    ("pt2", "crop", "crop.pt2"),
    ("pt2", "size", "size.pt2"),
    ("safetensors", "crop", "tensors.safetensors"),
    ("hf", "crop", "hub"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    kept = {"dataset": options.dataset, "images": options.images, "size": options.image_size}
    file = ResultFile(options.out, kept, device="cpu")
    split = featcache.load_dataset(options.dataset, data_dir=options.data_dir).splits["test"]
    images: Any = split.limited(options.images).images
    for backbone in BACKBONES:
        if options.only not in backbone:
            continue
        with tempfile.TemporaryDirectory() as folder:
            weights = options.weights if backbone == "vgg16" else None
            run = trained(Path(folder), backbone, weights, options)
            for row in measured(run, Path(folder), images.pixels, options.data_dir):
                file.add({"backbone": backbone, "weights": Path(weights or "random").name, **row})
                print(json.dumps(file.results[-1]))


def trained(folder: Path, backbone: str, weights: str | None, options: Any) -> Path:
    """Train a head on a few images of a backbone."""
    cache = featcache.extract(
        options.dataset,
        backbone=backbone,
        weights=weights or "random",
        image_size=options.image_size,
        limit=100,
        data_dir=options.data_dir,
        cache_dir=folder / "cache",
    )
    return featcache.train_head(
        cache.path, lr=1e-3, max_epochs=5, hidden=(20,), runs_dir=folder / "runs"
    ).path


def measured(run: Path, folder: Path, images: Any, data_dir: str) -> Iterator[Mapping[str, Any]]:
    """Export a head in every way, and compare each file with PyTorch."""
    height, width = images.shape[1:3]
    backbone = rebuild_backbone(featcache.load_head(run), cache_dir=folder / "cache")
    prepared = np.stack([resize_image(Image.fromarray(i), backbone.preprocess) for i in images])
    eager = eager_of(run, backbone)
    noise = to_float64(run, backbone, prepared[: sum(BATCHES)], eager)
    for format, kind, name in FILES:
        taken = f"{height}x{width}" if kind == "size" else kind
        started = time.perf_counter()
        made = featcache.export(
            run,
            out=folder / name,
            format=format,
            input=taken,
            cache_dir=folder / "cache",
            data_dir=data_dir,
        )
        seconds = time.perf_counter() - started
        given = prepared if kind == "crop" else images
        check = functools.partial(
            check_file,
            pairs=[(given[part], prepared[part]) for part in parts(len(images))],
            eager=eager,
            format=format,
            sha256=made.sha256,
            images="test",
            tolerance=1.0,
        )
        report = check(made.model)
        yield {
            "format": format,
            "input": taken,
            "nbytes": made.nbytes,
            "export_s": seconds,
            "n_images": report.n_images,
            "batches": report.batch_sizes,
            "same_top1": report.n_same_top1,
            "difference": report.difference,
            "pytorch_to_float64": noise,
            "flipped_bit": flipped(made.model, check),
            "code_of_the_card": code_runs(made, images),
        }


def parts(n: int) -> list[slice]:
    """Divide n images into batches of 1, 7 and 64, the last of what is left."""
    stops = [0, *np.cumsum(BATCHES[:-1]).tolist()]
    stops = [*(s for s in [*stops, *range(stops[-1] + BATCHES[-1], n, BATCHES[-1])] if s < n), n]
    return [slice(start, stop) for start, stop in itertools.pairwise(stops)]


def eager_of(run: Path, backbone: Any) -> Callable[[Any], Any]:
    """Give PyTorch's probabilities; what was asked before is not computed again."""
    head = featcache.load_head(run).module()
    preprocess = backbone.preprocess
    prepare = BatchPreprocessor(preprocess.after_resize, preprocess.out_size, torch.device("cpu"))
    module = backbone.module.to(memory_format=torch.contiguous_format)
    known: dict[bytes, Any] = {}

    def eager(prepared: Any) -> Any:
        key = prepared.tobytes()
        if key not in known:
            with torch.no_grad():
                logits = head(module(prepare(torch.from_numpy(prepared))))
            known[key] = torch.softmax(logits.double(), 1).numpy()
        return known[key]

    return eager


def to_float64(run: Path, backbone: Any, prepared: Any, eager: Callable[[Any], Any]) -> float:
    """Measure what fp32 itself costs: PyTorch's largest distance from float64, on these images."""
    head = copy.deepcopy(featcache.load_head(run).module()).double()
    module = copy.deepcopy(backbone.module).double()
    preprocess = backbone.preprocess
    prepare = BatchPreprocessor(preprocess.after_resize, preprocess.out_size, torch.device("cpu"))
    largest = 0.0
    for start in range(0, len(prepared), 8):  # convolutions in float64 take much memory
        some = prepared[start : start + 8]
        with torch.no_grad():
            exact = torch.softmax(head(module(prepare(torch.from_numpy(some)).double())), 1)
        largest = max(largest, float(np.abs(exact.numpy() - eager(some)).max()))
    return largest


def flipped(model: Path, check: Callable[[Path], Any]) -> str:
    """Say what becomes of the file with one bit flipped in its middle."""
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    copy = model.with_name(f"flipped-{model.name}")
    copy.write_bytes(content)
    try:
        check(copy)
    except CorruptError:
        return "refused"
    except FeatcacheError as err:
        return type(err).__name__
    finally:
        copy.unlink()
    return "not noticed"


def code_runs(made: featcache.ExportedModel, images: Any) -> bool:
    """Run the code of a card in a process of its own."""
    folder = made.model.parent
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    for i in range(3):
        Image.fromarray(images[i]).save(photos / f"{i}.png")
    Image.fromarray(images[0]).save(folder / "photo.jpg", format="png")
    snippets = re.findall(r"```python\n(.*?)```", made.card.read_text(), re.DOTALL)
    code = "\n".join(f"exec({snippet!r}, {{}})" for snippet in snippets)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and len(snippets) == 3 and "\nwhole\n" in done.stdout


if __name__ == "__main__":
    main()
