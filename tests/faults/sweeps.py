"""Sweeps that run out of room, or are killed, while they save what they have (claim 26).

Room runs out by a limit on the size of files, which needs no rights. The control saves with plain
`torch.save` under such a limit.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.training.sweeps import bank_trainer, grid_run  # noqa: F401 - the forks have them
from tests.faults.claims import Claim, main
from tests.faults.command import Ended, run_command
from tests.feature_caches import CLASS_NAMES, IDENTITY, FeatureRecipe, learnable_rows

_GRID = "--reg none,l2 --lr 1e-3,1e-2 --hidden 32 --batch-size 32 --max-epochs 3 --patience 0"
_DISK_FULL = 14


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Limit files to many sizes, and kill the sweep in each of its saves."""
    bench = _Bench(folder)
    limits = np.linspace(600, bench.largest - 1, 3 if quick else 24).astype(int).tolist()
    n_full = n_again = 0
    for limit in limits:
        ended = bench.sweep(lambda limit=limit: _limit_files(limit))
        is_clean = ended.is_clean and "enforce" not in ended.text and not bench.leftovers()
        n_full += ended.code == _DISK_FULL and is_clean
        n_again += bench.goes_on()
    n_killed = n_after_kill = 0
    for number in range(1, 2 if quick else 4):
        ended = bench.sweep(lambda number=number: _die_in_save(number))
        n_killed += ended.code == -signal.SIGKILL and len(bench.leftovers()) == 1
        n_after_kill += bench.goes_on()
    control, failed = _saved_plainly(folder)
    n_limits, n_kills = len(limits), number
    return [
        Claim(
            26,
            f"sweeps on {n_limits} limits of file size: {n_full} times exit {_DISK_FULL} and no "
            f"torn file, {n_again} went on to the heads of an unbroken sweep; killed in {n_kills} "
            f"saves: {n_killed} left a file behind, which was gone in {n_after_kill} of {n_kills} "
            f"after the same command, with the heads of an unbroken sweep",
            is_proved=(n_full, n_again) == (n_limits, n_limits)
            and (n_killed, n_after_kill) == (n_kills, n_kills),
            control=f"plain torch.save under a limit: {control}",
            control_failed=failed,
        )
    ]


class _Bench:
    """A sweep on a tiny cache, and what an unbroken one leaves.

    Attributes:
        largest: Bytes of the largest file that it writes.
    """

    def __init__(self, folder: Path) -> None:
        cache = folder / "folder-toys" / "toy-00000000.h5"
        cache.parent.mkdir(parents=True)
        splits = {"train": learnable_rows(90, seed=1), "test": learnable_rows(15, seed=2)}
        FeatureRecipe(
            cache, splits=splits, rows_per_block=64, identity=IDENTITY, class_names=CLASS_NAMES
        ).build()
        self._runs, self._log = folder / "runs", folder / "log"
        place = ["--cache", str(cache), "--runs-dir", str(self._runs)]
        self._command = ["sweep", *place, *_GRID.split()]
        ended = self.sweep()
        assert ended.code == 0, ended.text
        self._heads = self._read()
        self.largest = max(len(head) for head in self._heads.values())

    def sweep(self, before: Callable[[], object] | None = None) -> Ended:
        """Sweep from the beginning."""
        shutil.rmtree(self._runs, ignore_errors=True)
        return run_command(self._command, self._log, before=before)

    def goes_on(self) -> bool:
        """Tell whether the same command now ends with the heads of an unbroken sweep alone."""
        ended = run_command(self._command, self._log)
        is_right = ended.code == 0 and self._read() == self._heads and not self.leftovers()
        if not is_right:
            print(f"exit {ended.code}, {self.leftovers()}: {ended.text[-300:]}", file=sys.stderr)
        return is_right

    def leftovers(self) -> list[Path]:
        """Files that were to become others."""
        return sorted(self._runs.rglob("*.new"))

    def _read(self) -> dict[str, bytes]:
        heads = self._runs.rglob("head.safetensors")
        return {str(head.relative_to(self._runs)): head.read_bytes() for head in heads}


def _limit_files(nbytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def _die_in_save(number: int) -> None:
    """Save after each epoch, and die in a save, half of it written."""
    bank_trainer._SECONDS_PER_SAVE = 0
    save, n_begun = torch.save, [0]

    def dying(content: object, file: Any) -> None:
        n_begun[0] += 1
        save(content, file)
        if n_begun[0] == number:
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = dying


def _saved_plainly(folder: Path) -> tuple[str, bool]:
    path = folder / "plain.ckpt"
    content = {"states": torch.zeros(4000)}
    torch.save(content, path)
    pid = os.fork()
    if pid == 0:
        _limit_files(4096)
        code = 0
        try:
            torch.save(content, path)
        except OSError:
            code = _DISK_FULL
        except RuntimeError:  # "enforce fail"
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        torch.load(path, weights_only=True)
    except Exception:  # of many kinds
        return f"exit {code}, and what was there before is torn", code != _DISK_FULL
    return f"exit {code}, and what was there before is there", False


if __name__ == "__main__":
    sys.exit(main("sweeps", claims))
