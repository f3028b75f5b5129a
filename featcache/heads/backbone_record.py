"""What a head, or its cache, keeps of the backbone: enough to build it again and to check it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.store import Cache, Provenance, read_reference, read_trunk_statistics

Arrays = Mapping[str, npt.NDArray[Any]]
_STATISTICS, _REFERENCE = "backbone.", "reference"


@dataclass(frozen=True, eq=False)
class BackboneRecord:
    """What the identity of a cache does not say of its backbone.

    Attributes:
        provenance: Where its weights are from, its full name, licence and versions.
        statistics: Its adapted BatchNorm statistics, float32 by buffer name; empty if frozen.
        reference: (2, D) float32, its features of the reference images; None if they are not known.
    """

    provenance: Provenance
    statistics: Arrays = field(default_factory=dict)
    reference: npt.NDArray[np.float32] | None = None

    @classmethod
    def of_cache(cls, cache: Cache) -> BackboneRecord:
        """Read it from a cache.

        Raises:
            CorruptError: If the statistics or the reference rows are damaged.
        """
        statistics = read_trunk_statistics(cache.path)
        return cls(cache.provenance, statistics, read_reference(cache.path))

    @classmethod
    def of_head(cls, said: Any, arrays: Arrays) -> BackboneRecord | None:
        """Read it from the description and the tensors of a head; an older head has none.

        Raises:
            KeyError, TypeError, ValueError: If they are not what a head holds.
        """
        if said is None:
            return None
        reference = arrays.get(_REFERENCE)
        statistics = {
            name.removeprefix(_STATISTICS): array
            for name, array in arrays.items()
            if name.startswith(_STATISTICS)
        }
        if any(a.dtype != np.float32 for a in (*statistics.values(), reference) if a is not None):
            raise TypeError("a tensor of its backbone is not float32")
        if reference is not None and reference.ndim != 2:
            raise ValueError(f"its reference rows have the shape {reference.shape}")
        return cls(Provenance.from_json(said), statistics, reference)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the tensors by which a head keeps it."""
        arrays = {f"{_STATISTICS}{name}": array for name, array in self.statistics.items()}
        return arrays if self.reference is None else {**arrays, _REFERENCE: self.reference}


def is_of_the_backbone(name: str) -> bool:
    """Tell whether a tensor in a head's file belongs to its backbone, by its name."""
    return name == _REFERENCE or name.startswith(_STATISTICS)
