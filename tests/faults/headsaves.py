"""Kill the saving of a head at every system call that writes: alone, and within `train-head`.

The old or the new head must load, and the same command must go on to the head of a run that nothing
stopped. The control saves with plain `torch.save` over the old file.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from typer.testing import CliRunner

import featcache
from featcache.errors import FeatcacheError, InterruptedRunError
from featcache.heads.head_file import load_head, save_head
from featcache.heads.trained_head import TrainedHead
from featcache_cli import app
from tests.faults.claims import Claim
from tests.faults.intercept import Child, Fault, run
from tests.feature_caches import CLASS_NAMES, IDENTITY, FeatureRecipe, learnable_rows

State = Mapping[str, Tensor]


class Training:
    """`train-head` on a tiny cache; it starts where Ctrl-C stopped a run after its first epoch.

    Attributes:
        runs: Its --runs-dir.
        stopped: The stopped run's, as it was.
        old: The head of its first epoch.
        new: The head of a run that nothing stopped.
        unbroken: Its file.
    """

    def __init__(self, folder: Path) -> None:
        cache = folder / "features" / "folder-toys" / "toy-00000000.h5"
        cache.parent.mkdir(parents=True)
        splits = {"train": learnable_rows(60, seed=1), "test": learnable_rows(15, seed=2)}
        FeatureRecipe(
            cache, splits=splits, rows_per_block=64, identity=IDENTITY, class_names=CLASS_NAMES
        ).build()
        self.runs, self.stopped = folder / "runs", folder / "stopped-runs"
        self._command = (
            f"train-head --cache {cache} --runs-dir {self.runs} --hidden 4 --batch-size 32 "
            f"--max-epochs 2 --lr 0.01"
        ).split()
        self._stop_after_one_epoch(cache)
        self.old = self.head()
        self.runs.rename(self.stopped)
        assert CliRunner().invoke(app.app, self._command).exit_code == 0
        self.new, self.unbroken = self.head(), self.path().read_bytes()
        shutil.rmtree(self.runs)

    def __call__(self, tell: Callable[[int], None]) -> None:
        sys.argv = ["featcache", *self._command]
        app.main()

    def start(self) -> None:
        """Put the stopped run in place."""
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.copytree(self.stopped, self.runs)

    def head(self) -> TrainedHead:
        """Load the run's head."""
        return load_head(self.path())

    def path(self) -> Path:
        """Find the run's head."""
        [path] = self.runs.glob("*/*/head.safetensors")
        return path

    def _stop_after_one_epoch(self, cache: Path) -> None:
        def press_ctrl_c(progress: featcache.TrainProgress) -> None:
            if progress.epoch == 1:
                raise KeyboardInterrupt

        try:
            featcache.train_head(
                cache,
                hidden=(4,),
                batch_size=32,
                max_epochs=2,
                lr=0.01,
                runs_dir=self.runs,
                on_progress=press_ctrl_c,
            )
        except InterruptedRunError:
            return
        raise AssertionError("Ctrl-C did not stop the training")


def claim_heads(folder: Path, *, quick: bool) -> Claim:
    """Kill at each call of save_head, with TMPDIR here and elsewhere, and of train-head."""
    training = Training(folder)
    old, new = training.old, training.new
    place = folder / "heads"
    with tempfile.TemporaryDirectory(dir=_other_file_system(folder)) as elsewhere:
        saved = [
            _kill_saves(place, old, new, save_head, _load, tmpdir, step=4 if quick else 1)
            for tmpdir in (str(folder), elsewhere)
        ]
        trained = _kill_trainings(training, elsewhere, step=17 if quick else 1)
    naive = _kill_saves(place, old, new, _save_naively, _load_naively, str(folder))
    lines = [f"{whole}/{n}" for whole, _, n in (*saved, trained)]
    return Claim(
        10,
        f"save_head killed at {'some calls' if quick else 'every call'}, the old or the new head "
        f"loads: {lines[0]}, with TMPDIR on another file system {lines[1]}; train-head killed so "
        f"while it goes on from a stopped run: {lines[2]}, {trained[1]}/{trained[2]} then end with "
        f"the head of an unbroken run",
        is_proved=all(whole == on == n > 0 for whole, on, n in (*saved, trained)),
        control=f"torch.save over the old file: {naive[2] - naive[0]} of {naive[2]} heads torn",
        control_failed=naive[0] < naive[2],
    )


def _kill_saves(
    place: Path,
    old: TrainedHead,
    new: TrainedHead,
    save: Callable[[Path, TrainedHead], object],
    load: Callable[[Path], State],
    tmpdir: str,
    *,
    step: int = 1,
) -> tuple[int, int, int]:
    """(trials with a whole head, trials that could save again, all trials)."""
    n_whole = n_gone_on = n = 0
    for at in range(1, 10_000, step):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        save(place, old)
        child = _with_tmpdir(tmpdir, lambda _: save(place, new))
        if run(child, place, Fault("SIGKILL", at)).hit is None:
            break
        n += 1
        n_whole += _is_one_of(place, load, old.state, new.state)
        n_gone_on += run(child, place).status == 0 and _is_one_of(place, load, new.state)
    return n_whole, n_gone_on, n


def _kill_trainings(training: Training, tmpdir: str, *, step: int) -> tuple[int, int, int]:
    """(trials with a whole head, trials that went on to the unbroken run's head, all trials)."""
    n_whole = n_gone_on = n = 0
    old, new, unbroken = training.old.state, training.new.state, training.unbroken
    child = _with_tmpdir(tmpdir, training)
    for at in range(1, 10_000, step):
        training.start()
        if run(child, training.runs, Fault("SIGKILL", at)).hit is None:
            break
        n += 1
        n_whole += _is_one_of(training.runs, lambda _: training.head().state, old, new)
        went_on = run(child, training.runs).status == 0
        n_gone_on += went_on and training.path().read_bytes() == unbroken
    return n_whole, n_gone_on, n


def _is_one_of(place: Path, load: Callable[[Path], State], *states: State) -> bool:
    try:
        found = load(place)
    except (FeatcacheError, OSError, RuntimeError, ValueError, EOFError):
        return False
    return any(
        found.keys() == state.keys() and all(torch.equal(found[n], state[n]) for n in state)
        for state in states
    )


def _load(place: Path) -> State:
    return load_head(place).state


def _save_naively(place: Path, head: TrainedHead) -> None:
    torch.save(dict(head.state), place / "head.pt")


def _load_naively(place: Path) -> State:
    state: State = torch.load(place / "head.pt", weights_only=True)
    return state


def _with_tmpdir(tmpdir: str, child: Callable[[Callable[[int], None]], object]) -> Child:
    def run_there(tell: Callable[[int], None]) -> None:
        os.environ["TMPDIR"] = tmpdir
        tempfile.tempdir = None
        child(tell)

    return run_there


def _other_file_system(folder: Path) -> Path:
    for place in (Path("/dev/shm"), Path("/run"), Path("/tmp"), Path.home()):
        if os.access(place, os.W_OK) and place.stat().st_dev != folder.stat().st_dev:
            return place
    sys.exit("there is no second file system here, on which TMPDIR could lie")
