"""A batch that a device works on, and what the storage type asks of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featcache.errors import NonFiniteError

if TYPE_CHECKING:
    from featcache.backbones.runner import BackboneRunner


@dataclass(frozen=True, eq=False)
class InFlight:
    """A batch that was begun; `rows` waits until it is done.

    Attributes:
        out: (n, D) on the host, where the rows will be.
        largest: (n,) float32, the largest magnitude in each row, NaN if a feature is; there when
            `out` is. None where no network ran.
        ids: n names of the images, for messages; None does not look at the rows.
        runner: What computes it; None where the rows are there already.
        is_there: What the GPU records when both have landed; None on a CPU.
    """

    out: Tensor
    largest: Tensor | None = None
    ids: Sequence[str] | None = None
    runner: BackboneRunner | None = None
    is_there: torch.cuda.Event | None = None

    def rows(self) -> Tensor:
        """Wait for the rows and look at them.

        Returns:
            `out`, filled.

        Raises:
            DeviceError: If the device fails or has no memory left.
            NonFiniteError: If `ids` are given and the type of `out` cannot hold a row.
        """
        if self.runner is not None and self.is_there is not None:
            self.runner.wait_for(self.is_there)
        if self.ids is not None and self.largest is not None:
            store_dtype = str(self.out.dtype).removeprefix("torch.")
            require_storable(self.largest.numpy(), store_dtype, ids=self.ids)
        return self.out


def require_storable(
    largest: npt.NDArray[np.float32], store_dtype: str, *, ids: Sequence[str]
) -> None:
    """Refuse rows that the storage type cannot hold.

    Args:
        largest: (n,) the largest magnitude in each row, NaN if a feature is.
        store_dtype: "float32" or "float16".
        ids: n ids, for the message.

    Raises:
        NonFiniteError: If a feature is NaN or infinite, or a row's largest magnitude lies outside
            float16's normal range, 6.1e-5 to 65504; the message names the images.
    """
    checked = "Check the weights, and --precision if it is not fp32."
    is_finite = np.isfinite(largest)
    _require(is_finite, ids, "The backbone gave NaN or infinite features", way_out=checked)
    if store_dtype == "float32":
        return
    wider = "Run with --store-dtype float32."
    limits = np.finfo(np.float16)
    above = f"Features are beyond float16's range of {limits.max:g}"
    _require(largest <= float(limits.max), ids, above, way_out=wider)
    # Below it digits are lost, and at last all of them: a random MobileNetV3 gives rows of 1e-8.
    is_kept = (largest == 0) | (largest >= float(limits.smallest_normal))
    below = f"Features are all below float16's least, {limits.smallest_normal:.2g}"
    _require(is_kept, ids, below, way_out=wider)


def _require(
    is_good: npt.NDArray[np.bool_], ids: Sequence[str], what: str, *, way_out: str
) -> None:
    rows = np.flatnonzero(~is_good)
    if len(rows):
        named = ", ".join(repr(ids[i]) for i in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        raise NonFiniteError(
            f"{what}: image {named}{more}. Rows acknowledged before are kept, these were not "
            f"written. {way_out}"
        )
