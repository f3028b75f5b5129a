"""Images that are there twice: the same bytes, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.insight.audit.candidates import Candidates
from featcache.insight.audit.grey import (
    LEAST_CORRELATION,
    GreyArray,
    are_alike,
    compared,
    least_correlation,
)
from featcache.insight.audit.result import CANDIDATE, EXACT, NEAR, DuplicatePair
from featcache.insight.audit.rows import AuditedRows, NumbersOfRows

_MUCH_ALIKE = 0.95  # a correlation that is told


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images, in each the lower number first.

    Attributes:
        numbers: (P, 2) int64.
        kinds: P of "exact", "near", "candidate".
        cosines: (P,) float32, of their features; NaN if that was not looked for.
        correlations: (P,) float32, of their details; NaN if they were not compared.
        differences: (P,) float32 likewise.
    """

    numbers: NumbersOfRows
    kinds: npt.NDArray[np.str_]
    cosines: npt.NDArray[np.float32]
    correlations: npt.NDArray[np.float32]
    differences: npt.NDArray[np.float32]

    def joined(self, others: Pairs) -> Pairs:
        """Put other pairs behind these."""
        return Pairs(
            *(
                np.concatenate([getattr(self, name), getattr(others, name)])
                for name in ("numbers", "kinds", "cosines", "correlations", "differences")
            )
        )


def exact_pairs(digests: npt.NDArray[np.uint8] | None) -> NumbersOfRows:
    """Pair images of one digest, each with the first of them: (P, 2).

    Args:
        digests: (N, 32), zeros where there is none; None if no image has one.
    """
    if digests is None:
        return np.zeros((0, 2), np.int64)
    words = np.ascontiguousarray(digests).view(np.uint64)
    _, first, group = np.unique(words, axis=0, return_index=True, return_inverse=True)
    leaders = first[group.reshape(-1)]
    others = np.flatnonzero((leaders != np.arange(len(words))) & words.any(1))
    return np.stack([leaders[others], others], 1)


def find_duplicates(
    exact: NumbersOfRows,
    candidates: Candidates,
    grey: tuple[GreyArray, npt.NDArray[np.bool_]] | None,
    *,
    n_candidates: int,
    on_progress: Callable[[int, int], None],
    on_note: NoteCallback,
) -> Pairs:
    """Put exact pairs and those together of which the images decide.

    Args:
        exact: (P, 2) pairs of equal images.
        candidates: Pairs of similar features.
        grey: (N, 32, 32) grey levels and (N,) which images could be read; None if there are none.
        n_candidates: How many pairs to keep where no image decides, those of the most similar
            features.
        on_progress: Called with the pairs of images that are compared, and their number.
        on_note: Told if images of this set are much alike.
    """
    unknown = np.full(len(exact), np.nan, np.float32)
    kinds = np.full(len(exact), EXACT)
    found = Pairs(exact, kinds, candidates.cosines_of(exact), unknown, unknown)
    is_open = ~_are_equal(exact, candidates.pairs)
    pairs, cosines = candidates.pairs[is_open], candidates.cosines[is_open]
    if grey is None:
        order = np.argsort(-cosines, kind="stable")[:n_candidates]
        unknown = np.full(len(order), np.nan, np.float32)
        kinds = np.full(len(order), CANDIDATE)
        return found.joined(Pairs(pairs[order], kinds, cosines[order], unknown, unknown))
    levels, is_there = grey
    can_be = is_there[pairs].all(1)
    pairs, cosines = pairs[can_be], cosines[can_be]

    def told(n_done: int, n_total: int) -> None:
        stop_if_asked()
        on_progress(n_done, n_total)

    correlations, differences = compared(levels, pairs, on_portion=told)
    least = least_correlation(correlations, pairs)
    if least > _MUCH_ALIKE:
        on_note(
            f"Many images of this set are much alike, so near duplicates need a correlation of "
            f"{least:.3f} here, instead of {LEAST_CORRELATION:g}."
        )
    alike = are_alike(correlations, differences, least=least)
    near = (cosines[alike], correlations[alike], differences[alike])
    return found.joined(Pairs(pairs[alike], np.full(int(alike.sum()), NEAR), *near))


def _are_equal(exact: NumbersOfRows, pairs: NumbersOfRows) -> npt.NDArray[np.bool_]:
    """Tell which pairs are of one group of equal images."""
    if not len(exact):
        return np.zeros(len(pairs), np.bool_)
    leaders = np.arange(max(int(exact.max()), int(pairs.max(initial=0))) + 1)
    leaders[exact[:, 1]] = exact[:, 0]
    same: npt.NDArray[np.bool_] = leaders[pairs[:, 0]] == leaders[pairs[:, 1]]
    return same


def described(pairs: Pairs, rows: AuditedRows) -> tuple[DuplicatePair, ...]:
    """Describe pairs: across splits first, exact ones before near ones, then the likeliest."""
    ranks = {EXACT: 0, NEAR: 1, CANDIDATE: 2}
    of_kind = np.array([ranks[kind] for kind in pairs.kinds.tolist()], np.int64)
    splits = rows.split_of[pairs.numbers]
    likely = np.where(np.isnan(pairs.correlations), pairs.cosines, pairs.correlations)
    likely = np.where(of_kind == 0, 0, np.nan_to_num(likely))  # exact ones in their order
    order = np.lexsort(
        (pairs.numbers[:, 1], pairs.numbers[:, 0], -likely, of_kind, splits[:, 0] == splits[:, 1])
    )
    found = []
    for i in order.tolist():
        first, second = (rows.image(number) for number in pairs.numbers[i].tolist())
        figures = (pairs.cosines[i], pairs.correlations[i], pairs.differences[i])
        told = (None if np.isnan(figure) else round(float(figure), 6) for figure in figures)
        found.append(DuplicatePair(first, second, str(pairs.kinds[i]), *told))
    return tuple(found)


def seen_in(pairs: Pairs, rows: AuditedRows, *others: str) -> Mapping[str, NumbersOfRows]:
    """List the images of each split that have an exact or near duplicate in one of some others.

    Args:
        pairs: The pairs.
        rows: The images.
        others: Names of splits.
    """
    names = [*rows.of_split]
    are_others = np.array([name in others for name in names], np.bool_)
    sure = pairs.numbers[pairs.kinds != CANDIDATE]
    both = np.concatenate([sure, sure[:, ::-1]])
    own = np.unique(both[are_others[rows.split_of[both[:, 1]]], 0])
    return {name: own[rows.split_of[own] == i] for i, name in enumerate(names) if not are_others[i]}
