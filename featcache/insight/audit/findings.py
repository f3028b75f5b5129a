"""All that is looked for in a cache that was verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from featcache.core.arithmetic import head_arithmetic
from featcache.core.device import pick_device, pick_n_workers
from featcache.core.failures import device_failures_named
from featcache.core.paths import native
from featcache.core.plain_torch import plain_torch
from featcache.core.reporting import NoteCallback
from featcache.errors import FeatcacheError, MismatchError, UsageError, clipped, counted
from featcache.insight.audit.candidates import Candidates, find_candidates
from featcache.insight.audit.duplicates import (
    Pairs,
    described,
    exact_pairs,
    find_duplicates,
    seen_in,
)
from featcache.insight.audit.grey import GreyArray
from featcache.insight.audit.images import digests_of, grey_images
from featcache.insight.audit.keep_list import kept_rows, write_list
from featcache.insight.audit.label_issues import find_label_issues
from featcache.insight.audit.outliers import find_outliers
from featcache.insight.audit.progress import AuditProgressCallback
from featcache.insight.audit.result import (
    AuditResult,
    ClassCount,
    LabelIssue,
    OutOfFold,
    TestedWithout,
    UnreadableImage,
)
from featcache.insight.audit.rows import AuditedRows, NumbersOfRows, audited_image
from featcache.insight.audit.tested import tested_without
from featcache.insight.cache_images import CacheImages
from featcache.store import Cache
from featcache.training.folds.divide import TooFewRowsError


@dataclass(frozen=True, eq=False)
class _Audited:
    """What is looked at, and by what means.

    Attributes:
        rows: The images of the cache.
        images: Their files or arrays, if they are here.
        device: Where to compute.
        n_workers: Processes that decode files.
        progress: Told a stage, how much of it is done, and of how much.
        note: Told each choice.
        remark: Told what the lists do not say by themselves.
    """

    rows: AuditedRows
    images: CacheImages
    device: torch.device
    n_workers: int
    progress: AuditProgressCallback
    note: NoteCallback
    remark: NoteCallback

    def told(self, stage: str) -> Callable[[int, int], None]:
        """Make what is called as a stage goes on."""
        return lambda n_done, n_total: self.progress(stage, n_done, n_total)


@plain_torch()
@torch.no_grad()
def findings(
    cache: Cache,
    images: CacheImages,
    head: Path | None,
    *,
    top: int,
    out: Path | None,
    device: str,
    n_workers: int | None,
    cache_dir: Path,
    on_progress: AuditProgressCallback,
    on_note: NoteCallback,
) -> AuditResult:
    """Look for everything, and write the list that was asked for.

    Args:
        cache: The cache, which was verified.
        images: Its images, if they are here.
        head: A run of it to be tested; None tests none.
        top: How many label issues, outliers and candidates are named.
        out: Where the list goes; None writes none.
        device: "auto", "cpu", "cuda" or "cuda:N".
        n_workers: Processes that decode files; None chooses.
        cache_dir: Folder of all caches.
        on_progress: Told a stage, how much of it is done, and of how much.
        on_note: Told each choice.

    Raises:
        UsageError: If no image could be read, or no list can be written.
        DeviceError: If the device fails.
    """
    started = time.perf_counter()
    rows = AuditedRows.of_cache(cache)
    if not len(rows):
        raise UsageError(f"No image of {cache.path.name} could be read. Nothing was audited.")
    remarks: list[str] = []

    def remark(said: str) -> None:
        remarks.append(said)
        on_note(said)

    where = pick_device(device)
    on_note(f"device {where.told}")
    workers = pick_n_workers(n_workers).value
    of = _Audited(rows, images, torch.device(where.value), workers, on_progress, on_note, remark)
    kept = "Nothing was changed."
    failures = device_failures_named(where.value, "The audit", kept=lambda: kept)
    with head_arithmetic(where.value), failures:
        candidates = find_candidates(
            rows, device=of.device, on_progress=of.told("compare features")
        )
        pairs, decided_by = _duplicates(of, candidates, top)
        in_train = _in_train(of, pairs)
        tested = _tested(of, head, pairs, cache_dir)
        issues, judged = _label_issues(of, top)
        outliers = find_outliers(rows, candidates.nearness, top=top)
    n_kept = None
    if out is not None and images.dataset is not None:
        n_kept = write_list(out, rows, kept_rows(pairs, rows), images.dataset)
    return AuditResult(
        cache=cache.path,
        dataset=native(cache.provenance.dataset),
        n_images={name: len(own) for name, own in rows.of_split.items()},
        duplicates=described(pairs, rows),
        near_decided_by=decided_by,
        in_train=in_train,
        tested=tested,
        label_issues=tuple(issues),
        out_of_fold=judged,
        outliers=tuple(outliers),
        balance=_balance(of),
        unreadable=_unreadable(cache),
        remarks=tuple(remarks),
        seconds=time.perf_counter() - started,
        kept=out,
        n_kept=n_kept,
    )


def _duplicates(of: _Audited, candidates: Candidates, top: int) -> tuple[Pairs, str]:
    """Find exact and near duplicates; tells also what decided on near ones."""
    digests = digests_of(of.rows, of.images.dataset)
    if digests is None:
        of.remark(
            "Exact duplicates are not known: the cache holds no digests of its images, and the "
            f"images are not here. {of.images.reason}"
        )
    grey = _grey(of)
    if grey is None:
        of.remark(
            "No image was there to decide on near duplicates: the pairs with the most similar "
            f"features are candidates. {of.images.reason}"
        )
    pairs = find_duplicates(
        exact_pairs(digests),
        candidates,
        grey,
        n_candidates=top,
        on_progress=of.told("compare images"),
        on_note=of.remark,
    )
    return pairs, "features" if grey is None else "images"


def _grey(of: _Audited) -> tuple[GreyArray, npt.NDArray[np.bool_]] | None:
    """Read the images small and grey, and which are there; None if no image decides."""
    if of.images.dataset is None:
        return None
    try:
        grey, is_there = grey_images(
            of.rows,
            of.images.dataset,
            n_workers=of.n_workers,
            on_note=of.note,
            on_progress=of.told("read images"),
        )
    except MismatchError as err:
        what = str(err).partition(". ")[0]
        of.remark(
            f"An image changed since the cache was made, so the images decide nothing: {what}. "
            f"`cache verify --images` names all that changed."
        )
        return None
    n_gone = len(of.rows) - int(is_there.sum())
    if n_gone:
        of.remark(
            f"{counted(n_gone, 'image')} could not be compared with others: they are gone, or "
            f"others than the cache was made from. `cache verify --images` names them."
        )
    return grey, is_there


def _in_train(of: _Audited, pairs: Pairs) -> Mapping[str, int]:
    """Count the images of each other split that are in train too, and tell it."""
    seen = {name: len(own) for name, own in seen_in(pairs, of.rows, "train").items()}
    for split, n in seen.items():
        if n and "train" in of.rows.of_split:
            of.remark(
                f"{n} of {counted(len(of.rows.of_split[split]), 'image')} of {split!r} "
                f"{'is' if n == 1 else 'are'} in 'train' too: figures of {split!r} are too good."
            )
    return seen


def _tested(of: _Audited, head: Path | None, pairs: Pairs, cache_dir: Path) -> TestedWithout | None:
    """Test the head without the test images that are in train or val too."""
    seen = seen_in(pairs, of.rows, "train", "val").get("test", np.zeros(0, np.int64))
    if head is None or not len(seen):
        return None
    rows: NumbersOfRows = of.rows.of_split["test"][seen - of.rows.numbers["test"].start]
    try:
        return tested_without(head, of.rows.cache, rows, device=str(of.device), cache_dir=cache_dir)
    except FeatcacheError as err:
        of.remark(f"{head} could not be tested without them: {err}")
        return None


def _label_issues(of: _Audited, top: int) -> tuple[Sequence[LabelIssue], OutOfFold | None]:
    """Judge the labels, where there are any."""
    labels = of.rows.labels
    if labels is None:
        return (), None
    if len(np.unique(labels)) < 2:
        of.remark("Labels were not judged: all images are of one class.")
        return (), None
    try:
        return find_label_issues(
            of.rows, labels, top=top, device=of.device, on_progress=of.told("judge labels")
        )
    except TooFewRowsError:
        of.remark("Labels were not judged: there are too few images for that.")
        return (), None


def _balance(of: _Audited) -> tuple[ClassCount, ...]:
    """Count the images of each class."""
    labels, names = of.rows.labels, of.rows.cache.class_names
    if labels is None:
        return ()
    counts = {
        split: np.bincount(labels[own.start : own.stop], minlength=len(names)).tolist()
        for split, own in of.rows.numbers.items()
    }
    found = tuple(
        ClassCount(name, {split: of_all[k] for split, of_all in counts.items()})
        for k, name in enumerate(names)
    )
    empty = [one.name for one in found if one.n.get("train") == 0]
    if empty:
        of.remark(
            f"No image of {counted(len(empty), 'class')} could be read in train: "
            f"{clipped(', '.join(empty))}."
        )
    return found


def _unreadable(cache: Cache) -> tuple[UnreadableImage, ...]:
    """List the rows without features."""
    return tuple(
        UnreadableImage(audited_image(cache, name, int(row)), reason)
        for name in cache
        for row, reason in zip(
            np.flatnonzero(~cache[name].valid), cache[name].failures.values(), strict=True
        )
    )
