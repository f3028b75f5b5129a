"""Rows that a solver is given: treated, in portions, from wherever they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from featcache.core.stopping import stop_if_asked
from featcache.errors import NonFiniteError
from featcache.features.rows import FeatureRows, RowsInFile
from featcache.heads.treatment import Standardise, treatment_layers

_CHUNK_VALUES = 32 << 20  # 128 MB of float32
# A feature that varies by less than float32 tells apart is constant (scikit-learn's rule is alike).
_CONSTANT = 1e-7


@dataclass(frozen=True, eq=False)
class RowsOfSplit:
    """Some rows of a split.

    Attributes:
        rows: The split.
        index: (n,) int64 row numbers; ascending ones are read quickest.
        ids: Of all rows of the split, for what is said of one; arrays have none.
    """

    rows: FeatureRows
    index: Tensor
    ids: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class SolverRows:
    """N rows of D features with their labels, of one split or of several behind one another.

    Attributes:
        parts: The rows, on one device.
        n_features: D.
        treatment: What is done to each row; None is nothing.
    """

    parts: tuple[RowsOfSplit, ...]
    n_features: int
    treatment: nn.Module | None = None

    @classmethod
    def of_arrays(cls, features: Tensor, labels: Tensor) -> SolverRows:
        """Take (N, D) float features and (N,) int64 labels, on one device."""
        rows = FeatureRows(features, labels, features.device, None)
        return cls((RowsOfSplit(rows, torch.arange(len(labels))),), features.shape[1])

    def __len__(self) -> int:
        return sum(len(part.index) for part in self.parts)

    @property
    def device(self) -> torch.device:
        """Where rows come out."""
        return self.parts[0].rows.device

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the device."""
        return torch.cat([p.rows.labels[p.index.to(self.device)] for p in self.parts])

    @property
    def are_in_file(self) -> bool:
        """Whether some are read from the file each time."""
        return any(isinstance(part.rows, RowsInFile) for part in self.parts)

    def treated(self, treatment: nn.Module) -> SolverRows:
        """Give the same rows with a treatment, which is moved to their device."""
        return replace(self, treatment=treatment.to(self.device))

    def with_rows(self, others: SolverRows) -> SolverRows:
        """Give these rows with others behind them, all with the treatment of these."""
        return replace(self, parts=self.parts + others.parts)

    def chunks(
        self, dtype: torch.dtype = torch.float32, *, n_values: int = _CHUNK_VALUES
    ) -> Iterator[tuple[slice, Tensor]]:
        """Give the rows in portions of so many numbers, as slices of 0..N and (B, D)."""
        step = max(1, n_values // self.n_features)
        start = 0
        for part in self.parts:
            for index in part.index.split(step):
                stop_if_asked()
                features, _ = part.rows.take(index)
                yield slice(start, start + len(index)), self._treat(features).to(dtype)
                start += len(index)

    def _treat(self, features: Tensor) -> Tensor:
        if self.treatment is None:
            return features
        with torch.no_grad():
            treated: Tensor = self.treatment(features)
        return treated

    def mean(self) -> Tensor:
        """Average the rows, in float64: (D,)."""
        total = torch.zeros(self.n_features, dtype=torch.float64, device=self.device)
        for _, features in self.chunks():
            total += features.sum(0, dtype=torch.float64)
        return total / len(self)

    def require_finite(self) -> None:
        """Refuse rows that hold what is no number.

        Raises:
            NonFiniteError: Naming the first.
        """
        for rows, features in self.chunks():
            is_finite = features.isfinite().all(1)
            if not bool(is_finite.all()):
                raise NonFiniteError(
                    f"{self._name(rows.start + int((~is_finite).nonzero()[0]))} holds NaN or an "
                    f"infinite number. Nothing was fitted. Leave the image out, or extract again."
                )

    def _name(self, i: int) -> str:
        for part in self.parts:
            if i < len(part.index):
                row = int(part.index[i])
                return f"Row {row} ({part.ids[row]})" if part.ids else f"Row {row}"
            i -= len(part.index)
        raise AssertionError("a row is of a part")


def fitted_treatment(rows: SolverRows, features: str) -> nn.Sequential:
    """Build a treatment, with mean and deviation of these rows where it standardises.

    Sums are float64, chunk by chunk; a feature that is the same in all rows is only centred.

    Args:
        rows: The training rows, untreated.
        features: One of `featcache.config.TREATMENTS`.
    """
    layers = treatment_layers(features, rows.n_features)
    for layer in layers:
        if isinstance(layer, Standardise):
            mean, squares = rows.mean(), torch.zeros_like(layer.mean, dtype=torch.float64)
            squares = squares.to(rows.device)
            for _, chunk in rows.chunks():
                squares += (chunk.double() - mean).square_().sum(0)
            scale = (squares / len(rows)).sqrt()
            is_constant = scale <= _CONSTANT * mean.abs()
            layer.mean.copy_(mean)
            layer.scale.copy_(torch.where(is_constant, 1.0, scale))
    return nn.Sequential(*layers)
