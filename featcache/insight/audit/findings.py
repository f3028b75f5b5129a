"""All that is looked for in a cache that was verified."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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


class Findings:
    """What is looked for, one after the other, with what is said of it.

    Attributes:
        remarks: What the lists do not say by themselves.
    """

    def __init__(
        self,
        cache: Cache,
        images: CacheImages,
        *,
        device: str,
        n_workers: int | None,
        on_progress: AuditProgressCallback,
        on_note: NoteCallback,
    ) -> None:
        """Take a cache that was verified, and its images, if they are here."""
        self.cache, self.images = cache, images
        self.rows = AuditedRows.of_cache(cache)
        self.remarks: list[str] = []
        self._note, self._progress = on_note, on_progress
        chosen = pick_device(device)
        on_note(f"device {chosen.told}")
        self.device = torch.device(chosen.value)
        self.n_workers = pick_n_workers(n_workers).value

    def remark(self, text: str) -> None:
        """Keep a sentence for the result, and tell it."""
        self.remarks.append(text)
        self._note(text)

    def candidates(self) -> Candidates:
        """Find the nearest of each image."""
        return find_candidates(
            self.rows,
            device=self.device,
            on_progress=lambda n, total: self._progress("compare features", n, total),
        )

    def duplicates(self, candidates: Candidates, *, top: int) -> tuple[Pairs, str]:
        """Find exact and near duplicates; tells also what decided on near ones."""
        digests = digests_of(self.rows, self.images.dataset)
        if digests is None:
            self.remark(
                "Exact duplicates are not known: the cache holds no digests of its images, and the "
                f"images are not here. {self.images.reason}"
            )
        grey = self._grey()
        if grey is None:
            self.remark(
                "No image was there to decide on near duplicates: the pairs with the most similar "
                f"features are candidates. {self.images.reason}"
            )
        pairs = find_duplicates(
            exact_pairs(digests),
            candidates,
            grey,
            n_candidates=top,
            on_progress=lambda n, total: self._progress("compare images", n, total),
            on_note=self.remark,
        )
        return pairs, "features" if grey is None else "images"

    def _grey(self) -> tuple[GreyArray, npt.NDArray[np.bool_]] | None:
        if self.images.dataset is None:
            return None
        try:
            grey, is_there = grey_images(
                self.rows,
                self.images.dataset,
                n_workers=self.n_workers,
                on_note=self._note,
                on_progress=lambda n, total: self._progress("read images", n, total),
            )
        except MismatchError as err:
            what = str(err).partition(". ")[0]
            self.remark(
                f"An image changed since the cache was made, so the images decide nothing: {what}. "
                f"`cache verify --images` names all that changed."
            )
            return None
        n_gone = len(self.rows) - int(is_there.sum())
        if n_gone:
            self.remark(
                f"{counted(n_gone, 'image')} could not be compared with others: they are gone, or "
                f"others than the cache was made from. `cache verify --images` names them."
            )
        return grey, is_there

    def tested(
        self, head: Path | None, seen: NumbersOfRows, cache_dir: Path
    ) -> TestedWithout | None:
        """Test the head without the test images that are in train or val too."""
        if head is None or not len(seen):
            return None
        rows = self.rows.of_split["test"][seen - self.rows.numbers["test"].start]
        try:
            return tested_without(
                head,
                self.cache,
                rows,
                device=str(self.device),
                cache_dir=cache_dir,
                on_note=self._note,
            )
        except FeatcacheError as err:
            self.remark(f"{head} could not be tested without them: {err}")
            return None

    def label_issues(self, *, top: int) -> tuple[Sequence[LabelIssue], OutOfFold | None]:
        """Judge the labels, where there are any."""
        labels = self.rows.labels
        if labels is None:
            return (), None
        if len(np.unique(labels)) < 2:
            self.remark("Labels were not judged: all images are of one class.")
            return (), None
        try:
            return find_label_issues(
                self.rows,
                labels,
                top=top,
                device=self.device,
                on_progress=lambda n, total: self._progress("judge labels", n, total),
            )
        except UsageError:
            self.remark("Labels were not judged: there are too few images for that.")
            return (), None

    def balance(self) -> tuple[ClassCount, ...]:
        """Count the images of each class."""
        labels, names = self.rows.labels, self.cache.class_names
        if labels is None:
            return ()
        counts = {
            split: np.bincount(labels[own.start : own.stop], minlength=len(names)).tolist()
            for split, own in self.rows.numbers.items()
        }
        found = tuple(
            ClassCount(name, {split: of_all[k] for split, of_all in counts.items()})
            for k, name in enumerate(names)
        )
        empty = [one.name for one in found if one.n.get("train") == 0]
        if empty:
            self.remark(
                f"No image of {counted(len(empty), 'class')} could be read in train: "
                f"{clipped(', '.join(empty))}."
            )
        return found

    def unreadable(self) -> tuple[UnreadableImage, ...]:
        """List the rows without features."""
        return tuple(
            UnreadableImage(audited_image(self.cache, name, int(row)), reason)
            for name in self.cache
            for row, reason in zip(
                np.flatnonzero(~self.cache[name].valid),
                self.cache[name].failures.values(),
                strict=True,
            )
        )


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
    find = Findings(
        cache, images, device=device, n_workers=n_workers, on_progress=on_progress, on_note=on_note
    )
    rows = find.rows
    if not len(rows):
        raise UsageError(f"No image of {cache.path.name} could be read. Nothing was audited.")
    failures = device_failures_named(
        str(find.device), "The audit", kept=lambda: "Nothing was changed."
    )
    with head_arithmetic(str(find.device)), failures:
        candidates = find.candidates()
        pairs, decided_by = find.duplicates(candidates, top=top)
        in_train = seen_in(pairs, rows, "train")
        _tell_in_train(find, in_train)
        seen = seen_in(pairs, rows, "train", "val").get("test", np.zeros(0, np.int64))
        tested = find.tested(head, seen, cache_dir)
        issues, judged = find.label_issues(top=top)
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
        in_train={name: len(own) for name, own in in_train.items()},
        tested=tested,
        label_issues=tuple(issues),
        out_of_fold=judged,
        outliers=tuple(outliers),
        balance=find.balance(),
        unreadable=find.unreadable(),
        remarks=tuple(find.remarks),
        seconds=time.perf_counter() - started,
        kept=out,
        n_kept=n_kept,
    )


def _tell_in_train(find: Findings, in_train: Mapping[str, NumbersOfRows]) -> None:
    for split, seen in in_train.items():
        if len(seen) and "train" in find.rows.of_split:
            find.remark(
                f"{len(seen)} of {counted(len(find.rows.of_split[split]), 'image')} of {split!r} "
                f"{'is' if len(seen) == 1 else 'are'} in 'train' too: figures of {split!r} are too "
                f"good."
            )
