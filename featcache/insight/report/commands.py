"""The commands that make a cache and its heads again, written for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from featcache.config import OF_THE_RECIPE, OPTIONS_OF_REG, ExtractSpec, HeadSpec, TrainSpec
from featcache.config.solver_specs import MLP, OPTIONS_OF_SOLVER
from featcache.core.arguments import option_name
from featcache.core.dataset_names import OF_PATHS
from featcache.core.paths import native
from featcache.heads.trained_head import TrainedHead
from featcache.insight.report.material import Naming
from featcache.insight.report.systems import ReportedSystem
from featcache.store import Cache, command_of, named_backbone

_OF_SEEDS = ("seed", "order_seed")
_NOT_TYPED = ("window_rows",)  # follows from --max-memory


def extraction_command(cache: Cache, naming: Naming) -> str:
    """Write the command that made a cache."""
    if naming.paths:
        return command_of(cache.path, cache.identity, cache.provenance)
    dataset, other = native(cache.provenance.dataset), {"cache_dir": ExtractSpec.cache_dir}
    if dataset.startswith(OF_PATHS):
        other["dataset"] = naming.dataset(dataset)
    other["backbone"] = naming.backbone(named_backbone(cache.identity, cache.provenance))
    return command_of(cache.path, cache.identity, cache.provenance, **other)


def training_commands(system: ReportedSystem, naming: Naming) -> list[str]:
    """Write the commands that train the heads of a system, one for seeds in a row."""
    head = system.head
    words = ["--cache", naming.path(head.cache_path)]
    if not head.solver.is_mlp:
        return [_command(*words, *_solver_words(head))]
    words += [*_head_words(head), *_training_words(head)]
    trains = [run.head.train for run in system.runs]
    if any(train.order_seed is not None for train in trains):  # of a sweep: one order for all seeds
        return [
            _command(*words, *_words(seed=train.seed, order_seed=train.order_seed))
            for train in trains
        ]
    return [
        _command(*words, *_words(seed=first, seeds=n if n > 1 else None))
        for first, n in _in_a_row(sorted({train.seed for train in trains}))
    ]


def _in_a_row(seeds: list[int]) -> Iterator[tuple[int, int]]:
    """Part ascending seeds into the first and the number of each stretch without a gap."""
    starts = [i for i, seed in enumerate(seeds) if not i or seed != seeds[i - 1] + 1]
    for start, end in zip(starts, [*starts[1:], len(seeds)], strict=True):
        yield seeds[start], end - start


def _head_words(head: TrainedHead) -> list[str]:
    """Write the options of a head: those that its kind has, and what a recipe would decide."""
    spec, solver = head.spec, head.solver
    is_treated = solver.features != OPTIONS_OF_SOLVER[MLP]["features"]
    return _words(
        hidden=spec.hidden,
        reg=None if spec.reg == HeadSpec.reg else spec.reg,
        **{name: getattr(spec, name) for name in OPTIONS_OF_REG[spec.reg]},
        features=solver.features if is_treated else None,
    )


def _training_words(head: TrainedHead) -> list[str]:
    """Write the options of a training that a recipe decides, or that are not at their defaults."""
    told = {}
    for one in fields(TrainSpec):
        value = getattr(head.train, one.name)
        is_told = one.name in OF_THE_RECIPE or value != getattr(TrainSpec, one.name)
        if is_told and one.name not in (*_OF_SEEDS, *_NOT_TYPED):
            told[one.name] = value
    return _words(**told)


def _solver_words(head: TrainedHead) -> list[str]:
    """Write the options of another solver than mlp that are not at their defaults."""
    solver, train = head.solver, head.train
    words = _words(solver=solver.solver)
    for name, default in OPTIONS_OF_SOLVER[solver.solver].items():
        value = getattr(solver, name)
        if value == default:
            continue
        words += ["--no-refit"] if name == "refit" else _words(**{name: value})
    words += _words(val_fraction=train.val_fraction)
    is_usual = train.split_seed == TrainSpec.split_seed
    return words + ([] if is_usual else _words(split_seed=train.split_seed))


def _words(**values: Any) -> list[str]:
    """Write options with their values; None is left out."""
    told = {name: value for name, value in values.items() if value is not None}
    return [word for name, value in told.items() for word in (option_name(name), _typed(value))]


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _command(*words: str) -> str:
    return shlex.join(["featcache", "train-head", *words])
