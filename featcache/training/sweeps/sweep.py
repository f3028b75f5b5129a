"""Train a grid of heads in one pass over the features, and find the best setting honestly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from featcache.config import (
    TREATMENTS,
    DevicesSpec,
    ExtractSpec,
    HeadSpec,
    RunSpec,
    SolverSpec,
    TrainSpec,
)
from featcache.config.scale_specs import devices_asked
from featcache.core.arguments import one_of, several
from featcache.core.ranks import require_one_rank
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.features.lookup import Found
from featcache.store import Cache
from featcache.training.keywords import by_hand, spec_of
from featcache.training.recipes import Recipe, Setting
from featcache.training.solvers.fit_head import refuse_options_of_mlp
from featcache.training.sweeps.grid import axes_of, settings_of
from featcache.training.sweeps.solver_sweep import sweep_solver
from featcache.training.sweeps.table import SweepResult
from featcache.training.training_cache import load_to_train, open_to_train

if TYPE_CHECKING:
    from featcache.training.solvers.solver_run import SolverProgressCallback
    from featcache.training.sweeps.bank_trainer import SweepProgressCallback


@starting(*ANY_START)
def sweep(
    cache: Cache | str | os.PathLike[str] | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    recipe: str = RunSpec.recipe,
    solver: str = SolverSpec.solver,
    features: Sequence[str] | str | None = SolverSpec.features,
    C: Sequence[float] | float | str | None = SolverSpec.C,  # noqa: N803 - scikit-learn's name
    refit: bool | None = SolverSpec.refit,
    k: Sequence[int] | int | None = SolverSpec.k,
    temperature: float | None = SolverSpec.temperature,
    hidden: Sequence[Sequence[int]] | int | None = None,
    reg: Sequence[str] | str = (HeadSpec.reg,),
    l1: Sequence[float] | float | None = None,
    weight_decay: Sequence[float] | float | None = None,
    dropout: Sequence[Sequence[float]] | float | None = None,
    lr: Sequence[float] | float | None = None,
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
    seeds: int = RunSpec.seeds,
    max_memory: int | None = RunSpec.max_memory,
    device: str = ExtractSpec.device,
    devices: str | None = DevicesSpec.devices,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: SweepProgressCallback | SolverProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> SweepResult:
    """Train a head for every setting and seed of a grid, side by side on the same batches.

    Each is the head that `train_head` trains with the same arguments and `order_seed=seed`, up to
    rounding, and a run folder like any other. Only the setting with the lowest mean val_loss is
    tested. Heads that exist are used; the same call continues a sweep that was stopped. One value
    alone stands for a sequence of one. The specs that `train_head` names say what the other
    arguments mean.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        dataset: Its dataset; None is "cifar10", or that of the only cache that fits.
        backbone: Its backbone; None is "vgg16", or that of the only cache that fits.
        recipe: As for `train_head`.
        solver: With another than "mlp", a head for every value of `C` or `k` and every treatment in
            `features`; arguments of an MLP's training are of no use then.
        features: One treatment or several.
        C: As for `train_head`; here each value is a run.
        k: Likewise.
        hidden: Widths of the hidden layers, a sequence for each shape; None is the recipe's, as for
            `lr`, `max_epochs`, `patience` and `select`.
        l1: Factors of the L1 penalty, for each `reg` that has one.
        weight_decay: Adam's L2 factors, for each `reg` that has one.
        dropout: Probabilities after each hidden layer, for each `reg` that has them; each is cut,
            or its last one repeated, to the number of hidden layers.
        seed: The first seed of each setting, and the seed of the order of batches.
        seeds: Heads per setting, with seeds from `seed` on.
        max_memory: Bytes of features to keep in memory, as for `train_head`; with `devices` in each
            process.
        devices: Train groups of up to 8 heads on several devices, each by a process of its own. On
            a CPU a head then has the same bits on any number of devices, one too; the last digits
            may be others than without `devices`, where all heads are one group.
        on_progress: Called after every few steps.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UsageError: If arguments contradict each other, or leave no setting.
        NonFiniteError: If no setting has all its heads.
        InterruptedRunError: On Ctrl-C; heads are kept as of the last whole epoch.
        DeviceError: If a device fails, or workers die again and again.
        FeatcacheError: Those of `train_head`; a loss that is no number ends its head alone.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> grid = {"reg": ("none", "l2"), "lr": (1e-3, 1e-2), "max_epochs": 3}
        >>> best = featcache.sweep(cache.path, **grid, runs_dir=tmp / "runs").settings[0]
        >>> best.lr
        0.01
    """
    given = dict(locals())  # the keywords by name
    note = on_note or silent
    treatments = () if features is None else several(_treatment, "--features", features)
    found_by = spec_of(SolverSpec, given, features=treatments[0] if treatments else None)
    if found_by.is_mlp and found_by.identity:
        raise UsageError(
            f"--features {found_by.features} is not for a sweep of MLPs. Nothing was started. "
            f"Train one with featcache train-head, or use --solver logreg."
        )
    penalties = axes_of(l1=l1, weight_decay=weight_decay, dropout=dropout)
    of_recipe = by_hand(given) | axes_of(hidden=hidden, lr=lr)
    base = spec_of(TrainSpec, given, lr=None)  # of several rates each is a setting's
    settings = settings_of(
        base,
        reg=reg,
        shapes=of_recipe.get("hidden", (HeadSpec.hidden,)),
        rates=of_recipe.get("lr", (TrainSpec.lr,)),
        penalties=penalties,
        on_note=note,
    )
    asked = spec_of(RunSpec, given, cache=None)
    names = _devices(devices, found_by, asked)
    require_one_rank()
    if not found_by.is_mlp:
        grid = {"reg": () if reg in ("none", ("none",)) else reg, **penalties}
        axes = {name: values for name, values in grid.items() if values}
        refuse_options_of_mlp(found_by, HeadSpec(), base, asked, {**axes, **of_recipe})
        return sweep_solver(
            cache,
            found_by,
            treatments or (found_by.treatment,),
            base,
            dataset=dataset,
            backbone=backbone,
            asked=asked,
            on_progress=cast("SolverProgressCallback", on_progress or silent),
            on_note=note,
        )
    found, base, taken = open_to_train(
        cache, dataset=dataset, backbone=backbone, asked=asked, train=base, on_note=note
    )
    settings = [(head, replace(s, window_rows=base.window_rows)) for head, s in settings]
    settings = list(dict.fromkeys(taken.completed(settings, given=of_recipe, on_note=note)))
    return _sweep_mlps(
        found,
        settings,
        asked,
        taken,
        devices=names,
        on_progress=cast("SweepProgressCallback", on_progress or silent),
        on_note=note,
    )


def _sweep_mlps(
    found: Found,
    settings: Sequence[Setting],
    asked: RunSpec,
    recipe: Recipe,
    *,
    devices: Sequence[str],
    on_progress: SweepProgressCallback,
    on_note: NoteCallback,
) -> SweepResult:
    """Load the cache and train the heads."""
    if devices:
        from featcache.training.sweeps.devices.leader import train_on_devices

        return train_on_devices(
            found,
            settings,
            devices,
            recipe=recipe,
            asked=asked,
            on_progress=on_progress,
            on_note=on_note,
        )
    chosen, resident = load_to_train(
        found.cache,
        device=asked.device,
        window_rows=settings[0][1].window_rows,
        trainer="featcache.training.sweeps.grid_run",
        draws_views=True,
        on_note=on_note,
    )
    from featcache.training.sweeps.grid_run import train_grid

    return train_grid(
        found.cache,
        resident,
        settings,
        recipe=recipe,
        asked=asked,
        device=chosen,
        remarks=found.remarks,
        on_progress=on_progress,
        on_note=on_note,
    )


def _devices(devices: str | None, solver: SolverSpec, asked: RunSpec) -> tuple[str, ...]:
    """Read `devices`; none where it was not given."""
    if (given := DevicesSpec(devices=devices).devices) is None:
        return ()
    if not solver.is_mlp:
        raise UsageError(
            f"--devices is for a sweep of MLPs: --solver {solver.solver} fits all its values side "
            f"by side in one process. Nothing was started. Leave it out, or use --device."
        )
    return devices_asked(given, asked.device, usual=RunSpec.device)


def _treatment(option: str, value: object) -> str:
    return one_of(option, value, TREATMENTS)
