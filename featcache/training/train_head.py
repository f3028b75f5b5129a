"""Stage two: heads on cached features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from featcache.config import ExtractSpec, HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache.core.ranks import require_one_rank
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.features.lookup import Found
from featcache.heads.run_files import HeadRun, reusable_run
from featcache.heads.runs import run_path
from featcache.store import Cache
from featcache.training.folds.cross_validation import (
    CrossValidation,
    folds_file,
    folds_remarks,
    kept_folds,
)
from featcache.training.keywords import by_hand, spec_of
from featcache.training.recipes import Recipe
from featcache.training.remarks import remarks_on, reused
from featcache.training.solvers.fit_head import fit_head, refuse_options_of_mlp
from featcache.training.train_result import TrainResult
from featcache.training.training_cache import load_to_train, open_to_train

if TYPE_CHECKING:
    from featcache.training.solvers.solver_run import SolverProgressCallback
    from featcache.training.trainer import TrainProgressCallback


@starting(*ANY_START)
def train_head(
    cache: Cache | str | os.PathLike[str] | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    recipe: str = RunSpec.recipe,
    solver: str = SolverSpec.solver,
    features: str | None = SolverSpec.features,
    C: Sequence[float] | float | str | None = SolverSpec.C,  # noqa: N803 - scikit-learn's name
    refit: bool | None = SolverSpec.refit,
    k: Sequence[int] | int | None = SolverSpec.k,
    temperature: float | None = SolverSpec.temperature,
    hidden: Sequence[int] | int | None = None,
    reg: str = HeadSpec.reg,
    l1: float | None = HeadSpec.l1,
    weight_decay: float | None = HeadSpec.weight_decay,
    dropout: Sequence[float] | float | None = HeadSpec.dropout,
    lr: float | None = None,
    batch_size: int = TrainSpec.batch_size,
    max_epochs: int | None = None,
    patience: int | None = None,
    min_delta: float = TrainSpec.min_delta,
    val_fraction: float | None = TrainSpec.val_fraction,
    split_seed: int = TrainSpec.split_seed,
    select: str | None = None,
    class_weight: str = TrainSpec.class_weight,
    label_smoothing: float = TrainSpec.label_smoothing,
    seed: int = TrainSpec.seed,
    order_seed: int | None = TrainSpec.order_seed,
    seeds: int = RunSpec.seeds,
    folds: int | None = RunSpec.folds,
    max_memory: int | None = RunSpec.max_memory,
    device: str = ExtractSpec.device,
    resume: bool = RunSpec.resume,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: TrainProgressCallback | SolverProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> TrainResult:
    """Train a head on a cache: an MLP as the reference notebook's, or what another solver finds.

    The MLP has the notebook's loss, optimiser and split. The other solvers fit a head at once,
    without epochs, so that arguments of the training are of no use to them. The same call on the
    same machine gives the same bits; a run that exists is reused. `SolverSpec`, `HeadSpec`,
    `TrainSpec`, `ExtractSpec` and `featcache.config.RunSpec` say what each argument means. A value
    that is given wins over the recipe's. Each value that the recipe decides is told to `on_note`.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        dataset: Its dataset; None is "cifar10", or that of the only cache that fits.
        backbone: Its backbone; None is "vgg16", or that of the only cache that fits.
        recipe: "notebook" has the constants of the notebook's system with this backbone; "general"
            has a learning rate of 1e-3 and up to 100 epochs, stops after 5 epochs (of 20 steps at
            least) that are no better, and keeps the best. "auto" is the notebook's on its own data,
            preprocessing and backbones, else the general one.
        C: One value, several, or "dinov2".
        hidden: None leaves it to the recipe; so it does for `lr`, `max_epochs`, `patience` and
            `select`.
        dropout: One number is for all hidden layers.
        folds: Besides, train a head for each of so many folds of all images that are not of the
            split "test", and test it on that fold; the result then has `folds`. Their heads are
            not kept.
        max_memory: Bytes of features to keep in memory; where there are more, windows of the file
            are read one after the other and shuffled within. (Other solvers than mlp read the file
            again in each step, with the same result.) None keeps all where they fit.
        on_progress: Called after every few steps, with a `TrainProgress`; of another solver than
            mlp with a `SolverProgress`.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The run of each seed: its folder and its figures.

    Raises:
        CacheMissingError: If there is no such cache, with the command that makes it.
        MismatchError: If the caches of a folder's name are of another folder.
        CorruptError: If the cache is damaged.
        NonFiniteError: If a loss is no number; the last good head is kept.
        InterruptedRunError: On Ctrl-C; the last epoch's head is kept.
        UsageError: If arguments contradict each other.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> result = featcache.train_head(cache.path, max_epochs=20, runs_dir=tmp / "runs")
        >>> result.runs[0].test_acc > 0.8
        True
    """
    given = dict(locals())  # the keywords by name
    note = on_note or silent
    found_by = spec_of(SolverSpec, given)
    head, train = spec_of(HeadSpec, given), spec_of(TrainSpec, given)
    asked = spec_of(RunSpec, given, cache=None)
    require_one_rank()
    if not found_by.is_mlp:
        if features is None:
            usual = f"features {found_by.features}, as is usual with --solver {found_by.solver}"
            note(usual)
        refuse_options_of_mlp(found_by, head, train, asked, by_hand(given))
        return fit_head(
            cache,
            found_by,
            train,
            dataset=dataset,
            backbone=backbone,
            asked=asked,
            on_progress=cast("SolverProgressCallback", on_progress or silent),
            on_note=note,
        )
    found, train, taken = open_to_train(
        cache, dataset=dataset, backbone=backbone, asked=asked, train=train, on_note=note
    )
    [(head, train)] = taken.completed([(head, train)], given=by_hand(given), on_note=note)
    _require_foldable(train, found_by, asked)
    seeds_of_runs = range(train.seed, train.seed + asked.seeds)
    trains = [replace(train, seed=one, order_seed=order_seed) for one in seeds_of_runs]
    return _train_mlps(
        found,
        head,
        trains,
        found_by,
        asked,
        taken,
        on_progress=cast("TrainProgressCallback", on_progress or silent),
        on_note=note,
    )


def _train_mlps(
    found: Found,
    head: HeadSpec,
    trains: Sequence[TrainSpec],
    solver: SolverSpec,
    asked: RunSpec,
    recipe: Recipe,
    *,
    on_progress: TrainProgressCallback,
    on_note: NoteCallback,
) -> TrainResult:
    """Train a head for each seed, and those of folds, where they are not there already."""
    cache, runs_dir = found.cache, Path(asked.runs_dir)
    choices = {"recipe": recipe.recorded}
    runs = _reusable(cache, head, trains, solver, runs_dir)
    folds = kept_folds(run_path(runs_dir, cache, head, trains[0]), asked.folds)
    if not runs or (asked.folds and folds is None):
        runs, folds, chosen = _trained(
            cache, head, trains, solver, asked, folds, on_progress=on_progress, on_note=on_note
        )
        choices |= chosen
    remarks = (*remarks_on(runs, cache, trains[0], recipe=recipe), *folds_remarks(folds))
    for told in (*reused(runs), *remarks):
        on_note(told)
    remarks = (*found.remarks, *remarks)  # the first are told already
    return TrainResult(runs=runs, cache=cache.path, choices=choices, remarks=remarks, folds=folds)


def _reusable(
    cache: Cache, head: HeadSpec, trains: Sequence[TrainSpec], solver: SolverSpec, runs_dir: Path
) -> tuple[HeadRun, ...]:
    """Read the runs, if all are there with nothing left to do, which needs no torch; else none."""
    runs = []
    for train in trains:
        run = reusable_run(run_path(runs_dir, cache, head, train, solver), cache)
        if run is None:
            return ()
        runs.append(run)
    return tuple(runs)


def _require_foldable(train: TrainSpec, solver: SolverSpec, asked: RunSpec) -> None:
    """Refuse folds of what does not fit into memory, and of treated features."""
    if asked.folds and solver.identity:
        raise UsageError(
            f"--folds trains heads on features as they are, but --features is {solver.features}. "
            f"Nothing was started. Leave one of both out."
        )
    if asked.folds and train.window_rows is not None:
        raise UsageError(
            f"--folds is for sets that fit into memory, but --max-memory {asked.max_memory} keeps "
            f"{train.window_rows} rows of them. Nothing was started. Leave one of both out."
        )


def _trained(
    cache: Cache,
    head: HeadSpec,
    trains: Sequence[TrainSpec],
    solver: SolverSpec,
    asked: RunSpec,
    folds: CrossValidation | None,
    *,
    on_progress: TrainProgressCallback,
    on_note: NoteCallback,
) -> tuple[tuple[HeadRun, ...], CrossValidation | None, Mapping[str, str]]:
    """Load the cache and train what is missing; runs, folds, and what was chosen for them."""
    device, resident = load_to_train(
        cache,
        device=asked.device,
        window_rows=trains[0].window_rows,
        trainer="featcache.training.run",
        draws_views=True,
        on_note=on_note,
    )
    from featcache.training.run import HeadJob

    job = HeadJob(
        cache,
        head,
        resident,
        solver=solver,
        runs_dir=Path(asked.runs_dir),
        resume=asked.resume,
        on_progress=on_progress,
        on_note=on_note,
    )
    runs = tuple(map(job.run, trains))
    if asked.folds and folds is None:
        from featcache.features.rows import n_inputs
        from featcache.training.folds.cross_validate import cross_validate
        from featcache.training.folds.fold_head import train_fold

        folds = cross_validate(
            cache,
            trains[0],
            resident,
            partial(
                train_fold,
                head=head,
                train=trains[0],
                n_features=n_inputs(cache),
                n_classes=len(cache.class_names),
                on_progress=on_progress,
            ),
            n_folds=asked.folds,
            file=folds_file(runs[0].path, asked.folds),
            on_note=on_note,
        )
    return runs, folds, {"device": device.recorded, **job.choices}
