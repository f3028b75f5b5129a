"""Figures of a classifier, with 95% intervals, and paired comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

N_BINS = 15
_TAIL_PERCENT = 2.5
_UNEQUAL = 1.5
_NEGLIGIBLE = 1e-18
_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval.

    Attributes:
        value: The figure.
        low: The 2.5th percentile of the bootstrap.
        high: The 97.5th percentile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """From where to where a figure is expected.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float

    def __contains__(self, figure: float) -> bool:
        """Tell whether a figure lies within, ends among it."""
        return self.low <= figure <= self.high

    def __str__(self) -> str:
        """Write both ends: "0.5012 to 0.5224"."""
        return f"{self.low:.4f} to {self.high:.4f}"

    def cut(self, possible: Interval) -> Interval:
        """Leave out what no figure can be, which takes nothing from the chance of being right."""
        return Interval(max(self.low, possible.low), min(self.high, possible.high))


SHARES = Interval(0.0, 1.0)
"""What an accuracy can be."""
LOSSES = Interval(0.0, math.inf)
"""What a cross-entropy can be."""
_ANY = Interval(-math.inf, math.inf)


@dataclass(frozen=True)
class Spread:
    """Figures of several seeds.

    Attributes:
        mean: Their mean.
        sd: Their sample standard deviation (n - 1); None for one figure.
        low: The lowest.
        high: The highest.
        n: How many.
    """

    mean: float
    sd: float | None
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Write mean, standard deviation and n: "0.5118 ± 0.0026 (3)"."""
        deviation = "" if self.sd is None else f" ± {self.sd:.4f}"
        return f"{self.mean:.4f}{deviation} ({self.n})"

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Summarise figures, at least one."""
        sd = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(statistics.fmean(figures), sd, min(figures), max(figures), len(figures))

    def prediction(self, possible: Interval = _ANY) -> Interval | None:
        """Predict one further figure with 95%: mean ± t(n - 1, 0.975) sd sqrt(1 + 1/n).

        It holds for figures of a normal distribution of which mean and deviation are unknown (Hahn
        and Meeker, Statistical Intervals, 1991, section 4.7). One figure predicts nothing: None.

        Args:
            possible: What a figure can be at all; the interval ends there.
        """
        if self.sd is None:
            return None
        reach = student_t(0.975, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)
        return Interval(self.mean - reach, self.mean + reach).cut(possible)


@dataclass(frozen=True)
class MeanEstimate:
    """A mean of several trials with its 95% interval.

    Attributes:
        mean: The mean.
        sd: The sample standard deviation of the trials (n - 1); None for one.
        low: mean - t(n - 1, 0.975) sd / sqrt(n), with Student's t, but not less than a figure can
            be; None for one.
        high: mean + the same, likewise.
        n: How many trials.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, figures: Sequence[float], possible: Interval) -> MeanEstimate:
        """Estimate the mean from figures, at least one; `possible` is what a figure can be."""
        n, mean = len(figures), statistics.fmean(figures)
        if n == 1:
            return cls(mean, None, None, None, n)
        sd = statistics.stdev(figures)
        reach = student_t(0.975, n - 1) * sd / math.sqrt(n)
        interval = Interval(mean - reach, mean + reach).cut(possible)
        return cls(mean, sd, interval.low, interval.high, n)

    @property
    def is_of_few(self) -> bool:
        """Whether its interval says little: Student's t is 12.7 for two trials, 3.2 for four."""
        return self.n in (2, 3)


@dataclass(frozen=True)
class ClassFigures:
    """One line of the per-class table.

    Attributes:
        name: The class.
        n: Its images.
        precision: Of the images given this class, the share that is of it; 0 if there are none.
        recall: Of its images, the share that is given it; 0 if there are none.
        f1: The harmonic mean of both.
    """

    name: str
    n: int
    precision: float
    recall: float
    f1: float


