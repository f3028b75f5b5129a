"""Sets of images in which it is known what is wrong: copies and wrong labels."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def stored_again(image: Image.Image) -> bytes:
    """As a JPEG of quality 75."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=75)
    return file.getvalue()


def resized(image: Image.Image) -> bytes:
    """At three quarters of its size."""
    size = (max(1, round(image.width * 0.75)), max(1, round(image.height * 0.75)))
    return _png(image.resize(size, Image.Resampling.LANCZOS))


def cropped(image: Image.Image) -> bytes:
    """Without 5% of its width and height, off the left and the top."""
    left, top = (max(1, round(0.05 * side)) for side in image.size)
    return _png(image.crop((left, top, image.width, image.height)))


def brighter(image: Image.Image) -> bytes:
    """A fifth brighter."""
    return _png(ImageEnhance.Brightness(image).enhance(1.2))


COPIES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "JPEG 75": stored_again,
    "resized": resized,
    "cropped": cropped,
    "brighter": brighter,
}


@dataclass(frozen=True)
class Planted:
    """A folder of images, some of which are there twice.

    Attributes:
        folder: `train/<class>/...` and `test/<class>/...`.
        exact: Ids of original and equal copy.
        near: Ids of original and copy, by kind of the copy.
    """

    folder: Path
    exact: Sequence[frozenset[str]]
    near: Mapping[str, Sequence[frozenset[str]]]


def plant(
    source: Path,
    folder: Path,
    *,
    n_train: int,
    n_test: int,
    n_each: int = 20,
    share_in_train: float = 0.0,
    seed: int = 0,
) -> Planted:
    """Copy some images, and copies of some of those.

    Args:
        source: A folder with `train/<class>/` and `test/<class>/`.
        folder: A new one.
        n_train: Images of train, drawn at random.
        n_test: Images of test.
        n_each: Exact copies of images of train in test, and as many near ones, of each kind a
            quarter.
        share_in_train: Share of train that is copied inside train too, half of it exactly.
        seed: Seeds all draws.
    """
    rng = np.random.default_rng(seed)
    drawn = {
        "train": _drawn(source, "train", n_train, rng),
        "test": _drawn(source, "test", n_test, rng),
    }
    for paths in drawn.values():
        for path in paths:
            _copy(source, folder, path)
    n_inside = round(share_in_train * n_train)
    originals = rng.permutation(drawn["train"])[: 2 * n_each + n_inside].tolist()
    exact: list[frozenset[str]] = []
    near: dict[str, list[frozenset[str]]] = {kind: [] for kind in COPIES}
    for i, name in enumerate(originals):
        split = "test" if i < 2 * n_each else "train"
        place = Path(split, Path(name).parent.name)
        original = (source / name).read_bytes()
        if (i < n_each) or (i >= 2 * n_each and i % 2):
            copy = place / f"copy-{i:05d}{Path(name).suffix}"
            content = original
            pairs: list[frozenset[str]] = exact
        else:
            kind = [*COPIES][(i if split == "test" else i // 2) % len(COPIES)]
            copy = place / f"copy-{i:05d}{'.jpg' if kind == 'JPEG 75' else '.png'}"
            with Image.open(io.BytesIO(original)) as image:
                content = COPIES[kind](image.convert("RGB"))
            pairs = near[kind]
        (folder / copy).parent.mkdir(parents=True, exist_ok=True)
        (folder / copy).write_bytes(content)
        pairs.append(frozenset((name, copy.as_posix())))
    return Planted(folder, exact, near)


def _drawn(source: Path, split: str, n: int, rng: np.random.Generator) -> list[str]:
    paths = sorted(p.relative_to(source).as_posix() for p in (source / split).glob("*/*"))
    return [paths[i] for i in sorted(rng.permutation(len(paths))[:n].tolist())]


def _copy(source: Path, folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, folder / name)


def with_wrong_labels(
    labels: np.ndarray, n: int, *, n_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give n rows another class, at random.

    Returns:
        The labels, and the rows that are wrong now.
    """
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[:n]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + rng.integers(1, n_classes, n)) % n_classes
    return changed, wrong
