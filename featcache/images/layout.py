"""Tell which folders of an image folder are its splits, and which are its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featcache.errors import DatasetError, counted
from featcache.images.tree import FoundFiles, Tree

# What a folder is called, in any case, and the split that it means.
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_ORDER = ("train", "val", "test")
_AMBIGUOUS = ("eval", "evaluation")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # "seg_train", "TrainSet", "train2017" have "train"
LAYOUT = (
    "Expected PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (PATH/val/ is optional), "
    "or PATH/CLASS/*.jpg for one split"
)


@dataclass(frozen=True)
class Layout:
    """The splits of a folder.

    Attributes:
        splits: What lies below each, by name, "train" first.
        left_out: What lies below folders that are called like a split but hold no class folder with
            an image, by the folder's name.
        notes: What a user should be told about them.
    """

    splits: Mapping[str, FoundFiles]
    left_out: Mapping[str, FoundFiles]
    notes: tuple[str, ...]


def read_layout(tree: Tree) -> Layout:
    """Tell splits from classes by names and by what the folders hold; no image is opened.

    A folder with the name of a split is one if folders with images lie in it. With images directly
    in it, it is a class beside others (the vehicle called train).

    Raises:
        DatasetError: If it is unreadable, without class folders, or of a layout that would make
            nonsense classes; with what would work.
    """
    top = tree.top_folders()
    if not top:
        n_images = tree.n_top_images()
        what = f"{counted(n_images, 'image')} but no" if n_images else "no"
        raise DatasetError(
            f"{tree.place()} holds {what} class folders. {LAYOUT}. For images without classes: "
            f"images:PATH."
        )
    named = {folder: tree.walk(folder) for folder in top if is_split_name(folder)}
    if any(found.class_names for found in named.values()):
        return _with_splits(tree, top, named)
    return _flat(tree, top)


def listed(names: Sequence[str], *, at_most: int = 5) -> str:
    """Write names with commas between, and count those beyond `at_most`."""
    shown = ", ".join(repr(name) for name in names[:at_most])
    n_more = len(names) - at_most
    return f"{shown} and {n_more} more" if n_more > 0 else shown


def _with_splits(tree: Tree, top: Sequence[str], named: Mapping[str, FoundFiles]) -> Layout:
    """Take the folders that are splits; name all others."""
    folder_of: dict[str, str] = {}
    for folder in (folder for folder, found in named.items() if found.class_names):
        split = SPLIT_OF.get(folder.lower())
        if split is None:
            raise DatasetError(
                f"{tree.place()} has {folder}/, which may mean images to choose by or to test on. "
                f"Nothing was extracted. Rename it val/ (training then chooses by it) or test/."
            )
        if other := folder_of.get(split):
            raise DatasetError(
                f"{tree.place()} has both {other}/ and {folder}/, which mean the same split. "
                "Move one of them away."
            )
        folder_of[split] = folder
    if "train" not in folder_of:
        raise _without_train(tree, [*folder_of.values()])
    _refuse_wrapped(tree, named[folder_of["train"]], below=folder_of["train"])
    splits = {split: named[folder_of[split]] for split in SPLIT_ORDER if split in folder_of}
    left_out = {
        folder: found
        for folder, found in named.items()
        if not found.class_names and folder.lower() in SPLIT_OF
    }
    beside = [folder for folder in top if folder not in {*folder_of.values(), *left_out}]
    notes = []
    if left_out:
        notes.append(f"Splits without an image in a class folder left out: {listed([*left_out])}.")
    if beside:
        notes.append(f"Folders beside the splits left out: {listed(beside)}.")
    return Layout(splits, left_out, tuple(notes))


def _flat(tree: Tree, top: Sequence[str]) -> Layout:
    """Take every folder as a class of one split."""
    found = tree.walk(".")
    classes = found.class_names
    alike = [name for name in classes if is_split_name(name)]
    if classes and all(map(is_split_name, top)):
        raise _without_train(tree, top)
    _refuse_splits_within(tree, found)
    _refuse_wrapped(tree, found)
    notes = [f"{name}/ holds images directly, so it is a class and no split." for name in alike]
    return Layout({"train": found}, {}, tuple(notes))


def _without_train(tree: Tree, folders: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{tree.place()} holds {listed(folders)}, but no train/ with a folder per class. {LAYOUT}."
    )


def is_split_name(folder: str) -> bool:
    """Tell whether a folder is called like a split."""
    return folder.lower() in SPLIT_OF or folder.lower() in _AMBIGUOUS


def _refuse_splits_within(tree: Tree, found: FoundFiles) -> None:
    """Refuse classes that hold whole splits (pets/train/CLASS), whatever lies beside those.

    Their images would all be of one class, those to test on too. Among several classes one folder
    called like a split proves nothing (vehicles/train/steam); two in one place do.
    """
    n_least = 2 if len(found.class_names) > 1 else 1
    for name in found.class_names:
        splits: dict[str, dict[str, str]] = {}
        for path in found.images[name]:
            folders = path.split("/")[:-1]
            for i in range(1, len(folders) - 1):
                if split := SPLIT_OF.get(folders[i].lower()):
                    splits.setdefault("/".join(folders[:i]), {})[split] = folders[i]
        holders = [folder for folder in splits if len(splits[folder]) >= n_least]
        if not holders:
            continue
        holder = min(holders, key=lambda folder: folder.count("/"))
        within = splits[holder]
        works = holder if "train" in within else f"{holder}/{next(iter(within.values()))}"
        raise DatasetError(
            f"{name!r} in {tree.place()} would be taken for a class, but {holder}/ holds "
            f"{listed(sorted(within.values()))} with folders with images. Nothing was extracted. "
            f"{tree.way_to(works)}."
        )


def _refuse_wrapped(tree: Tree, found: FoundFiles, *, below: str | None = None) -> None:
    """Refuse folders that only wrap the class folders, and say which folder would work.

    A wrapper holds folders with images and no image directly. So does a class with subfolders; what
    tells them apart is that it stands alone (data/CLASS), or is called like a split, or like the
    one folder in it, beside others of its kind (seg_train/seg_train/CLASS).
    """
    holders = {}
    for name in found.class_names:
        start = name if below is None else f"{below}/{name}"
        holder, has_folders = _class_holder(start, found.images[name])
        if has_folders:
            holders[name] = holder
    meant = {split: name for name in holders for split in splits_meant(name)}
    if len(found.class_names) > 1 or not holders:
        all_wrap = len(holders) == len(found.class_names)
        is_wrapped = len(meant) > 1 or (
            all_wrap and (bool(meant) or all(h == f"{n}/{n}" for n, h in holders.items()))
        )
        if below is not None or not holders or not is_wrapped:
            return
    advice = tree.way_to(holders[meant.get("train", next(iter(holders)))])
    if len(meant) > 1 and below is None:
        links = ", ".join(f"{s} -> {holders[meant[s]]}" for s in SPLIT_ORDER if s in meant)
        advice += f" for one of them alone, or make links in {tree.place()}: {links}"
    raise DatasetError(
        f"{listed([*holders])} in {tree.place(below or '.')} would be taken for classes, but hold "
        f"folders with images and no image directly. Nothing was extracted. {advice}."
    )


def _class_holder(start: str, paths: Sequence[str]) -> tuple[str, bool]:
    """Go down from a folder as long as one folder alone in it holds all images.

    Returns:
        Where that ends, and whether it is folders that hold its images, not it itself.
    """
    while True:
        rests = [path.removeprefix(f"{start}/") for path in paths]
        folders = {rest.partition("/")[0] for rest in rests}
        if any("/" not in rest for rest in rests):
            return start, False
        if len(folders) > 1 or is_split_name(min(folders)):
            return start, True
        start = f"{start}/{folders.pop()}"


def splits_meant(name: str) -> set[str]:
    """List the splits that the words of a name stand for."""
    words = (word.lower() for word in _WORD.findall(name))
    return {SPLIT_OF[word] for word in words if word in SPLIT_OF}