def bootstrap(
    statistic: Callable[[IntArray], float], n_rows: int, *, n_draws: int, seed: int
) -> Estimate:
    """Estimate a statistic with the percentile interval of Efron's bootstrap.

    Args:
        statistic: Takes (N,) row numbers, some of them several times.
        n_rows: N.
        n_draws: Samples of N rows with replacement.
        seed: Seeds the draws: two statistics of one seed see the same samples.
    """
    generator = np.random.default_rng(seed)
    draws = [statistic(generator.integers(0, n_rows, n_rows)) for _ in range(n_draws)]
    low, high = np.percentile(draws, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return Estimate(statistic(np.arange(n_rows)), float(low), float(high))


def mcnemar_p(n_only_first: int, n_only_second: int) -> float:
    """Compute the two-sided exact p-value of McNemar's test.

    Under the null hypothesis each image that just one of two heads gets right is as likely to be
    the one's as the other's: a binomial test at 1/2 (McNemar 1947; exact form as in Fagerland,
    Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013).

    Args:
        n_only_first: Images that only the first head gets right.
        n_only_second: Images that only the second head gets right.
    """
    n, k = n_only_first + n_only_second, min(n_only_first, n_only_second)
    # The tail's largest term by lgamma; each further one is the last, times k / (n - k + 1).
    largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    tail = term = 1.0
    while k and term > _NEGLIGIBLE * tail:
        term *= k / (n - k + 1)
        tail += term
        k -= 1
    return min(1.0, 2 * tail * math.exp(largest))


def student_t(p: float, df: int) -> float:
    """Compute the quantile of Student's t, for a whole number of degrees of freedom.

    P(|T| <= sqrt(df) tan(a)) is a finite sum of powers of cos(a) (Abramowitz and Stegun, Handbook
    of Mathematical Functions, 26.7.3 and 26.7.4), and the angle a is found by halving.

    Args:
        p: Probability that T lies below, from 0.5 to below 1.
        df: Degrees of freedom, from 1.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _share_within(middle, df) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan(low)


def _share_within(angle: float, df: int) -> float:
    """Compute P(|T| <= sqrt(df) tan(angle))."""
    cosine = math.cos(angle)
    term = total = cosine if df % 2 else 1.0
    for i in range(df % 2 + 2, df, 2):
        term *= cosine**2 * (i - 1) / i
        total += term
    if df % 2 == 0:
        return math.sin(angle) * total
    return (angle + (math.sin(angle) * total if df > 1 else 0.0)) * 2 / math.pi


def class_counts(
    labels: IntArray, predictions: IntArray, n_classes: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Count, per class, right predictions, images, and predictions: three times (K,)."""
    right = np.bincount(labels[labels == predictions], minlength=n_classes)
    images = np.bincount(labels, minlength=n_classes)
    given = np.bincount(predictions, minlength=n_classes)
    return right, images, given


def macro_f1(labels: IntArray, predictions: IntArray, n_classes: int) -> float:
    """Average F1 over the classes that occur in labels or predictions."""
    right, images, given = class_counts(labels, predictions, n_classes)
    total = images + given
    return float(np.mean(2 * right[total > 0] / total[total > 0]))


def balanced_accuracy(labels: IntArray, predictions: IntArray, n_classes: int) -> float:
    """Average the recall over the classes that occur in the labels (Brodersen et al. 2010)."""
    right, images, _ = class_counts(labels, predictions, n_classes)
    return float(np.mean(right[images > 0] / images[images > 0]))


def are_unequal(counts: Sequence[int]) -> bool:
    """Tell whether the largest class has over 1.5 times the images of the smallest that has any.

    The balanced accuracy is then another figure than the accuracy.
    """
    present = [n for n in counts if n]
    return max(present, default=0) > _UNEQUAL * min(present, default=0)


def auroc(is_of_class: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """Compute the area under the ROC curve of one class against the rest.

    It is the share of pairs, one row of the class and one of another, that the scores put in the
    right order; a tie counts half (Mann and Whitney 1947; Hanley and McNeil 1982).

    Args:
        is_of_class: (N,), True for some rows, and not for all.
        scores: (N,).
    """
    n_of_class = int(is_of_class.sum())
    own, ascending = scores[is_of_class], np.sort(scores)
    # Of each row: the rows below it, and half of those alike. Of the class's own pairs, itself in
    # them, just half are counted in this way; they are no pairs of two kinds.
    below, not_above = (np.searchsorted(ascending, own, side) for side in ("left", "right"))
    n_won = (int(below.sum()) + int(not_above.sum())) / 2 - n_of_class**2 / 2
    return n_won / (n_of_class * (len(scores) - n_of_class))


def calibration_error(is_right: npt.NDArray[np.bool_], confidences: npt.NDArray[Any]) -> float:
    """Compute the expected calibration error, L1 over 15 bins of equal width (Guo et al. 2017).

    Args:
        is_right: (N,) whether the most probable class is the label.
        confidences: (N,) its probability.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    from featcache.core.plain_torch import plain_torch

    # torchmetrics, which counts in float32, has a sixteenth bin for what is exactly 1. The figure
    # depends on one probability a row, so that it is given those, beside nought of another class.
    below_one = np.minimum(confidences.astype(np.float32), _BELOW_ONE)
    with plain_torch():
        error = multiclass_calibration_error(
            torch.from_numpy(np.stack([below_one, np.zeros_like(below_one)], axis=1)),
            torch.from_numpy((~is_right).astype(np.int64)),
            num_classes=2,
            n_bins=N_BINS,
            norm="l1",
        )
    return float(error)


def per_class(
    labels: IntArray, predictions: IntArray, class_names: Sequence[str]
) -> list[ClassFigures]:
    """Make the per-class table."""
    right, images, given = class_counts(labels, predictions, len(class_names))
    return [
        ClassFigures(
            name=name,
            n=int(n_images),
            precision=float(n_right / n_given) if n_given else 0.0,
            recall=float(n_right / n_images) if n_images else 0.0,
            f1=float(2 * n_right / (n_images + n_given)) if n_images + n_given else 0.0,
        )
        for name, n_right, n_images, n_given in zip(class_names, right, images, given, strict=True)
    ]


def row_shares(counts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Divide each count of a matrix by the sum of its row; a row without counts is all 0."""
    return [[cell / max(1, sum(row)) for cell in row] for row in counts]


def confusion_cells(labels: IntArray, predictions: IntArray, n_classes: int) -> IntArray:
    """Count rows by label and prediction: (M, 3) label, prediction, count, where it is not 0."""
    cells, counts = np.unique(labels * n_classes + predictions, return_counts=True)
    return np.stack([cells // n_classes, cells % n_classes, counts], axis=1)
