"""Curves and the confusion matrix as pictures; needs the extra "plot" (matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from featcache.errors import UsageError
from featcache.evaluation.evaluate import Evaluation
from featcache.heads.history import History
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

    Above 100 classes there are the curves alone.

    Returns:
        The files, in the run's folder.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    require_matplotlib()
    files = []
    if (evaluation.run / RESULT_FILE).exists():  # a run that was stopped has none
        history = read_run(evaluation.run).history
        if history:  # only an MLP has epochs
            files += save_figure(_curves(history), evaluation.run / "curves")
    if evaluation.confusion is None:  # a cell would be smaller than a pixel
        return files
    names = [figures.name for figures in evaluation.classes]
    figure = _confusion(evaluation.confusion, names, title=f"split {evaluation.split}")
    return files + save_figure(figure, evaluation.run / f"confusion-{evaluation.split}")


def new_figure(width: float, height: float) -> Any:
    """Make an empty figure, in inches."""
    # The object interface leaves pyplot's global state, and the user's backend, alone.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curves(history: History) -> Any:
    figure = new_figure(8, 3.5)
    losses, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in ("train_loss", "val_loss"):
        losses.plot(epochs, [row[name] for row in history], marker=".", label=name)
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend()
    accuracy.plot(epochs, [row["val_acc"] for row in history], marker=".", label="val_acc")
    accuracy.set(xlabel="epoch", ylabel="accuracy")
    accuracy.legend()
    return figure


def _confusion(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> Any:
    n = len(names)
    side = 3 + 0.4 * min(n, 60)
    figure = new_figure(side, side)
    axes = figure.subplots()
    shares = [[cell / max(1, sum(row)) for cell in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label", title=title)
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
