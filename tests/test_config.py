"""Every option is declared once: the keywords of the public functions are fields of the specs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import pytest

import featcache
from featcache.config import (
    OF_THE_RECIPE,
    AuditSpec,
    DevicesSpec,
    EvaluateSpec,
    ExportSpec,
    ExtractSpec,
    ForecastSpec,
    HeadSpec,
    ParitySpec,
    ProbeSpec,
    RunSpec,
    ShareSpec,
    SolverSpec,
    TrainSpec,
)
from featcache.core.options import declared
from featcache.training.notebook_systems import ReproduceSpec

# Each function, the specs that it takes whole, those that it takes a part of, its keywords that are
# None instead of their default, and the arguments that are its own.
OF_A_CACHE = ("dataset", "backbone")
CASES: Any = [
    (featcache.extract, [ExtractSpec], [], (), ()),
    (
        featcache.train_head,
        [SolverSpec, HeadSpec, TrainSpec, RunSpec],
        [ExtractSpec],
        (*OF_A_CACHE, *OF_THE_RECIPE),
        (),
    ),
    (
        featcache.sweep,
        [SolverSpec, HeadSpec, DevicesSpec],
        [TrainSpec, RunSpec, ExtractSpec],
        (*OF_A_CACHE, *OF_THE_RECIPE),
        ("reg",),
    ),
    (featcache.evaluate, [EvaluateSpec], [RunSpec, ExtractSpec], (), ("run",)),
    (
        featcache.export,
        [ExportSpec],
        [ExtractSpec, RunSpec],
        ("backbone", "weights"),
        ("run", "out"),
    ),
    (featcache.compare, [EvaluateSpec], [RunSpec, ExtractSpec], (), ("first", "second")),
    (
        featcache.parity,
        [ParitySpec],
        [RunSpec, HeadSpec, TrainSpec, ExtractSpec],
        (*OF_A_CACHE, "bn", "preprocess", "image_size", "views"),
        (),
    ),
    (featcache.probe, [ProbeSpec], [EvaluateSpec, ExtractSpec], (), ("caches",)),
    (featcache.audit, [AuditSpec], [ExtractSpec, RunSpec], ("dataset",), ("cache",)),
    (featcache.reproduce, [ReproduceSpec], [RunSpec, TrainSpec, ExtractSpec], (), ()),
    (featcache.extract_on_devices, [DevicesSpec], [], (), ("spec",)),
    (featcache.extract_share, [ShareSpec], [], (), ("spec",)),
    (
        featcache.forecast,
        [ForecastSpec],
        [ShareSpec],
        (),
        ("spec",),
    ),
    (featcache.merge_parts, [], [ExtractSpec], (), ("folder",)),
    (featcache.repair_cache, [], [ExtractSpec], ("dataset", "backbone", "weights"), ("path",)),
    (featcache.list_backbones, [], [ExtractSpec], (), ("names",)),
    (featcache.describe_backbone, [], [ExtractSpec], (), ("name", "layer", "pool")),
]


@pytest.mark.parametrize(
    ("function", "whole", "parts", "asked_none", "own"),
    CASES,
    ids=[case[0].__name__ for case in CASES],
)
def test_keywords_have_the_names_defaults_and_order_of_the_specs(
    function: Callable[..., object],
    whole: list[type],
    parts: list[type],
    asked_none: Collection[str],
    own: Collection[str],
) -> None:
    signature = inspect.signature(function).parameters
    keywords = {n: p.default for n, p in signature.items() if n not in own and n[:3] != "on_"}
    first_spec_with: dict[str, type] = {}
    for spec in (*whole, *parts):
        first_spec_with |= {name: spec for name in declared(spec) if name not in first_spec_with}

    for name, default in keywords.items():
        expected = None if name in asked_none else getattr(first_spec_with[name], name)
        assert (name, default) == (name, expected)
    for spec in (*whole, *parts):
        names = [name for name in declared(spec) if first_spec_with[name] is spec]
        taken = [name for name in keywords if name in names]
        assert taken == [name for name in names if name in taken]
        if spec in whole:
            assert taken == [name for name in names if name not in own]


@pytest.mark.parametrize(
    "spec",
    [
        ExtractSpec,
        SolverSpec,
        HeadSpec,
        TrainSpec,
        RunSpec,
        EvaluateSpec,
        ExportSpec,
        ParitySpec,
        ProbeSpec,
        ReproduceSpec,
        DevicesSpec,
        ShareSpec,
        ForecastSpec,
    ],
)
def test_every_option_says_what_it_means_and_names_its_choices(spec: type) -> None:
    for name, field in declared(spec).items():
        said = field.metadata

        assert said["help"].endswith((".", "...")), name
        assert all(choice in said["help"] for choice in said["choices"]), name
        assert (field.default is None) <= bool(said["unset"] or name in ("cache", "backbone_for"))


def test_the_docstring_of_a_spec_says_what_each_field_means() -> None:
    told = " ".join((ExtractSpec.__doc__ or "").split())

    for name, field in declared(ExtractSpec).items():
        assert f"{name}: {field.metadata['help']}" in told
