"""The few-shot curve as a picture; needs the extra "plot" (matplotlib)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from featcache.core.identity import fingerprint
from featcache.core.paths import expanded
from featcache.evaluation.plots import new_figure, require_matplotlib, save_figure, shown_name
from featcache.images.datasets import dataset_slug
from featcache.insight.probe_result import ProbeResult


def plot_few_shot(result: ProbeResult, *, runs_dir: str | os.PathLike[str]) -> list[Path]:
    """Draw accuracy by the number of training images of each class, as PNG and SVG.

    Args:
        result: A probe with a few-shot curve.
        runs_dir: Folder of all runs; the picture stands beside those of the dataset.

    Returns:
        The files.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    require_matplotlib()
    shown = {p.per_class for p in result.caches[0].few_shot}
    asked = {"caches": [c.path.name for c in result.caches], "per_class": sorted(shown)}
    digest = fingerprint({**asked, "tries": result.tries})
    folder = expanded(runs_dir) / dataset_slug(result.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    return save_figure(_curves(result), folder / f"few-shot-{digest[:8]}")


def _curves(result: ProbeResult) -> Any:
    """Draw a panel for each classifier, with a line for each cache."""
    solvers = list(dict.fromkeys(p.solver for cache in result.caches for p in cache.few_shot))
    figure = new_figure(4 * len(solvers), 3.5)
    panels = figure.subplots(1, len(solvers), sharey=True, squeeze=False)[0]
    for axes, solver in zip(panels, solvers, strict=True):
        for cache in result.caches:
            points = [p for p in cache.few_shot if p.solver == solver]
            ns, means = [p.per_class for p in points], [p.acc.mean for p in points]
            [line] = axes.plot(ns, means, marker=".", label=shown_name(cache.path.stem))
            if all(p.acc.low is not None for p in points):
                lows, highs = [p.acc.low for p in points], [p.acc.high for p in points]
                axes.fill_between(ns, lows, highs, alpha=0.2, color=line.get_color())
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [f"{n}" for n in ns])
        axes.set(title=solver, xlabel="training images of each class")
    panels[0].set(ylabel="accuracy")
    panels[0].legend(fontsize=8)
    return figure
