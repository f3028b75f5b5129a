"""L-BFGS for several convex problems side by side: one evaluation serves all that are not done."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from featcache.core.stopping import stop_if_asked
from featcache.training.solvers.steps import OnStep

_N_PAIRS = 10  # as scipy's, and so scikit-learn's
_ARMIJO = 1e-4
_MOST_HALVINGS = 20
# By how much of its size a value may rise without having risen: what its sums are rounded to.
_ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-7}


class Problems(Protocol):
    """M smooth, strictly convex functions of P numbers each."""

    dtype: torch.dtype
    """In which products are computed; sums are float64."""

    def evaluate(self, at: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Compute values (A,) and gradients (A, P) of the problems `which` (A,) at (A, P)."""

    def precondition(self, vectors: Tensor, which: Tensor) -> Tensor:
        """Multiply (A, P) by something near each inverse Hessian, symmetric and positive."""


@dataclass(frozen=True, eq=False)
class Minima:
    """Where L-BFGS ended, for each problem.

    Attributes:
        at: (M, P) float64.
        converged: (M,) whether no part of the gradient is larger than the tolerance.
        n_steps: (M,) int64.
    """

    at: Tensor
    converged: Tensor
    n_steps: Tensor


class _Point(NamedTuple):
    """Where A problems are: (A, P), with values (A,) and gradients (A, P)."""

    at: Tensor
    values: Tensor
    gradients: Tensor


class _Pair(NamedTuple):
    """A step (A, P), the change of the gradient in it, and 1 / their product (A,), or 0."""

    step: Tensor
    change: Tensor
    rho: Tensor


def minimise(
    problems: Problems,
    start: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    on_step: OnStep | None = None,
) -> Minima:
    """Minimise M functions by L-BFGS with backtracking (Nocedal and Wright 2006, algorithm 7.5).

    Args:
        problems: The functions.
        start: (M, P) float64, where to begin.
        tolerance: A problem is done when no part of its gradient is larger.
        max_steps: A problem that is not done by then is not converged.
        on_step: Called after each step.
    """
    found = Minima(
        start.clone(),
        torch.zeros(len(start), dtype=torch.bool, device=start.device),
        torch.zeros(len(start), dtype=torch.int64, device=start.device),
    )
    which = torch.arange(len(start), device=start.device)
    point = _Point(start, *problems.evaluate(start, which))
    pairs: deque[_Pair] = deque(maxlen=_N_PAIRS)
    is_stuck = torch.zeros_like(found.converged)
    for n_steps in itertools.count():
        stop_if_asked()
        is_done = point.gradients.abs().amax(1) <= tolerance
        is_over = is_done | is_stuck | torch.tensor(n_steps == max_steps, device=start.device)
        if bool(is_over.any()):
            over, going = which[is_over], ~is_over
            found.at[over], found.converged[over] = point.at[is_over], is_done[is_over]
            found.n_steps[over] = n_steps
            which, point = which[going], _Point(*(tensor[going] for tensor in point))
            pairs = deque((_Pair(*(t[going] for t in pair)) for pair in pairs), _N_PAIRS)
        if not len(which):
            return found
        direction = _direction(problems, point.gradients, which, pairs)
        reached, is_lower = _searched(problems, point, direction, which)
        is_stuck = ~is_lower & ~_has_pairs(pairs, which)
        pairs.append(_pair(point, reached, is_kept=is_lower))
        if not bool(is_lower.all()):  # begin again without what led nowhere
            pairs = deque((p._replace(rho=p.rho * is_lower) for p in pairs), _N_PAIRS)
        point = reached
        if on_step is not None:
            on_step(n_steps + 1, max_steps, len(which))
    raise AssertionError("a count has no end")


def _direction(
    problems: Problems, gradients: Tensor, which: Tensor, pairs: Sequence[_Pair]
) -> Tensor:
    """Compute (A, P) descent directions by the two loops of L-BFGS."""
    q = gradients.clone()
    factors = []
    for pair in reversed(pairs):
        factor = pair.rho * _dots(pair.step, q)
        q.sub_(factor[:, None] * pair.change)
        factors.append(factor)
    q = problems.precondition(q, which) * _scale(problems, which, pairs)[:, None]
    for pair, factor in zip(pairs, reversed(factors), strict=True):
        q.add_((factor - pair.rho * _dots(pair.change, q))[:, None] * pair.step)
    return q.neg_()


def _scale(problems: Problems, which: Tensor, pairs: Sequence[_Pair]) -> Tensor:
    """Compute (A,) by how much the preconditioner is off along the last step."""
    one = torch.ones(len(which), dtype=torch.float64, device=which.device)
    if not pairs:
        return one
    last = pairs[-1]
    size = _dots(last.change, problems.precondition(last.change, which)) * last.rho
    return torch.where(size > 0, 1 / size, one)


def _searched(
    problems: Problems, point: _Point, direction: Tensor, which: Tensor
) -> tuple[_Point, Tensor]:
    """Step along each direction, shorter where a value does not fall; tell (A,) where one fell.

    Where values are equal but for rounding, a smaller slope is progress as well (Hager and Zhang
    2005, the approximate Wolfe condition).
    """
    slopes = _dots(direction, point.gradients)
    length = torch.ones_like(slopes)
    reached = _Point(*(tensor.clone() for tensor in point))
    is_lower = torch.zeros_like(slopes, dtype=torch.bool)
    left = torch.arange(len(which), device=which.device)
    for _ in range(_MOST_HALVINGS):
        at = point.at[left] + length[left, None] * direction[left]
        values, gradients = problems.evaluate(at, which[left])
        before, slope = point.values[left], slopes[left]
        gain = values - before
        new_slope = _dots(direction[left], gradients)
        rounding = _ROUNDING[problems.dtype] * before.abs()
        is_flat = (gain <= rounding) & (new_slope <= (2 * _ARMIJO - 1) * slope)
        is_good = (gain <= _ARMIJO * length[left] * slope) | is_flat
        is_good &= values.isfinite() & (slope < 0)
        good = left[is_good]
        reached.at[good], reached.values[good] = at[is_good], values[is_good]
        reached.gradients[good] = gradients[is_good]
        is_lower[good] = True
        best = -slope * length[left] / (2 * (gain / length[left] - slope))  # of the parabola
        shorter = best.nan_to_num(0.0).clamp(0.1 * length[left], 0.5 * length[left])
        length[left] = torch.where(is_good, length[left], shorter)
        left = left[~is_good]
        if not len(left):
            break
    return reached, is_lower


def _pair(before: _Point, after: _Point, *, is_kept: Tensor) -> _Pair:
    step, change = after.at - before.at, after.gradients - before.gradients
    product = _dots(step, change)
    sizes = torch.linalg.vector_norm(change, dim=1) * torch.linalg.vector_norm(step, dim=1)
    is_curved = is_kept & (product > 1e-16 * sizes)
    return _Pair(step, change, torch.where(is_curved, 1 / product, 0.0))


def _has_pairs(pairs: Sequence[_Pair], which: Tensor) -> Tensor:
    has = torch.zeros(len(which), dtype=torch.bool, device=which.device)
    for pair in pairs:
        has |= pair.rho > 0
    return has


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Multiply (A, P) by (A, P), row by row: (A,)."""
    products: Tensor = torch.linalg.vecdot(a, b)
    return products
