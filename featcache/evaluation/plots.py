"""Curves and the confusion matrix as pictures; needs the extra "plot" (matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from featcache.core.identity import fingerprint
from featcache.errors import UsageError
from featcache.evaluation.evaluate import Evaluation
from featcache.evaluation.metrics import row_shares
from featcache.heads.history import History, points_of
from featcache.heads.run_files import read_run
from featcache.heads.runs import RESULT_FILE
from featcache.store import replace_file

_LARGEST_WITH_NUMBERS = 20


def require_matplotlib() -> None:
    """Refuse to plot where matplotlib is not installed.

    Raises:
        UsageError: With the command that installs it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "Plots need matplotlib, which is not installed. Install it with: pip install "
            "'featcache[plot]'"
        )


def plot_evaluation(evaluation: Evaluation) -> list[Path]:
    """Draw the loss curves of a run and the confusion matrix of a split, as PNG and SVG.

    Both are titled with the run and its figures.

    Above 100 classes there are the curves alone.

    Returns:
        The files, in the run's folder.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    require_matplotlib()
    files, title = [], _title(evaluation)
    if history := _history_of(evaluation):
        files += save_figure(_curves(history, title=title), evaluation.run / "curves")
    if evaluation.confusion is None:  # a cell would be smaller than a pixel
        return files
    names = [figures.name for figures in evaluation.classes]
    figure = _confusion(evaluation.confusion, names, title=title)
    # Named as its table is: that of all views, or of other images, replaces no other.
    return files + save_figure(figure, evaluation.confusion_file.with_suffix(""))


def plot_together(evaluations: Sequence[Evaluation]) -> list[Path]:
    """Draw the validation curves of several runs into one picture, as PNG and SVG.

    Returns:
        The files, in the folder of the first run's dataset; none if no run has epochs.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    require_matplotlib()
    curves = {e.run: (_title(e), history) for e in evaluations if (history := _history_of(e))}
    if not curves:
        return []
    figure = new_figure(8, 4.5)
    panels = figure.subplots(1, 2)
    for axes, name, label in zip(
        panels, ("val_loss", "val_acc"), ("loss", "accuracy"), strict=True
    ):
        for title, history in curves.values():
            _draw(axes, history, name, label=title)
        axes.set(xlabel="epoch", ylabel=f"validation {label}")
    # Names are long: below both panels they have room.
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", fontsize=8)
    digest = fingerprint({"runs": [e.run.name for e in evaluations]})
    return save_figure(figure, evaluations[0].run.parent / f"curves-{digest[:8]}")


def _history_of(evaluation: Evaluation) -> History:
    """Read the epochs of a run; one that was stopped has none, nor one of another solver."""
    if not (evaluation.run / RESULT_FILE).exists():
        return ()
    return read_run(evaluation.run).history


def _title(evaluation: Evaluation) -> str:
    """Write which run it is, and how good it is."""
    acc, loss = evaluation.acc, evaluation.loss
    of_split = evaluation.confusion_file.stem.removeprefix("confusion-")
    told = f"{of_split}_acc {acc.value:.4f} ({acc.low:.4f} to {acc.high:.4f})"
    if loss is not None:
        told += f", {of_split}_loss {loss.value:.4f}"
    if evaluation.n_views > 1:
        told += f", the mean of {evaluation.n_views} views"
    return f"{shown_name(evaluation.run.name)}\n{told}"


def new_figure(width: float, height: float) -> Any:
    """Make an empty figure, in inches."""
    # The object interface leaves pyplot's global state, and the user's backend, alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curves(history: History, *, title: str) -> Any:
    figure = new_figure(8, 4)
    figure.suptitle(title, fontsize=10)
    losses, accuracy = figure.subplots(1, 2)
    for axes, names, label in (
        (losses, ("train_loss", "val_loss"), "loss"),
        (accuracy, ("val_acc",), "accuracy"),
    ):
        for name in names:
            _draw(axes, history, name, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend()
    return figure


def _draw(axes: Any, history: History, name: str, *, label: str) -> None:
    """Draw a figure over the epochs that have it."""
    points = points_of(history, name)
    axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=label)


def _confusion(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> Any:
    n = len(names)
    side = 3 + 0.4 * min(n, 60)
    figure = new_figure(side, side)
    axes = figure.subplots()
    shares = row_shares(counts)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_title(title, fontsize=10)
    if n <= _LARGEST_WITH_NUMBERS:
        shown = [shown_name(name) for name in names]
        axes.set_xticks(range(n), shown, rotation=90)
        axes.set_yticks(range(n), shown)
        for i, row in enumerate(counts):
            for j, cell in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, str(cell), ha="center", va="center", color=colour, fontsize=8)
    return figure


def shown_name(name: str) -> str:
    """Write a name so that matplotlib draws it as it is, and an undecodable byte as its escape."""
    return name.encode(errors="backslashreplace").decode().replace("$", r"\$")


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Save a figure as PNG and SVG."""
    files = []
    for ending in ("png", "svg"):
        files.append(stem.with_name(f"{stem.name}.{ending}"))
        replace_file(files[-1], partial(figure.savefig, dpi=150, format=ending))
    return files
