"""What groups of heads cost beside one group: the CPU time of a step, for `sweep --devices`.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.group_sizes [--heads 32] [--features 192 960 2048]

Heads of two kinds, with hidden layers 50,20 and linear probes, take steps of 64 random rows: all
in one group, in groups of 8, and in groups of 4, in turn. A figure is the median of the CPU time of
a step of all heads over `--rounds` times `--steps` steps, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

import torch

from featcache.config import HeadSpec
from featcache.training.sweeps.head_bank import HeadBank, Member, MemberState
from tests.benchmarks.measure import machine
from tests.benchmarks.resultfile import markdown_table

_N_CLASSES, _BATCH_SIZE = 10, 64
_SHAPES: tuple[tuple[int, ...], ...] = ((50, 20), ())


def main() -> None:
    """Print a table: a row for each shape and number of features."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--features", type=int, nargs="+", default=[192, 960, 2048])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as a process of `sweep --devices`
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{machine('cpu')}\nload (1, 5, 15 minutes): {load}\n")
    rows: list[list[object]] = []
    for shape in _SHAPES:
        for n_features in asked.features:
            banks = {n: _banks(shape, n_features, asked.heads, n) for n in (asked.heads, 8, 4)}
            steps_ms = _measured(banks, n_features, rounds=asked.rounds, n_steps=asked.steps)
            rows.append([shape, n_features, *map(_told, steps_ms.values())])
    titles = ["hidden", "features", "one group", "groups of 8", "groups of 4"]
    print("\n".join(markdown_table(titles, rows)))


def _banks(
    shape: tuple[int, ...], n_features: int, n_heads: int, of_a_group: int
) -> list[HeadBank]:
    members = [Member(f"{i:04}", HeadSpec(hidden=shape), 1e-3, i) for i in range(n_heads)]
    banks = []
    for start in range(0, n_heads, of_a_group):
        part = members[start : start + of_a_group]
        states = [MemberState.initial(m, n_features=n_features, n_classes=_N_CLASSES) for m in part]
        banks.append(HeadBank(part, states, device=torch.device("cpu")))
    return banks


@torch.no_grad()
def _measured(
    banks: dict[int, list[HeadBank]], n_features: int, *, rounds: int, n_steps: int
) -> dict[int, list[float]]:
    """Time the sizes in turn; the first round warms up, and is left out."""
    features = torch.randn(_BATCH_SIZE, n_features, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(_BATCH_SIZE) % _N_CLASSES
    found: dict[int, list[float]] = {n: [] for n in banks}
    for number in range(rounds + 1):
        for n, of_size in banks.items():
            began_s = time.process_time()
            # A process trains one group to its end, then the next.
            for bank in of_size:
                for _ in range(n_steps):
                    bank.step(features, labels)
            if number:
                found[n].append((time.process_time() - began_s) / n_steps * 1000)
    return found


def _told(ms: Sequence[float]) -> str:
    return f"{statistics.median(ms):.1f} ms ({min(ms):.1f} to {max(ms):.1f})"


if __name__ == "__main__":
    main()
