"""`featcache eval`: what a head is worth, and which of two is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import EvaluateSpec, ExtractSpec, RunSpec
from featcache.errors import UsageError, counted
from featcache_cli import completion as complete
from featcache_cli.console import note, show_json, tell_remarks
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.evaluation.compare import Comparison
    from featcache.evaluation.evaluate import Evaluation
    from featcache.evaluation.metrics import Estimate

_MATRIX_COLUMNS = 80


@takes(
    options_of(EvaluateSpec, "split"),
    options_of(
        RunSpec,
        "cache",
        help={
            "cache": "Use this cache instead of the one that the head was trained on; of other "
            "images, classes are matched by name."
        },
    ),
    options_of(EvaluateSpec, "draws", "seed", "tta"),
    options_of(ExtractSpec, "device", "cache_dir"),
    options_of(RunSpec, "runs_dir"),
)
def evaluate(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [OTHER]",
            autocompletion=complete.runs,
            help="A run's folder, or part of its name. Two runs are compared. Without one, the "
            "newest run is taken, or what a sweep chose if that is newer.",
        ),
    ] = None,
    *,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot",
            help="Draw curves and confusion matrix, as PNG and SVG; of two runs also the curves "
            "of both in one picture.",
            rich_help_panel="Figures",
        ),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Evaluate a head, with 95% intervals; or two, on the same images.

    Writes the figures, and a prediction for each image, into the run's folder.
    """
    from featcache.evaluation.compare import compare
    from featcache.evaluation.evaluate import evaluate as run
    from featcache.evaluation.plots import plot_evaluation, plot_together, require_matplotlib
    from featcache.heads.runs import find_run, newest_run

    runs_dir, cache = options["runs_dir"], options.pop("cache")
    n_runs = len(runs or ())
    if n_runs > 2:
        raise UsageError(f"{n_runs} runs were given, but at most two can be compared.")
    if cache is not None and n_runs > 1:
        raise UsageError("--cache belongs to one run. Leave it out to compare two.")
    if plot:
        require_matplotlib()
    if runs:
        paths = [find_run(name, runs_dir=runs_dir) for name in runs]
        note(f"evaluating {' and '.join(map(str, paths))}")
    else:
        taken = newest_run(runs_dir)
        paths = [taken.value]
        note(f"evaluating {taken.told}")
    comparison = None
    if len(paths) == 2:
        comparison = compare(
            *paths,
            **options,
            on_note=note,
        )
        evaluations = [*comparison.evaluations]
    else:
        evaluation = run(
            paths[0],
            cache=cache,
            **options,
            on_note=note,
        )
        evaluations = [evaluation]
    plots = [file for e in evaluations for file in plot_evaluation(e)] if plot else []
    if plot and len(evaluations) > 1:
        plots += plot_together(evaluations)
    if json:
        paired = vars(comparison).copy() if comparison is not None else None
        if paired is not None:
            del paired["evaluations"]  # they stand beside it
        figures = [evaluation.as_json() for evaluation in evaluations]
        show_json({"evaluations": figures, "comparison": paired, "plots": plots})
        return
    if comparison is not None:
        _show_comparison(comparison)
    for evaluation in evaluations:
        _show(evaluation)
        tell_remarks(evaluation.remarks)
    if plots:
        show_facts({"plots": ", ".join(str(file) for file in plots)})


def _show(evaluation: Evaluation) -> None:
    split = evaluation.split
    facts: dict[str, object] = {
        "run": evaluation.run,
        f"{split}_acc": _with_interval(evaluation.acc),
        f"{split}_loss": "-" if evaluation.loss is None else _with_interval(evaluation.loss),
        "macro_f1": _with_interval(evaluation.macro_f1),
        "balanced_acc": evaluation.balanced_acc and _with_interval(evaluation.balanced_acc),
        f"top{evaluation.k}_acc": evaluation.top_k and _with_interval(evaluation.top_k),
        **_of_training(evaluation),
        "auroc": "undefined" if evaluation.auroc is None else f"{evaluation.auroc:.4f}",
        "calibration": "-"
        if evaluation.calibration_error is None
        else f"{evaluation.calibration_error:.4f} expected calibration error",
        "images": f"{evaluation.n_images}, the mean of {evaluation.n_views} views of each"
        if evaluation.n_views > 1
        else evaluation.n_images,
        "predictions": evaluation.predictions,
    }
    show_facts({name: fact for name, fact in facts.items() if fact is not None})
    if evaluation.confusion is None:
        show_facts({"classes": evaluation.classes_file, "confusion": evaluation.confusion_file})
        return
    show_table(
        ["#images", "#precision", "#recall", "#f1", "class"],
        (
            (c.n, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}", c.name)
            for c in evaluation.classes
        ),
    )
    _show_confusion(evaluation, evaluation.confusion)


def _show_confusion(evaluation: Evaluation, counts: Sequence[Sequence[int]]) -> None:
    """Show how often each class is taken for another, where that fits a terminal."""
    names = [c.name for c in evaluation.classes]
    # Predictions by number: the names of ten classes do not fit side by side.
    n_digits = max(len(str(count)) for row in counts for count in row)
    width = len("label") + len(names) * (2 + n_digits) + 2 + max(map(len, names))
    if width > _MATRIX_COLUMNS:
        note(f"the confusion matrix is in {evaluation.confusion_file}")
        return
    show_table(
        ["#label", *(f"#{i}" for i in range(len(names))), "class; columns: predicted"],
        ((i, *row, name) for i, (row, name) in enumerate(zip(counts, names, strict=True))),
    )


def _show_comparison(comparison: Comparison) -> None:
    difference = comparison.acc_difference
    show_facts(
        {
            "first": comparison.first,
            "second": comparison.second,
            "first - second": f"{100 * difference.value:+.2f} points of accuracy, 95% interval "
            f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}",
            "only first": f"{comparison.n_only_first} of {counted(comparison.n_images, 'image')} "
            f"are right with the first alone",
            "only second": f"{comparison.n_only_second} with the second alone",
            "p": f"{comparison.p_value:.3g} (McNemar's exact test)",
        }
    )


def _of_training(evaluation: Evaluation) -> dict[str, str]:
    """Show the accuracy on images of the training, unless that is what was evaluated."""
    acc, n = evaluation.train_acc, evaluation.n_train_images
    if acc is None or n is None:
        return {}
    return {"train_acc": f"{acc:.4f}  of {counted(n, 'image')} it was trained on"}


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.4f}  95% interval {estimate.low:.4f} to {estimate.high:.4f}"
