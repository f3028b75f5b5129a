"""`featcache parity`: cached against end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from featcache.config import ExtractSpec, HeadSpec, ParitySpec, RunSpec, TrainSpec
from featcache_cli.commands.extract import show_extraction
from featcache_cli.console import ProgressDisplay, headline, note, reset_progress, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.notebook.parity import ParityReport


@takes(
    options_of(
        RunSpec,
        "cache",
        help={"cache": "Compare this cache. Without it, parity extracts one in fp32."},
    ),
    options_of(
        ExtractSpec,
        "dataset",
        "backbone",
        optional=True,
        help={
            "dataset": "Dataset. With --cache: where its images are.",
            "backbone": "A model of timm, or a torchvision model whose classifier directly follows "
            "its features (vgg, resnet, mobilenet, ...).",
        },
    ),
    options_of(ExtractSpec, "weights"),
    options_of(ExtractSpec, "bn", "preprocess", "image_size", "views", optional=True),
    options_of(ParitySpec, "limit", "levels", "epochs"),
    options_of(HeadSpec, "hidden", "reg", group="Training"),
    options_of(ParitySpec, "lr"),
    options_of(TrainSpec, "batch_size", "seed"),
    options_of(ParitySpec, "seeds", "as_notebook"),
    options_of(ExtractSpec, "cache_dir", "data_dir"),
)
def parity(*, json: JsonOption = False, **options: Any) -> None:
    """Prove that training on a cache is training end to end.

    Both sides start from one head and see the same batches. Exit 1 if a figure falls short.
    """
    from featcache import parity as run

    display = ProgressDisplay()
    report = run(
        **options,
        on_progress=lambda progress: show_extraction(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        checks = [{**vars(check), "holds": check.holds} for check in report.checks]
        show_json({**vars(report), "checks": checks, "holds": report.holds})
    else:
        _show(report)
    if not report.holds:
        raise typer.Exit(1)


def _show(report: ParityReport) -> None:
    show_table(
        ["what", "#figure", "tolerance", ""],
        (
            (
                c.what,
                f"{c.figure:.6g}",
                f"{'>=' if c.at_least else '<='} {c.tolerance:.6g}",
                "holds" if c.holds else "FALLS SHORT",
            )
            for c in report.checks
        ),
    )
    show_facts({c.what: f"level {c.level}: {c.detail}" for c in report.checks})
    n_held = sum(check.holds for check in report.checks)
    note(f"{n_held} of {len(report.checks)} figures hold")
    if report.beside_notebook:
        headline("The backbone in training mode, as in the notebook, beside a cache")
        show_table(
            ["cache", "#test_acc", "#as notebook", "#test_loss", "#as notebook"],
            (
                (
                    comparison.bn,
                    f"{comparison.test_acc:.4f}",
                    f"{comparison.notebook_test_acc:.4f}",
                    f"{comparison.test_loss:.4f}",
                    f"{comparison.notebook_test_loss:.4f}",
                )
                for comparison in report.beside_notebook
            ),
        )
        show_facts(
            {
                comparison.bn: f"{comparison.agreement:.1%} of the predictions are equal; losses "
                f"differ by {comparison.loss_difference:.2g} at most"
                for comparison in report.beside_notebook
            }
        )
