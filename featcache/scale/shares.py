"""Which share of a job a process has: named on the command line, or by a scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from featcache.config.scale_specs import require_share, split_share
from featcache.errors import UsageError

# SLURM's other variables (SLURM_ARRAY_TASK_COUNT, _MIN, _STEP) say how many tasks were submitted
# this time: an array that is submitted again for what is missing has fewer.
INDEX_VARIABLES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
PLAN, RAY = "plan", "ray"


@dataclass(frozen=True)
class Share:
    """A share of a job.

    Attributes:
        index: From 0; None makes the plan alone.
        n_shares: How many there are.
    """

    index: int | None
    n_shares: int

    def __str__(self) -> str:
        return f"{PLAN if self.index is None else self.index}/{self.n_shares}"


def share_of(share: str, environment: Mapping[str, str]) -> Share:
    """Read what --share says.

    Args:
        share: "I/N", "/N" or "plan/N".
        environment: Names I where it is not typed.

    Raises:
        UsageError: If there is no such share, or no scheduler names one.
    """
    typed, n = split_share(share)
    if typed == PLAN:
        return Share(None, n)
    if typed:
        return Share(int(typed), n)
    named = {name: environment[name] for name in INDEX_VARIABLES if environment.get(name)}
    if len(set(named.values())) != 1:
        found = ", ".join(f"{name}={value}" for name, value in named.items()) or "neither is set"
        raise UsageError(
            f"--share {share} takes its number from {' or '.join(INDEX_VARIABLES)}, but {found}. "
            f"Nothing was started. Type it, like --share 0/{n}."
        )
    name, value = next(iter(named.items()))
    if not (value.isascii() and value.isdigit()):
        raise UsageError(f"{name} is {value!r}, but must be a whole number. Nothing was started.")
    require_share(int(value), n, named=f"{name}={value}")
    return Share(int(value), n)


def blocks_of_share(index: int, n_shares: int, n_blocks: int) -> tuple[int, int]:
    """Give the first block of a share and the one behind its last; equal where it is empty.

    The sizes of two shares differ by one block at most.
    """
    return index * n_blocks // n_shares, (index + 1) * n_blocks // n_shares


def array_of(indices: Iterable[int]) -> str:
    """Write numbers as SLURM takes them: "0-3,7"."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
