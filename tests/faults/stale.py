"""Forty ways to make a cache stale, each refused by name; ten harmless changes (claim 12)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

import featcache
from featcache.backbones.load import load_backbone
from featcache.config import ExtractSpec
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import silent
from featcache.errors import MismatchError
from featcache.extraction import plan as planning
from featcache.extraction.opening import open_images
from featcache.store import cache_path
from tests.faults.claims import Claim, main
from tests.faults.images import BACKBONE, extract, make_images, small_blocks

Change = Callable[[Path, Path], Any]


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Make a cache, change one thing, and ask for it again."""
    torch.set_num_threads(1)
    ways = list(_stale_ways())
    tried = ways[::9] if quick else ways
    refused = [_is_refused(folder / f"stale{i}", *way) for i, way in enumerate(tried)]
    harmless = list(_harmless_ways())
    reused = [_is_reused(folder / f"same{i}", change) for i, change in enumerate(harmless)]
    missed = [field for (field, *_), ok in zip(tried, refused, strict=True) if not ok]
    control = _names_alone_notice(folder / "control")
    return [
        Claim(
            12,
            f"{len(tried)} ways to make a cache stale: {sum(refused)} refused with the field "
            f"named{f' (not: {missed})' if missed else ''}; {len(harmless)} harmless changes: "
            f"{len(harmless) - sum(reused)} refused",
            all(refused) and all(reused) and len(ways) >= 40,
            f"a cache found by its backbone's and dataset's names: one pixel of one image changed "
            f"is {'noticed' if control else 'not noticed'}",
            not control,
        )
    ]


def _asked(images: Path, root: Path, **options: Any) -> dict[str, Any]:
    """What is asked of `extract`, with weights from a file."""
    asked: dict[str, Any] = {"dataset": f"folder:{images}", "backbone": BACKBONE, "image_size": 32}
    asked |= {"weights": str(root / "weights.pth"), "n_workers": 0, "batch_size": 16}
    asked |= {"cache_dir": str(root / "cache"), "data_dir": str(root / "data")}
    return asked | options


def _setting(root: Path) -> tuple[Path, Path]:
    """A folder of images with a file of weights, and their cache."""
    images = make_images(root / "images", n_train=12, n_test=6)
    backbone = load_backbone(BACKBONE, weights="random").module
    assert backbone is not None
    torch.save(backbone.state_dict(), root / "weights.pth")
    return images, featcache.extract(**_asked(images, root)).path


def _is_refused(
    root: Path, field: str, change: Change | None, options: dict[str, Any], patched: Any
) -> bool:
    """Put the cache where the changed one would be: it must be refused, and the field named."""
    root.mkdir()
    images, path = _setting(root)
    if change is not None:
        change(images, root)
    with patched() if patched is not None else _nothing():
        spec = ExtractSpec(**_asked(images, root, **options))
        plan = planning.make_plan(
            spec, open_images(spec, on_note=silent), on_progress=silent, on_note=silent
        )
        if plan.path == path:
            return False
        shutil.copy(path, plan.path)
        try:
            featcache.extract(**_asked(images, root, **options))
        except MismatchError as err:
            return field in str(err)
    return False


def _is_reused(root: Path, change: Change) -> bool:
    root.mkdir()
    images, _ = _setting(root)
    options = change(images, root) or {}
    return featcache.extract(**_asked(images, root, **options)).outcome == "reused"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _stale_ways() -> Iterator[tuple[str, Change | None, dict[str, Any], Any]]:
    """Yield (the field that must be named, a change on the disk, options, a patch)."""
    for n in range(10):
        yield "weights_sha256", _bit_of_weight(n), {}, None
    for name, value in (
        ("resize", (32, 33)),
        ("crop", 31),
        ("interpolation", "bicubic"),
        ("mean", (0.5, 0.5, 0.51)),
        ("mean", (0.4, 0.5, 0.5)),
        ("std", (0.5, 0.49, 0.5)),
        ("std", (0.5, 0.5, 0.6)),
    ):
        yield f"preprocess.{name}", None, {}, _preprocess_with(**{name: value})
    yield "preprocess.resize", None, {"image_size": 33}, None
    yield "preprocess.", None, {"preprocess": "weights"}, None
    for n in range(6):
        yield "dataset_sha256", _pixel_of_image(n), {}, None
    for n in range(2):
        yield "dataset_sha256", _other_label(n), {}, None
        yield "dataset_sha256", _renamed(n), {}, None
    yield "dataset_sha256", _swapped_files, {}, None
    yield "dataset_sha256", _renamed_class, {}, None
    yield "dataset_sha256", _removed, {}, None
    yield "dataset_sha256", _added, {}, None
    yield "dataset_sha256", _other_split, {}, None
    yield "dataset_sha256", None, {"limit": 5}, None
    yield "store_dtype", None, {"store_dtype": "float16"}, None
    yield "precision", None, {"precision": "bf16"}, None
    yield "precision", None, {"precision": "fp16"}, None
    yield "bn", None, {"bn": "adapted"}, None
    yield "layer", None, {}, _layer_patched
    yield "weights_sha256", None, {"weights": "random", "seed": 1}, None
    yield "weights_sha256", _other_weights_of_same_name, {}, None


