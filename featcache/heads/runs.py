"""The folders of trained heads: runs/<dataset>/<backbone>-<reg or solver>-<8 hex>/."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.config import HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache.core.find_by_part import find_by_part
from featcache.core.identity import fingerprint
from featcache.core.paths import expanded, native, settled
from featcache.core.reporting import Choice
from featcache.core.side_files import is_partial
from featcache.errors import CacheMissingError, CorruptError, UsageError, clipped
from featcache.heads.head_file import DESCRIPTION_FILE, HEAD_FILE, load_head
from featcache.images.datasets import dataset_slug
from featcache.store import Cache, is_there

RESULT_FILE = "result.json"
METRICS_FILE = "metrics.csv"
RUN_FILES = (HEAD_FILE, DESCRIPTION_FILE, METRICS_FILE, RESULT_FILE)


def run_path(
    runs_dir: Path,
    cache: Cache,
    head: HeadSpec,
    train: TrainSpec,
    solver: SolverSpec | None = None,
) -> Path:
    """Name the folder of a run; the 8 hex digits hash its cache and all that decides its head.

    That is head and training of an MLP. Of another solver it is its own settings, and which rows
    validate.

    Raises:
        CorruptError: If the cache is of no dataset.
    """
    solver, training = solver or SolverSpec(), train.to_json()
    for name in ("order_seed", "window_rows"):
        if training[name] is None:
            del training[name]
    identity: dict[str, Any] = {"cache": cache.fingerprint}
    kind = head.reg if solver.is_mlp else solver.solver
    if solver.is_mlp:
        identity |= {"head": asdict(head), "train": training}
    else:
        identity["train"] = {name: training[name] for name in ("val_fraction", "split_seed")}
    if solver.identity:
        identity["solver"] = solver.identity
    name = f"{cache.identity.backbone}-{kind}-{fingerprint(identity)[:8]}"
    dataset = cache.provenance.dataset
    try:
        slug = dataset_slug(native(dataset))
    except (OSError, ValueError, RuntimeError) as err:  # it may be a stranger's
        raise CorruptError(
            f"{cache.path} names its dataset {clipped(repr(dataset))}, which is none that "
            f"featcache knows. Nothing was started. Extract it again."
        ) from err
    return expanded(runs_dir) / slug / name


def list_runs(runs_dir: str | os.PathLike[str]) -> list[Path]:
    """List the runs below a folder that have a head, the one last whose head is the newest."""
    heads = []
    for path in expanded(runs_dir).glob(f"*/*/{HEAD_FILE}"):
        with contextlib.suppress(OSError):  # a link to nowhere, which glob lists from Python 3.13
            heads.append((path.stat().st_mtime_ns, str(path), path.parent))
    return [folder for _, _, folder in sorted(heads)]


def find_run(name: str | os.PathLike[str] | None, *, runs_dir: str | os.PathLike[str]) -> Path:
    """Find a run by its path, or by part of its name below `runs_dir`; None is `newest_run`.

    Raises:
        CacheMissingError: If there is none, with the nearest names.
        CorruptError: If it is a file, but no head.
        UnsafeFileError: If it is a pickle.
        UsageError: If several fit.
    """
    if name is not None and is_there(expanded(name)):
        path = expanded(name)
        if path.is_dir():
            return path
        load_head(path)  # refuses what is no head
        if path.name != HEAD_FILE:
            raise UsageError(
                f"{path} is a head, but a run is a folder with a {HEAD_FILE}. Nothing was started. "
                f"Copy it under that name into a folder of its own, and give the folder."
            )
        return path.parent
    if name is None:
        return newest_run(runs_dir).value
    runs = list_runs(runs_dir)
    return find_by_part(
        str(name),
        {f"{run.parent.name}/{run.name}": run for run in runs},
        kind="run",
        place=os.fspath(runs_dir),
        way_out=f"Train one with: {train_command(runs_dir)}",
    )


def train_command(runs_dir: str | os.PathLike[str]) -> str:
    """Write the command that trains a head into a folder of runs, for a shell."""
    is_usual = settled(runs_dir) == settled(RunSpec.runs_dir)
    place = [] if is_usual else ["--runs-dir", os.fspath(runs_dir)]
    return shlex.join(["featcache", "train-head", *place])


def newest_run(runs_dir: str | os.PathLike[str]) -> Choice[Path]:
    """Take the newest finished run, or what a sweep chose on validation if that came last.

    A sweep came last if the newest run is of it, or if its table was written after that run: then
    it found all its runs there.

    Raises:
        CacheMissingError: If there is none.
    """
    runs = list_runs(runs_dir)
    finished = [run for run in runs if not is_partial(run)]
    if not finished:
        raise CacheMissingError(
            f"There is no finished run in {os.fspath(runs_dir)}. Train a head with: "
            f"{train_command(runs_dir)}"
        )
    newest = finished[-1]
    made_ns = _written_ns(newest / HEAD_FILE)
    for table in sorted(expanded(runs_dir).glob("*/sweep-*.json"), key=_written_ns, reverse=True):
        runs_of_it = [table.with_name(name) for name in _swept(table)]
        is_last = newest in runs_of_it or _written_ns(table) > made_ns
        if is_last and runs_of_it and (best := runs_of_it[0]) in finished:
            return Choice(best, f"the newest runs are a sweep's, which chose it ({table.name})")
    stopped = f"; {runs[-1]} is newer, but was stopped" if runs[-1] != newest else ""
    return Choice(newest, f"the newest finished run{stopped}")


def _swept(table: Path) -> list[str]:
    """Name the runs of a sweep's table, the best setting's first; none if it cannot be read."""
    try:
        settings = json.loads(table.read_bytes())["settings"]
        return [Path(native(run)).name for setting in settings for run in setting["runs"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
