"""`featcache predict`: what trained heads make of new images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import ExtractSpec, PredictSpec, RunSpec
from featcache.errors import UsageError, counted
from featcache_cli.console import (
    ProgressDisplay,
    compact_json,
    duration,
    fail,
    note,
    printable,
    rate_of,
    reset_progress,
    show_text,
)
from featcache_cli.helpgroups import OUTPUT
from featcache_cli.options import options_of, takes
from featcache_cli.stdin_paths import paths_from
from featcache_cli.streams import is_answer_gone
from featcache_cli.tables import show_facts
from featcache_cli.typed import local_path

if TYPE_CHECKING:
    from featcache.deployment.predict import ImagePrediction, Predictions
    from featcache.extraction.progress import Progress

_STDIN = "-"


@takes(
    options_of(PredictSpec),
    options_of(
        ExtractSpec,
        "backbone",
        "weights",
        optional=True,
        unset="what the head says",
        help={
            "backbone": "The backbone of the head, where that must not choose it: "
            "PACKAGE.MODULE:FUNCTION, timm:hf-hub:ORG/NAME or timm:local-dir:PATH.",
            "weights": "The file of its weights, where that has moved.",
        },
    ),
    options_of(ExtractSpec, "device", "batch_size", "n_workers", "compile", "cache_dir"),
    options_of(RunSpec, "runs_dir"),
)
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...|FOLDER|-",
            help="Image files, folders with images in them, or - for paths on stdin, one a line.",
        ),
    ],
    *,
    zero: Annotated[
        bool,
        typer.Option(
            "-0", help="Paths on stdin end with a zero byte.", rich_help_panel="Prediction"
        ),
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            help="Write a CSV file, which must not exist, and not to stdout.",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            callback=local_path,
        ),
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl", help="Write one JSON object a line to stdout.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", help="Write one JSON object to stdout.", rich_help_panel=OUTPUT),
    ] = False,
    **options: Any,
) -> None:
    """Say what trained heads make of new images.

    The backbone is built again, and compared with the one that made the heads' features. An image
    that cannot be read is a row with the reason, and the exit code is 3.
    """
    from featcache.deployment.predict import predict as run

    if sum((csv is not None, jsonl, json)) > 1:
        raise UsageError("--csv, --jsonl and --json exclude each other. Nothing was started.")
    table = None
    if csv is not None:
        from featcache.deployment.prediction_table import require_no_table

        table = require_no_table(csv)
    display = ProgressDisplay()
    is_on_screen = table is None and sys.stdout.isatty()  # then the answers are the progress
    predictions = run(
        _images(images, zero=zero),
        **options,
        on_progress=lambda p: _after_batch(display, p, is_bar_shown=not is_on_screen),
        on_note=note,
    )
    with contextlib.closing(predictions):
        if table is not None:
            from featcache.deployment.prediction_table import write_table

            write_table(table, predictions)
        elif json:
            _show_object(predictions)
        else:
            _show_lines(predictions, as_json=jsonl)
    reset_progress()
    if table is not None:
        show_facts({"written": table, "images": predictions.n_images})
    if predictions.n_unreadable:
        n = counted(predictions.n_images, "image")
        fail(f"{predictions.n_unreadable} of {n} could not be read.", kind="unreadable")
        raise typer.Exit(3)


def _images(typed: Sequence[str], *, zero: bool) -> Iterable[Any]:
    """Take the images that are named, or paths as they come."""
    if _STDIN not in typed:
        if zero:
            raise UsageError("-0 is for paths on stdin. Nothing was started. Write - for them.")
        return typed
    if len(typed) > 1:
        raise UsageError("- stands for all images, so it stands alone. Nothing was started.")
    return paths_from(sys.stdin.fileno(), ends_with=b"\0" if zero else b"\n")


def _show_lines(predictions: Predictions, *, as_json: bool) -> None:
    """Write a line for each answer, as long as somebody reads them."""
    are_several = len(predictions.runs) > 1
    for one in predictions:
        show_text((compact_json(_plain(one)) if as_json else _line(one, are_several)) + "\n")
        if is_answer_gone():
            return


def _show_object(predictions: Predictions) -> None:
    """Write one JSON object, whose list grows as the answers come; it is closed also at Ctrl-C."""
    show_text('{"runs": ' + compact_json(predictions.runs) + ', "predictions": [')
    separator = "\n"
    try:
        for one in predictions:
            show_text(separator + compact_json(_plain(one)))
            separator = ",\n"
            if is_answer_gone():
                return
    finally:
        counts = {"n_images": predictions.n_images, "n_unreadable": predictions.n_unreadable}
        show_text("\n], " + compact_json(counts)[1:] + "\n")


def _plain(one: ImagePrediction) -> dict[str, Any]:
    answer: dict[str, Any] = {"image": one.image, "run": one.run}
    if one.reason:
        return {**answer, "reason": one.reason}
    return {**answer, "classes": one.classes, "probabilities": one.probabilities}


def _line(one: ImagePrediction, are_several: bool) -> str:
    run = f"  {one.run.name}" if are_several else ""
    if one.reason:
        return f"{printable(one.image)}{run}  {printable(one.reason)}"
    pairs = zip(one.classes, one.probabilities, strict=True)
    told = "  ".join(f"{printable(name)} {p:.4f}" for name, p in pairs)
    return f"{printable(one.image)}{run}  {told}"


def _after_batch(display: ProgressDisplay, progress: Progress, *, is_bar_shown: bool) -> None:
    """Hand over the answers so far to who reads stdout, and tell how far it is."""
    sys.stdout.flush()
    if not is_bar_shown:
        return
    detail = rate_of(progress.images_per_s)
    if progress.n_total:
        detail += f", {duration(progress.left_s)} left"
    else:
        detail = f"{counted(progress.n_done, 'image')}, {detail}"
    display.show("predicting", progress.n_done, progress.n_total, detail)