def _bit_of_weight(n: int) -> Change:
    def change(images: Path, root: Path) -> None:
        state = torch.load(root / "weights.pth", weights_only=True)
        tensors = [t for t in state.values() if t.dtype == torch.float32 and t.numel() > 1]
        tensor = tensors[n * len(tensors) // 10]
        flat = tensor.flatten().view(torch.int32)
        flat[n % len(flat)] ^= 1
        tensor.copy_(flat.view(torch.float32).view(tensor.shape))
        torch.save(state, root / "weights.pth")

    return change


def _other_weights_of_same_name(images: Path, root: Path) -> None:
    backbone = load_backbone(BACKBONE, weights="random", seed=9).module
    assert backbone is not None
    torch.save(backbone.state_dict(), root / "weights.pth")


def _preprocess_with(**fields: Any) -> Any:
    """Ask for another preprocessing than any option gives."""

    @contextmanager
    def patched() -> Iterator[None]:
        changed = replace(Preprocess.notebook(32), **fields)
        with mock.patch.object(Preprocess, "notebook", return_value=changed):
            yield

    return patched


@contextmanager
def _layer_patched() -> Iterator[None]:
    load = load_backbone

    def other(*args: Any, **options: Any) -> Any:
        return replace(load(*args, **options), layer="last convolution")

    with mock.patch.object(planning, "load_backbone", other):
        yield


def _image(images: Path, n: int) -> Path:
    found = sorted(images.glob("*/*/*.png"))
    return found[n * len(found) // 6]


def _pixel_of_image(n: int) -> Change:
    def change(images: Path, root: Path) -> None:
        path = _image(images, n)
        with Image.open(path) as image:
            pixels = image.copy()
        red, green, blue = pixels.getpixel((n, n))
        pixels.putpixel((n, n), (red ^ 1, green, blue))
        pixels.save(path)

    return change


def _other_label(n: int) -> Change:
    def change(images: Path, root: Path) -> None:
        path = images / "train" / "cat" / f"{2 * n:04d}.png"
        path.rename(images / "train" / "dog" / path.name)

    return change


def _renamed(n: int) -> Change:
    def change(images: Path, root: Path) -> None:
        path = _image(images, n)
        path.rename(path.with_name(f"x{path.name}"))

    return change


def _swapped_files(images: Path, root: Path) -> None:
    one, other = sorted(images.glob("train/cat/*.png"))[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _renamed_class(images: Path, root: Path) -> None:
    for split in ("train", "test"):
        (images / split / "dog").rename(images / split / "doge")


def _removed(images: Path, root: Path) -> None:
    _image(images, 3).unlink()


def _added(images: Path, root: Path) -> None:
    shutil.copy(_image(images, 3), _image(images, 3).with_name("zz.png"))


def _other_split(images: Path, root: Path) -> None:
    (images / "test").rename(images / "val")


def _harmless_ways() -> Iterator[Change]:
    yield lambda images, root: [os.utime(p, (0, 0)) for p in images.rglob("*.png")] and None
    yield (
        lambda images, root: (
            (root / "weights.pth").rename(root / "w.pth") and {"weights": str(root / "w.pth")}
        )
    )
    yield _moved_images
    yield _copied_cache_folder
    yield lambda images, root: {"batch_size": 8}
    yield lambda images, root: {"n_workers": 2}
    yield lambda images, root: [p.chmod(0o444) for p in images.rglob("*.png")] and None
    yield _rewritten_weights
    yield lambda images, root: {"compile": "inductor"}
    yield lambda images, root: {"dataset": f"folder:{images}/../images/."}


def _moved_images(images: Path, root: Path) -> dict[str, Any]:
    other = root / "elsewhere"
    other.mkdir()
    shutil.move(images, other / images.name)  # the cache's folder carries the name
    return {"dataset": f"folder:{other / images.name}"}


def _copied_cache_folder(images: Path, root: Path) -> dict[str, Any]:
    shutil.copytree(root / "cache", root / "copy")
    shutil.rmtree(root / "cache")
    return {"cache_dir": str(root / "copy")}


def _rewritten_weights(images: Path, root: Path) -> None:
    state = torch.load(root / "weights.pth", weights_only=True)
    torch.save(dict(reversed(state.items())), root / "weights.pth")


def _names_alone_notice(root: Path) -> bool:
    """Look for a cache by names, as most scripts do, after a pixel has changed."""
    root.mkdir()
    images = make_images(root / "images", n_train=12, n_test=6)
    path = extract(images, root / "cache", backbone="pixels").path
    named = cache_path(path.parent, "pixels", "0" * 64)
    path.rename(named)
    _pixel_of_image(2)(images, root)
    return not named.exists()


if __name__ == "__main__":
    sys.exit(main("stale", claims))
