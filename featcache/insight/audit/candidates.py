"""The ten nearest of each image by the cosine of its features, in each split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from featcache.insight.audit.rows import AuditedRows, NumbersOfRows
from featcache.insight.nearest import nearest_rows

N_NEAREST = 10


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of images, of which one is among the nearest of the other, and how near these are.

    Attributes:
        pairs: (P, 2) int64, in each the lower number first; each pair is there once, in order.
        cosines: (P,) float32, of their features.
        nearness: (N,) float32, the mean cosine of each image to its ten nearest; NaN if there are
            no others.
    """

    pairs: NumbersOfRows
    cosines: npt.NDArray[np.float32]
    nearness: npt.NDArray[np.float32]

    def cosines_of(self, pairs: NumbersOfRows) -> npt.NDArray[np.float32]:
        """Give the cosines of some pairs, NaN for one that is not among these."""
        found = np.full(len(pairs), np.nan, np.float32)
        if len(self.pairs):
            keys, asked = (
                one[:, 0] * len(self.nearness) + one[:, 1] for one in (self.pairs, pairs)
            )
            places = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
            is_there = keys[places] == asked
            found[is_there] = self.cosines[places[is_there]]
        return found


def find_candidates(
    rows: AuditedRows,
    *,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None = None,
) -> Candidates:
    """Look for the nearest of each image in its own split and in each that comes before.

    So an image has as many candidates in "train" as in its own split, however many of those there
    are.

    Args:
        rows: N images.
        device: Where to compute.
        on_progress: Called with the images that are done, of how many.
    """
    names = [*rows.numbers]
    sets = {
        name: rows.features(np.array(own, np.int64), device) for name, own in rows.numbers.items()
    }
    searches = [(asked, known) for i, asked in enumerate(names) for known in names[: i + 1]]
    n_total, n_before = sum(len(sets[asked]) for asked, _ in searches), 0
    pairs, cosines = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    nearest = np.full((len(rows), N_NEAREST), -np.inf, np.float32)
    for asked, known in searches:

        def told(n_done: int, _: int, n_before: int = n_before) -> None:
            if on_progress is not None:
                on_progress(n_before + n_done, n_total)

        found = nearest_rows(
            sets[asked], sets[known], N_NEAREST, are_same=asked == known, on_progress=told
        )
        n_before += len(sets[asked])
        theirs = found.positions.numpy() + rows.numbers[known].start
        own = np.broadcast_to(np.array(rows.numbers[asked])[:, None], theirs.shape)
        near = found.cosines.numpy()
        pairs.append(np.stack([theirs.ravel(), own.ravel()], 1))
        cosines.append(near.ravel())
        part = slice(rows.numbers[asked].start, rows.numbers[asked].stop)
        both = np.concatenate([nearest[part], near], 1)
        nearest[part] = -np.sort(-both, axis=1)[:, :N_NEAREST]
    there = np.isfinite(nearest)
    with np.errstate(invalid="ignore"):
        nearness = np.where(there, nearest, 0).sum(1) / there.sum(1)
    return Candidates(*_once(np.concatenate(pairs), np.concatenate(cosines), len(rows)), nearness)


def _once(
    pairs: NumbersOfRows, cosines: npt.NDArray[np.float32], n: int
) -> tuple[NumbersOfRows, npt.NDArray[np.float32]]:
    """Keep each pair once, the lower number first."""
    pairs = np.sort(pairs, axis=1)
    _, first = np.unique(pairs[:, 0] * n + pairs[:, 1], return_index=True)
    return pairs[first], cosines[first]
