"""What the figures of a solver's head do not say by themselves; read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from featcache.config import SolverSpec
from featcache.errors import counted


def at_end_of(found: Mapping[str, Any], spec: SolverSpec) -> Iterator[str]:
    """Name the option, "C" or "k", whose best value is the first or last of several.

    Args:
        found: What the solver found.
        spec: With the values that were tried.
    """
    tried: Mapping[str, tuple[float, ...]] = {"C": spec.C or (), "k": spec.k or ()}
    for name, values in tried.items():
        is_least_there_is = name == "k" and found.get("k") == 1
        if len(values) > 1 and found[name] in (values[0], values[-1]) and not is_least_there_is:
            yield name


def solver_remarks(found: Mapping[str, Any], spec: SolverSpec) -> Iterator[str]:
    """Say where the best value is at an end of those tried, and what did not converge.

    Args:
        found: What the solver found, as a head keeps it.
        spec: What it was asked for.
    """
    for name in at_end_of(found, spec):
        yield (
            f"The best {name}, {found[name]:g}, is at an end of those tried: others beyond it may "
            f"be better (--{name})."
        )
    if found.get("alpha_is_at_end"):
        yield f"The best alpha, {found['alpha']:.3g}, is at an end of those that ridge tries."
    if not found.get("converged", True):
        n_steps = found.get("n_iterations")
        steps = f" in {counted(n_steps, 'iteration')}" if n_steps is not None else ""
        yield f"{spec.solver} did not converge{steps}: with more, its figures may change."
