"""A head by a solver, on a cache: what `train_head` does for all but the MLP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.config import HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache.core.arguments import option_name
from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError
from featcache.features.lookup import Found, the_cache
from featcache.features.residence import is_too_large
from featcache.features.trainable import require_trainable
from featcache.heads.run_files import reusable_run
from featcache.heads.runs import run_path
from featcache.store import Cache
from featcache.training.folds.cross_validation import folds_file, folds_remarks, kept_folds
from featcache.training.remarks import remarks_on, reused
from featcache.training.solvers.remarks import solver_remarks
from featcache.training.train_result import TrainResult
from featcache.training.training_cache import load_to_train

if TYPE_CHECKING:
    from featcache.training.solvers.solver_run import SolverJob, SolverProgressCallback

_OF_ADAM = ("batch_size", "min_delta", "class_weight", "label_smoothing", "seed", "order_seed")


def fit_head(
    cache: Cache | str | os.PathLike[str] | None,
    spec: SolverSpec,
    train: TrainSpec,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    asked: RunSpec,
    on_progress: SolverProgressCallback,
    on_note: NoteCallback,
) -> TrainResult:
    """Fit a head, or find it fitted; raises as `train_head` does.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        spec: The solver, which is not "mlp".
        train: Which rows validate.
        dataset: Dataset of the cache.
        backbone: Backbone of the cache.
        asked: Where to look and to write, and how much memory to use.
        on_progress: Called after each step of a solver that has steps.
        on_note: Called with a sentence for each choice.
    """
    found = open_to_fit(
        cache, spec, train, dataset=dataset, backbone=backbone, asked=asked, on_note=on_note
    )
    path = run_path(Path(asked.runs_dir), found.cache, HeadSpec(), train, spec)
    run = reusable_run(path, found.cache)
    folds = kept_folds(run.path, asked.folds) if run is not None else None
    choices: Mapping[str, str] = {}
    if run is None or (asked.folds and folds is None):
        job, choices = job_on(found.cache, train, asked, on_progress=on_progress, on_note=on_note)
        if asked.folds and folds is None:
            job.require_folds(spec, asked.folds)
        run = job.run(spec)
        if asked.folds and folds is None:
            folds = job.cross_validated(spec, asked.folds, folds_file(run.path, asked.folds))
    remarks = [*remarks_on([run], found.cache, train, recipe=None)]
    remarks += [*solver_remarks(run.found, spec), *folds_remarks(folds)]
    for told in (*reused([run]), *remarks):
        on_note(told)
    return TrainResult((run,), found.cache.path, choices, (*found.remarks, *remarks), folds)


def open_to_fit(
    cache: Cache | str | os.PathLike[str] | None,
    spec: SolverSpec,
    train: TrainSpec,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    asked: RunSpec,
    on_note: NoteCallback,
) -> Found:
    """Find the cache and judge it without torch; arguments are those of `fit_head`.

    Raises:
        UsageError: If there is nothing to fit to, or nothing to choose by.
    """
    found = the_cache(
        cache,
        dataset=dataset,
        backbone=backbone,
        cache_dir=Path(asked.cache_dir),
        on_note=on_note,
    )
    require_trainable(found.cache, train.val_fraction, may_lack_validation=True)
    if train.val_fraction == 0:
        spec.require_one_value()
    return found


def job_on(
    cache: Cache,
    train: TrainSpec,
    asked: RunSpec,
    *,
    on_progress: SolverProgressCallback,
    on_note: NoteCallback,
) -> tuple[SolverJob, Mapping[str, str]]:
    """Verify and load the cache; what fits heads to it, and what was chosen for that."""
    stays = asked.max_memory is not None and is_too_large(cache, asked.max_memory)
    device, resident = load_to_train(
        cache,
        device=asked.device,
        window_rows=1 if stays else None,  # the file is then only verified
        trainer="featcache.training.solvers.solver_run",
        on_note=on_note,
    )
    residence = resident.residence.told if resident.residence else "the file, as asked for"
    on_note(f"features stay in {residence}")
    from featcache.training.solvers.solver_run import SolverJob

    job = SolverJob(
        cache,
        resident,
        train,
        runs_dir=Path(asked.runs_dir),
        on_progress=on_progress,
        on_note=on_note,
    )
    return job, {"device": device.recorded, "features": residence}


def refuse_options_of_mlp(
    spec: SolverSpec, head: HeadSpec, train: TrainSpec, asked: RunSpec, by_hand: Mapping[str, Any]
) -> None:
    """Refuse what only an MLP has a use for.

    Args:
        spec: The solver.
        head: As it was asked for.
        train: As it was asked for.
        asked: As it was asked for.
        by_hand: What was given of that which a recipe decides.

    Raises:
        UsageError: Naming the first.
    """
    given = dict(by_hand)
    for one, default, names in (
        (head, HeadSpec(), ("reg", "l1", "weight_decay", "dropout")),
        (train, TrainSpec(), _OF_ADAM),
        (asked, RunSpec(), ("recipe", "seeds")),
    ):
        pairs = {name: (getattr(one, name), getattr(default, name)) for name in names}
        given |= {name: value for name, (value, usual) in pairs.items() if value != usual}
    for name in given:
        raise UsageError(
            f"{option_name(name)} does nothing with --solver {spec.solver}: it is for heads that "
            f"are trained in epochs. Nothing was started. Leave it out, or use --solver mlp."
        )
