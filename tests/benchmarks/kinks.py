"""How often does rounding turn a ReLU of the head, and what does it change?

    python -m tests.benchmarks.kinks OUT.json CACHE OTHER [--seeds N] [--lr LR] [--epochs N]

CACHE and OTHER hold the same rows, computed by two engines, so they differ by rounding. The head of
`parity` is trained on both, with the same initial weights and batches. For each seed this notes the
largest relative difference of a step's loss, and the first step at which a hidden unit is on for an
image in one of the trainings only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import numpy as np

import featcache
from featcache.config import HeadSpec, ParitySpec, TrainSpec
from featcache.features.rows import preprocess_of
from featcache.notebook.parity_training import Sides, train_cached
from tests.benchmarks.measure import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("caches", type=Path, nargs=2)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--lr", type=float, default=ParitySpec.lr)
    parser.add_argument("--epochs", type=int, default=ParitySpec.epochs)
    asked = parser.parse_args()
    both = [sides_of(path, asked) for path in asked.caches]
    rows = [one.cache["train"].read(0, len(one.cache["train"])) for one in both]
    difference = float(np.abs(rows[0] - rows[1]).max() / np.abs(rows[0]).max())
    assert difference > 0, "the two caches hold the same bits"
    seeds = []
    for seed in range(asked.seeds):
        one, other = (train_cached(sides, seed) for sides in both)
        relative = (one.losses - other.losses).abs() / other.losses.abs()
        step = one.active.first_difference(other.active)
        found: dict[str, Any] = {
            "seed": seed,
            "largest": float(relative.max()),
            "parts_at_step": step,
            "largest_until_then": float(relative[:step].max()),
            "equal_predictions": int((one.logits.argmax(1) == other.logits.argmax(1)).sum()),
        }
        seeds.append(found)
        print(found, flush=True)
    alike = [s["largest"] for s in seeds if s["parts_at_step"] is None]
    parted = [s["largest"] for s in seeds if s["parts_at_step"] is not None]
    print(
        f"features differ by {difference:.1e} of the largest; {len(alike)} of {len(seeds)} seeds "
        f"without a turned unit: losses differ by {max(alike, default=0):.1e} at most; "
        f"{len(parted)} with one: {min(parted, default=0):.1e} to {max(parted, default=0):.1e}"
    )
    said = {"lr": asked.lr, "epochs": asked.epochs, "n_rows": len(rows[0])}
    content = {"machine": machine("cpu"), **said, "features": difference, "seeds": seeds}
    asked.out.write_text(json.dumps(content, indent=1) + "\n")


def sides_of(path: Path, asked: Any) -> Sides:
    cache = featcache.open_cache(path)
    return Sides(
        cache=cache,
        dataset=cast(Any, None),  # for the other side, which does not run here
        backbone={},
        preprocess=preprocess_of(cache),
        head=HeadSpec(),
        lr=asked.lr,
        batch_size=TrainSpec.batch_size,
        epochs=asked.epochs,
        limit=len(cache["train"]),
    )


if __name__ == "__main__":
    main()
