"""Cut a cache short, or remove it, while heads are trained on it (claim 25).

The control maps the same file, as numpy and torch do for arrays on a disk, and is cut short too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import featcache
from featcache.training.module import HeadModule
from tests.faults.claims import Claim, main
from tests.faults.command import run_command
from tests.feature_caches import CLASS_NAMES, IDENTITY, FeatureRecipe, learnable_rows

_N_STEPS = 40  # 160 training rows in batches of 4
_CORRUPT = 13


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Strike at many steps of a training, with features in memory and in windows."""
    whole = folder / "whole.h5"
    splits = {"train": learnable_rows(200, seed=1), "test": learnable_rows(60, seed=2)}
    FeatureRecipe(
        whole, splits=splits, rows_per_block=64, identity=IDENTITY, class_names=CLASS_NAMES
    ).build()
    steps = range(1, _N_STEPS, 13 if quick else 3)
    n_loaded = n_cut = n_removed = n_trials = 0
    for name, place in (("memory", []), ("windows", ["--max-memory", "4kB"])):
        unbroken = _trained(folder / f"{name}-unbroken", whole, place, 0, lambda _: None)
        for step in steps:
            at = folder / f"{name}-{step}"
            cut = _trained(at.with_name(at.name + "-cut"), whole, place, step, _cut_short)
            removed = _trained(at.with_name(at.name + "-rm"), whole, place, step, _remove)
            # In memory all rows are there before the first step.
            n_loaded += name == "memory" and cut == unbroken
            n_cut += name == "windows" and cut == (_CORRUPT, None)
            n_removed += removed == unbroken
            n_trials += 1
    code = _mapped_and_cut(whole)
    return [
        Claim(
            25,
            f"a cache cut short at {len(steps)} steps of a training in memory: {n_loaded} trained "
            f"and tested to the end, with the weights and test_loss of an unbroken run; in "
            f"windows: {n_cut} of {len(steps)} ended with exit {_CORRUPT} and say so; removed at "
            f"all these steps: {n_removed} of {n_trials} as an unbroken run",
            is_proved=n_loaded == n_cut == len(steps) > 0
            and n_removed == n_trials
            and unbroken[0] == 0,
            control=f"the same file mapped and cut short: ended by {_named(code)}",
            control_failed=code < 0,
        )
    ]


def _trained(
    folder: Path, whole: Path, place: list[str], step: int, strike: Callable[[Path], object]
) -> tuple[int, bytes | None]:
    """(exit code, weights and test_loss) of a training, its cache struck before a step."""
    cache = folder / "folder-toys" / "toy-00000000.h5"
    cache.parent.mkdir(parents=True)
    shutil.copy(whole, cache)

    from featcache.features import batches  # noqa: F401 - here, so that the fork has them
    from featcache.training import run

    def before() -> None:
        run.STEPS_PER_BATCH = 1  # type: ignore[attr-defined]  # a step each time
        training_step, n_begun = HeadModule.training_step, [0]

        def counted(self: HeadModule, batch: Any, batch_idx: int) -> None:
            n_begun[0] += 1
            if n_begun[0] == step:
                strike(cache)
            training_step(self, batch, batch_idx)

        HeadModule.training_step = counted  # type: ignore[method-assign]

    command = ["train-head", "--cache", str(cache), "--runs-dir", str(folder / "runs"), *place]
    command += ["--hidden", "4", "--batch-size", "4", "--max-epochs", "1", "--patience", "0"]
    ended = run_command([*command, "--lr", "0.01"], folder / "log", before=before)
    if ended.code and "became shorter while it was read" not in ended.text:
        print(f"{folder.name}: exit {ended.code}: {ended.text[-300:]}", file=sys.stderr)
        return -1, None
    if ended.code:
        return ended.code, None
    [trained] = featcache.list_runs(folder / "runs")
    test_loss = str(json.loads((trained / "result.json").read_text())["test_loss"]).encode()
    # Not the file's bytes: it names the cache's folder.
    tensors = featcache.load_head(trained).state.values()
    return 0, b"".join(np.asarray(tensor).tobytes() for tensor in tensors) + test_loss


def _cut_short(cache: Path) -> None:
    os.truncate(cache, 4096)


def _remove(cache: Path) -> None:
    featcache.remove_cache(cache)


def _mapped_and_cut(whole: Path) -> int:
    """Exit code of a process that reads a mapped file which is cut short meanwhile."""
    copy = whole.with_name("mapped.h5")
    shutil.copy(whole, copy)
    pid = os.fork()
    if pid == 0:
        mapped = np.memmap(copy, np.uint8, "r")
        os.truncate(copy, 4096)
        mapped.sum()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}, that is not at all"


if __name__ == "__main__":
    sys.exit(main("lostcaches", claims))
