"""`featcache probe`: how good a backbone is for these images."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import EvaluateSpec, ExtractSpec, ProbeSpec, RunSpec
from featcache.errors import UsageError, counted
from featcache_cli import completion as complete
from featcache_cli.console import (
    duration,
    note,
    show_json,
    show_text,
    tell_remarks,
)
from featcache_cli.options import CsvOption, JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.evaluation.metrics import Estimate, MeanEstimate
    from featcache.insight.probe_result import ProbeResult


@takes(
    options_of(ProbeSpec),
    options_of(
        EvaluateSpec,
        "draws",
        "seed",
        help={"seed": "Seed of the bootstrap samples and of all draws of images."},
    ),
    options_of(ExtractSpec, "device", "cache_dir"),
    options_of(
        RunSpec,
        "runs_dir",
        help={"runs_dir": "Folder of all runs; the picture of --per-class goes there."},
    ),
)
def probe(
    caches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CACHE]...",
            autocompletion=complete.caches,
            help="A cache file, or part of its name. Several must be of the same images, and are "
            "compared with the first. Without one, the cache that train-head takes.",
        ),
    ] = None,
    *,
    runs_dir: str,
    csv: CsvOption = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Tell how good a backbone is for these images, in seconds.

    The nearest class mean, the nearest neighbours and logistic regression are fitted on the
    features and tested, beside always naming the largest class. No head is kept.
    """
    from featcache import probe as run

    if json and csv:
        raise UsageError("--json and --csv both write to stdout. Give one of them.")
    result = run(caches or None, **options, on_note=note)
    pictures = _pictures(result, runs_dir)
    if json:
        show_json({**vars(result), "pictures": pictures})
        return
    if csv:
        from featcache.insight.probe_result import as_csv

        show_text(as_csv(result))
        return
    _show(result)
    if pictures:
        show_facts({"pictures": ", ".join(map(str, pictures))})
    tell_remarks(result.remarks)


def _pictures(result: ProbeResult, runs_dir: str) -> list[Any]:
    """Draw the few-shot curve, where there is one and matplotlib is installed."""
    if not any(cache.few_shot for cache in result.caches):
        return []
    if importlib.util.find_spec("matplotlib") is None:
        note("no picture of the curve without matplotlib: pip install 'featcache[plot]'")
        return []
    from featcache.insight.few_shot_plot import plot_few_shot

    return plot_few_shot(result, runs_dir=runs_dir)


def _show(result: ProbeResult) -> None:
    note(
        f"{counted(result.n_train, 'image')} of {counted(result.n_classes, 'class')} fitted, "
        f"{result.n_val} chose settings, {result.n_test} of split {result.split!r} tested, in "
        f"{duration(sum(cache.seconds for cache in result.caches))}"
    )
    _show_classifiers(result)
    if any(cache.few_shot for cache in result.caches):
        show_text("\n")
        _show_curve(result)


def _show_classifiers(result: ProbeResult) -> None:
    """Show a row for each classifier and cache, those of one classifier side by side."""
    several, first = len(result.caches) > 1, result.caches[0].classifiers
    has_balanced = first[0].balanced_acc is not None
    columns = ["classifier", *["cache"] * several, f"#{result.split}_acc", "95% interval"]
    columns += [*["#balanced_acc"] * has_balanced, f"#{result.split}_loss", "setting"]
    columns += ["#less first", "95% interval"] * several
    rows = []
    for figures in zip(*(cache.classifiers for cache in result.caches), strict=True):
        for cache, one in zip(result.caches, figures, strict=True):
            row = [one.solver, *[cache.path.stem] * several, f"{one.acc.value:.4f}"]
            row.append(_interval(one.acc))
            if one.balanced_acc is not None:
                row.append(f"{one.balanced_acc.value:.4f}")
            row += ["-" if one.loss is None else f"{one.loss:.4f}", one.setting or "-"]
            if one.difference is not None:
                row += [f"{one.difference.value:+.4f}", _interval(one.difference, signed=True)]
            rows.append([*row, *["-"] * (len(columns) - len(row))])
    show_table(columns, rows)


def _show_curve(result: ProbeResult) -> None:
    """Show a row for each number of images and cache, with a column for each classifier."""
    several, points = len(result.caches) > 1, result.caches[0].few_shot
    solvers = list(dict.fromkeys(point.solver for point in points))
    rows = []
    for n in dict.fromkeys(point.per_class for point in points):
        for cache in result.caches:
            accs = {p.solver: p.acc for p in cache.few_shot if p.per_class == n}
            rows.append([n, *[cache.path.stem] * several, *(_mean(accs[s]) for s in solvers)])
    show_table(["#of each class", *["cache"] * several, *(f"#{s}" for s in solvers)], rows)


def _mean(acc: MeanEstimate) -> str:
    if acc.low is None or acc.high is None:
        return f"{acc.mean:.4f}"
    below, above = acc.mean - acc.low, acc.high - acc.mean
    if abs(above - below) > 1e-9:  # an end was cut off: no accuracy is beyond 0 or 1
        return f"{acc.mean:.4f}, {acc.low:.4f} to {acc.high:.4f}"
    return f"{acc.mean:.4f} ± {above:.4f}"


def _interval(estimate: Estimate, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.low:{sign}.4f} to {estimate.high:{sign}.4f}"
