"""What an audit found; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EXACT, NEAR, CANDIDATE = "exact", "near", "candidate"


@dataclass(frozen=True)
class AuditedImage:
    """An image of a cache.

    Attributes:
        split: Its split.
        row: Its row there.
        id: Its path within the dataset, or its index.
        label: Its class; empty if the images have no labels.
    """

    split: str
    row: int
    id: str
    label: str


@dataclass(frozen=True)
class DuplicatePair:
    """Two images that are the same, or nearly.

    Of several equal images each is paired with the first.

    Attributes:
        first: The image of the split that comes first, or of the lower row.
        second: The other.
        kind: "exact" (the same bytes, or pixels), "near" (the images look alike), or "candidate"
            (the features are alike, and no image was there to decide).
        cosine: Of their features; None if neither is among the nearest of the other.
        correlation: Of their details in grey at 32 pixels, the highest of one image with cuts of
            the other; None of images that were not compared.
        difference: Mean difference of their grey levels, of 0 to 255; None likewise.
    """

    first: AuditedImage
    second: AuditedImage
    kind: str
    cosine: float | None
    correlation: float | None
    difference: float | None

    @property
    def crosses_splits(self) -> bool:
        """Whether they are in two splits."""
        return self.first.split != self.second.split

    @property
    def labels_differ(self) -> bool:
        """Whether they are of two classes, so that one label is wrong."""
        return self.first.label != self.second.label


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label other images do not confirm.

    Attributes:
        image: The image.
        suggested: The class that a head takes for more probable that never saw the image.
        p_label: Probability that it gives to the label.
        p_suggested: Probability that it gives to the other class.
    """

    image: AuditedImage
    suggested: str
    p_label: float
    p_suggested: float


@dataclass(frozen=True)
class OutOfFold:
    """How good the heads are that judge labels, each on images that it never saw.

    Attributes:
        solver: How they were found, as `train-head --solver` names it.
        n_folds: How many there are.
        n_images: Images that they judged.
        n_doubted: Images for which they name another class than the label.
        acc: Share of the others.
    """

    solver: str
    n_folds: int
    n_images: int
    n_doubted: int
    acc: float


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others, compared with images of its class.

    Attributes:
        image: The image.
        cosine: Mean cosine to the features of its ten nearest images.
        deviations: How far that lies below the median of its class in its split, in robust standard
            deviations (1.4826 median absolute deviations).
    """

    image: AuditedImage
    cosine: float
    deviations: float


@dataclass(frozen=True)
class ClassCount:
    """How many images a class has.

    Attributes:
        name: The class.
        n: Images that could be read, by split.
    """

    name: str
    n: Mapping[str, int]


@dataclass(frozen=True)
class UnreadableImage:
    """A row without features.

    Attributes:
        image: Its image.
        reason: Why it could not be read.
    """

    image: AuditedImage
    reason: str


@dataclass(frozen=True)
class TestedWithout:
    """A head, tested with and without the test images that are in its training images too.

    Attributes:
        run: Its folder.
        test_acc: Share of all test images that are right.
        n_images: How many these are.
        test_acc_without: Share of those that have no duplicate in "train" or "val"; None if there
            are none.
        n_without: How many these are.
    """

    run: Path
    test_acc: float
    n_images: int
    test_acc_without: float | None
    n_without: int


@dataclass(frozen=True)
class AuditResult:
    """What may be wrong with the images of a cache. Nothing was changed.

    Attributes:
        cache: Its file.
        dataset: Its dataset.
        n_images: Images that could be read, by split.
        duplicates: Pairs of the same image: across splits first, exact ones before near ones, the
            likeliest first.
        near_decided_by: "images", or "features" where no image was there: then there are no near
            duplicates, but the candidates with the most similar features.
        in_train: Of each split but "train": its images that have an exact or near duplicate there.
        tested: The newest head of this cache without those; None if there is no head, or none of
            those.
        label_issues: Images whose label other images do not confirm, the likeliest errors first.
            It is a ranking: the images that a head gets wrong are among them.
        out_of_fold: How good the heads are that say so; None if labels were not judged.
        outliers: Images that are far from all others, the farthest first.
        balance: Images of each class; empty if there are no labels.
        unreadable: Rows without features.
        remarks: What the lists do not say by themselves.
        seconds: Wall time, without the verification of the file.
        kept: The list that was written; None if none was asked for.
        n_kept: Its images.
    """

    cache: Path
    dataset: str
    n_images: Mapping[str, int]
    duplicates: tuple[DuplicatePair, ...]
    near_decided_by: str
    in_train: Mapping[str, int]
    tested: TestedWithout | None
    label_issues: tuple[LabelIssue, ...]
    out_of_fold: OutOfFold | None
    outliers: tuple[Outlier, ...]
    balance: tuple[ClassCount, ...]
    unreadable: tuple[UnreadableImage, ...]
    remarks: tuple[str, ...]
    seconds: float
    kept: Path | None = None
    n_kept: int | None = None

    def n_duplicates(self, kind: str) -> int:
        """Count the pairs of a kind."""
        return sum(pair.kind == kind for pair in self.duplicates)
