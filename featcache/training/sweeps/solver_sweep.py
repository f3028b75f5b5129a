"""A sweep over the values of a solver: each a run, and only the best is tested."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from featcache.config import HeadSpec, RunSpec, SolverSpec, TrainSpec
from featcache.core.identity import fingerprint
from featcache.core.reporting import NoteCallback
from featcache.evaluation.metrics import Spread
from featcache.features.trainable import require_trainable
from featcache.heads.run_files import HeadRun
from featcache.store import Cache
from featcache.training.remarks import remarks_on, reused
from featcache.training.solvers.fit_head import job_on, open_to_fit
from featcache.training.solvers.remarks import solver_remarks
from featcache.training.sweeps.table import SweepResult, SweepSetting, write_tables

if TYPE_CHECKING:
    from featcache.training.solvers.solver_run import SolverProgressCallback


def values_of(spec: SolverSpec, treatments: Sequence[str]) -> dict[str, list[SolverSpec]]:
    """List the specs of a sweep by treatment: one for each value of C or k."""
    specs: dict[str, list[SolverSpec]] = {}
    for features, C, k in product(treatments, spec.C or (None,), spec.k or (None,)):  # noqa: N806
        one = replace(
            spec,
            features=features,
            C=None if C is None else (C,),
            k=None if k is None else (k,),
        )
        specs.setdefault(features, []).append(one)
    return specs


def sweep_solver(
    cache: Cache | str | os.PathLike[str] | None,
    spec: SolverSpec,
    treatments: Sequence[str],
    train: TrainSpec,
    *,
    dataset: str | os.PathLike[str] | None,
    backbone: str | None,
    asked: RunSpec,
    on_progress: SolverProgressCallback,
    on_note: NoteCallback,
) -> SweepResult:
    """Fit a head for every value and treatment, and find the best honestly; raises as `sweep`.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        spec: The solver with all its values.
        treatments: Of the features.
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
    require_trainable(found.cache, train.val_fraction)  # a sweep chooses on validation rows
    job, choices = job_on(found.cache, train, asked, on_progress=on_progress, on_note=on_note)
    started, n_new = time.perf_counter(), 0
    spec = job.possible(spec)
    pairs: list[tuple[SolverSpec, HeadRun]] = []
    for specs in values_of(spec, treatments).values():
        runs, n = job.run_all(specs)
        n_new += n
        pairs += zip(specs, runs, strict=True)
    for told in reused([run for _, run in pairs] if not n_new else []):
        on_note(told)
    pairs.sort(key=lambda pair: pair[1].val_loss or 0.0)  # a stable sort: ties to the first
    best_spec, best = pairs[0][0], job.tested(pairs[0][1])
    remarks = [*remarks_on([best], found.cache, train, recipe=None)]
    own_values = replace(spec, features=best_spec.features)
    remarks += solver_remarks(best.found, own_values)
    for told in remarks:
        on_note(told)
    names = sorted(run.path.name for _, run in pairs)
    stem = best.path.with_name(f"sweep-{fingerprint({'runs': names})[:8]}")
    result = SweepResult(
        settings=[_setting(*pair) for pair in pairs],
        test_acc=None if best.test_acc is None else Spread.of([best.test_acc]),
        test_loss=None if best.test_loss is None else Spread.of([best.test_loss]),
        n_trained=n_new,
        seconds=time.perf_counter() - started,
        cache=found.cache.path,
        json=stem.with_name(stem.name + ".json"),
        markdown=stem.with_name(stem.name + ".md"),
        choices=dict(choices),
        remarks=(*found.remarks, *remarks),
    )
    write_tables(result)
    return result


def _setting(spec: SolverSpec, run: HeadRun) -> SweepSetting:
    assert run.val_loss is not None, "a sweep has validation rows"
    assert run.val_acc is not None, "a sweep has validation rows"
    return SweepSetting(
        head=HeadSpec(hidden=()),
        lr=None,
        val_loss=Spread.of([run.val_loss]),
        val_acc=Spread.of([run.val_acc]),
        n_epochs=0,
        problem="",
        runs=(run.path,),
        solver=spec,
    )
