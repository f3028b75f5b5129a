"""Heads asked for by the name of a folder: only the cache of its rows is taken (claim 23)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import featcache
from featcache.errors import DatasetError, MismatchError
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images

Change = Callable[[Path], object]
_VERBS: tuple[Callable[..., object], ...] = (featcache.train_head, featcache.sweep)


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Extract one folder, and train on others of its name."""
    images = make_images(folder / "a" / "pets", n_train=12, n_test=6)
    cache_dir = folder / "cache"
    extract(images, cache_dir, backbone="pixels", image_size=16)
    n_refused, n_by_name = 0, 0
    changes = _CHANGES[::3] if quick else _CHANGES
    for i, change in enumerate(changes):
        other = folder / f"b{i}" / "pets"
        shutil.copytree(images, other)
        change(other)
        n_refused += sum(_is_refused(verb, other, cache_dir) for verb in _VERBS)
        n_by_name += _by_name(other, cache_dir)
    n_taken = sum(_is_taken(images, folder / f"c{i}", cache_dir, c) for i, c in enumerate(_SAME))
    reproduced = _reproduced(images, folder, cache_dir)
    n_tries = len(changes) * len(_VERBS)
    return [
        Claim(
            23,
            f"train_head and sweep on {len(changes)} other folders of a cache's name: {n_refused} "
            f"of {n_tries} refused; on {len(_SAME)} copies: {n_taken} took the cache; reproduce "
            f"made the other folder's own cache: {'yes' if reproduced else 'no'}",
            (n_refused, n_taken) == (n_tries, len(_SAME)) and reproduced,
            f"the cache looked for by the names of folder and backbone: {n_by_name} of "
            f"{len(changes)} others took it",
            n_by_name == len(changes),
        )
    ]


def _train(verb: Callable[..., object], images: Path, cache_dir: Path) -> object:
    return verb(
        dataset=f"folder:{images}",
        backbone="pixels",
        max_epochs=1,
        cache_dir=cache_dir,
        runs_dir=images.parent / "runs",
    )


def _is_refused(verb: Callable[..., object], images: Path, cache_dir: Path) -> bool:
    try:
        _train(verb, images, cache_dir)
    except (MismatchError, DatasetError):
        return not (images.parent / "runs").exists()
    return False


def _by_name(images: Path, cache_dir: Path) -> bool:
    """Look for a cache by names, as featcache did at first."""
    return len(list(cache_dir.glob(f"folder-{images.name}/pixels-*.h5"))) == 1


def _is_taken(images: Path, folder: Path, cache_dir: Path, change: Change) -> bool:
    copy = folder / "pets"
    shutil.copytree(images, copy)
    change(copy)
    _train(featcache.train_head, copy, cache_dir)
    return True


def _reproduced(images: Path, folder: Path, cache_dir: Path) -> bool:
    """Reproduce a system on another folder of the name: it must have a cache of its own."""
    other = folder / "d" / "pets"
    shutil.copytree(images, other)
    _renamed_class(other)
    before = {c.path for c in featcache.list_caches(cache_dir)}
    featcache.reproduce(
        f"folder:{other}",
        only=["scratch-mlp"],
        image_size=16,
        cache_dir=cache_dir,
        runs_dir=folder / "d" / "runs",
    )
    [new] = {c.path for c in featcache.list_caches(cache_dir)} - before
    return featcache.open_cache(new).class_names == ("cat", "doge")


def _renamed_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "doge")


def _other_class(root: Path) -> None:
    shutil.copytree(root / "train" / "dog", root / "train" / "wolf")


def _no_split(root: Path) -> None:
    shutil.rmtree(root / "test")


def _other_images(root: Path) -> None:
    shutil.rmtree(root)
    make_images(root, n_train=10, n_test=4)


def _move(source: str, target: str) -> Change:
    return lambda root: (root / source).rename(root / target)


_CHANGES: tuple[Change, ...] = (
    _renamed_class,
    _move("train/cat/0000.png", "train/dog/0000.png"),
    _move("train/cat/0000.png", "train/cat/x.png"),
    _move("test", "val"),
    _move("test/dog/0001.png", "test/dog/0009.png"),
    _other_class,
    _no_split,
    _other_images,
    lambda root: (root / "train" / "cat" / "0000.png").unlink(),
    lambda root: shutil.copy(root / "train/cat/0000.png", root / "train/cat/zz.png"),
    lambda root: shutil.copy(root / "train/cat/0000.png", root / "train/cat/00.jpg"),
    shutil.rmtree,
)
_SAME: tuple[Change, ...] = (
    lambda root: None,
    lambda root: [os.utime(path, (0, 0)) for path in root.rglob("*.png")],
    lambda root: (root / "train" / "cat" / "notes.txt").touch(),
)


if __name__ == "__main__":
    sys.exit(main("folders", claims))
