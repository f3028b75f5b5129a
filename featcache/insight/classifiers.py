"""The classifiers of a probe: solvers of `train-head`, on a few thousand images at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcache.config import SolverSpec
from featcache.heads.treatment import Standardise, UnitLength
from featcache.training.solvers.fit import Fitted, fit_rows
from featcache.training.solvers.knn import with_possible_k
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.remarks import at_end_of
from featcache.training.solvers.rows import SolverRows, fitted_treatment
from featcache.training.solvers.spectrum import MOST_EXACT

SOLVERS = ("ncm", "knn", "logreg")
# Of standardised features: decades beyond them were never the best of a few thousand images.
_C = (1e-4, 1e-3, 1e-2, 1e-1)
# A few images leave none to choose by. This C is of rows of length 1.
_C_OF_FEW, _K_OF_FEW = 1.0, 10
_NEGLIGIBLE = 1e-10  # share of the largest variance


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of a cache.

    Attributes:
        features: (N, D) float32.
        labels: (N,) int64, from 0 to K - 1.
        n_classes: K.
    """

    features: Tensor
    labels: Tensor
    n_classes: int


@dataclass(frozen=True, eq=False)
class FittedClassifier:
    """A classifier that can be asked.

    Attributes:
        log_p: (B, D) float32 features to the (B, K) logarithms of probabilities.
        is_of_unit_rows: Whether these features must have length 1; many classifiers share them.
        setting: What was chosen by validation, as it is typed: "k 20".
        at_end: "k" or "C", if that is the first or last value of those tried.
    """

    log_p: Callable[[Tensor], Tensor]
    is_of_unit_rows: bool
    setting: str = ""
    at_end: str = ""


def fit(solver: str, train: Sample, val: Sample | None) -> FittedClassifier:
    """Fit a classifier, with the setting of the lowest validation loss.

    Args:
        solver: One of SOLVERS.
        train: Rows to fit. A class without any has the probability 0.
        val: Rows to choose by; None takes a usual setting.
    """
    classes = train.labels.unique()
    own = _of_classes(train, classes)
    chosen_by = None if val is None else _of_classes(val, classes)
    if chosen_by is not None and not len(chosen_by.labels):
        chosen_by = None
    found = _FITS[solver](own, chosen_by)

    def log_p(features: Tensor) -> Tensor:
        of_own = found.log_p(features)
        every = of_own.new_full((len(features), train.n_classes), -torch.inf)
        every[:, classes] = of_own
        return every

    return replace(found, log_p=log_p)


def _of_classes(sample: Sample, classes: Tensor) -> Sample:
    """Take the rows of these classes, which are numbered anew."""
    is_own = torch.isin(sample.labels, classes)
    labels = torch.searchsorted(classes, sample.labels[is_own])
    return Sample(sample.features[is_own], labels, len(classes))


def _means(train: Sample, val: Sample | None) -> FittedClassifier:
    """Fit class means of rows of length 1."""
    fitted = _fitted(SolverSpec(solver="ncm"), train, val)
    return FittedClassifier(_linear(*_weights(fitted)), is_of_unit_rows=True)


def _neighbours(train: Sample, val: Sample | None) -> FittedClassifier:
    """Keep rows of length 1; as such, not to make them so for each question again."""
    k = (min(_K_OF_FEW, len(train.labels)),) if val is None else None
    own, chosen_by = _of_unit_length(train), val and _of_unit_length(val)
    spec = with_possible_k(SolverSpec(solver="knn", features="raw", k=k), len(train.labels))
    fitted = _fitted(spec, own, chosen_by)
    return FittedClassifier(
        fitted.fit.log_probabilities,
        is_of_unit_rows=True,
        setting="" if val is None else f"k {fitted.fit.found['k']}",
        at_end="".join(at_end_of(fitted.fit.found, spec)),
    )


def _logistic(train: Sample, val: Sample | None) -> FittedClassifier:
    """Fit logistic regression, in the space that the rows span where they are fewer than D.

    No weight lies outside of it, where it would only raise the penalty. Of many rows the space
    takes longer to find than it saves. A few images say too little of the deviation of a feature:
    their rows are brought to length 1 instead.
    """
    own = SolverRows.of_arrays(train.features, train.labels)
    treatment = fitted_treatment(own, "l2" if val is None else "standard")
    rows: Tensor = treatment(train.features)
    basis = _row_space(rows) if len(rows) < min(rows.shape[1], MOST_EXACT) else None

    def placed(features: Tensor) -> Tensor:
        treated: Tensor = treatment(features)
        return treated if basis is None else treated @ basis

    values = (_C_OF_FEW,) if val is None else _C
    spec = SolverSpec(solver="logreg", features="raw", C=values, refit=False)
    chosen_by = val and replace(val, features=placed(val.features))
    fitted = _fitted(spec, replace(train, features=placed(train.features)), chosen_by)
    weight, bias = _weights(fitted)
    if basis is not None:
        weight = weight @ basis.double().T
    for layer in treatment:
        if isinstance(layer, Standardise):
            weight = weight / layer.scale.double()
            bias = bias - weight @ layer.mean.double()
    return FittedClassifier(
        _linear(weight, bias),
        is_of_unit_rows=val is None,
        setting="" if val is None else f"C {fitted.fit.found['C']:g}",
        at_end="".join(at_end_of(fitted.fit.found, spec)),
    )


_FITS = {"ncm": _means, "knn": _neighbours, "logreg": _logistic}


def _of_unit_length(sample: Sample) -> Sample:
    return replace(sample, features=UnitLength()(sample.features))


def _weights(fitted: Fitted) -> tuple[Tensor, Tensor]:
    assert isinstance(fitted.fit, LinearFit), "the neighbours alone are none"
    return fitted.fit.weight, fitted.fit.bias


def _linear(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Make a function of features from (K, D) and (K,) float64."""
    turned, moved = weight.T.float().contiguous(), bias.float()
    return lambda features: torch.addmm(moved, features, turned).log_softmax(1)


def _row_space(rows: Tensor) -> Tensor:
    """Find an orthonormal basis of the space that N rows of D span, (D, rank)."""
    exact = rows.double()
    values, vectors = torch.linalg.eigh(exact @ exact.T)
    is_there = values > _NEGLIGIBLE * values[-1]
    basis: Tensor = exact.T @ (vectors[:, is_there] / values[is_there].sqrt())
    return basis.float()


def _fitted(spec: SolverSpec, train: Sample, val: Sample | None) -> Fitted:
    rows = [
        None if sample is None else SolverRows.of_arrays(sample.features, sample.labels)
        for sample in (train, val)
    ]
    own, chosen_by = rows
    assert own is not None, "there are rows to fit"
    names = [f"{k}" for k in range(train.n_classes)]
    return fit_rows(own, chosen_by, spec, class_names=names)
