"""What a head, or its cache, keeps of the backbone: enough to build it again and to check it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.store import Cache, Provenance, read_reference, read_trunk_statistics

Float32Array = npt.NDArray[np.float32]
_PREFIX = "backbone."  # of the tensors in a head's file
_MOST_COLUMNS = 256  # a function that was changed differs in more features than one in a hundred


@dataclass(frozen=True, eq=False)
class BackboneRecord:
    """What the identity of a cache does not say of its backbone.

    Attributes:
        provenance: Where its weights are from, its full name, licence and versions.
        statistics: Its adapted BatchNorm statistics, float32 by buffer name; empty if frozen.
        reference: (2, n) float32, `sampled` features of the reference images; None if they are not
            known.
    """

    provenance: Provenance
    statistics: Mapping[str, Float32Array] = field(default_factory=dict)
    reference: Float32Array | None = None

    @classmethod
    def of_cache(cls, cache: Cache) -> BackboneRecord:
        """Read it from a cache.

        Raises:
            CorruptError: If the statistics or the reference rows are damaged.
        """
        statistics, reference = read_trunk_statistics(cache.path), read_reference(cache.path)
        reference = None if reference is None else sampled(reference)
        return cls(cache.provenance, statistics, reference)

    @classmethod
    def of_head(cls, said: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> BackboneRecord:
        """Read it from the description and the tensors of a head.

        Raises:
            KeyError, TypeError, ValueError: If they are not what a head holds.
        """
        statistics = {
            name.removeprefix(_PREFIX): array
            for name, array in arrays.items()
            if is_of_the_backbone(name)
        }
        if any(array.dtype != np.float32 for array in statistics.values()):
            raise TypeError("a tensor of its backbone is not float32")
        provenance = Provenance.from_json(said["provenance"])
        reference = said.get("reference")
        if reference is not None:
            content = base64.b64decode(reference, validate=True)
            reference = np.frombuffer(content, "<f4").reshape(2, -1)
        return cls(provenance, statistics, reference)

    def describe(self) -> dict[str, Any]:
        """Write what a head says of it."""
        said: dict[str, Any] = {"provenance": self.provenance.to_json()}
        if self.reference is not None:
            content = self.reference.astype("<f4").tobytes()
            said["reference"] = base64.b64encode(content).decode()
        return said

    def arrays(self) -> dict[str, Float32Array]:
        """Give the tensors that a head keeps of it."""
        return {f"{_PREFIX}{name}": array for name, array in self.statistics.items()}


def sampled(reference: Float32Array) -> Float32Array:
    """Take evenly spaced columns of reference rows, (2, D) to (2, n): all rows would be too many.

    Those of VGG16 are 200 kB, beside a head of ten classes that is 1 MB.
    """
    n_features = reference.shape[1]
    n = min(n_features, _MOST_COLUMNS)
    return np.ascontiguousarray(reference[:, np.arange(n) * n_features // n])


def is_of_the_backbone(name: str) -> bool:
    """Tell by its name whether a tensor in a head's file belongs to its backbone."""
    return name.startswith(_PREFIX)
