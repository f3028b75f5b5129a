"""`featcache reproduce`: the notebook's five systems."""

from __future__ import annotations

from typing import Any

from featcache.config import ExtractSpec, RunSpec, TrainSpec
from featcache.training.notebook_systems import ReproduceSpec
from featcache_cli.commands.extract import show_extraction
from featcache_cli.commands.report import ReportOption, report_beside
from featcache_cli.commands.train_head import show_training
from featcache_cli.console import ProgressDisplay, note, reset_progress, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table


@takes(
    options_of(ExtractSpec, "dataset", help={"dataset": "The notebook's dataset, or any other."}),
    options_of(ReproduceSpec),
    options_of(
        ExtractSpec,
        "weights",
        "bn",
        "image_size",
        "device",
        "limit",
        help={"weights": "Weights of every backbone: DEFAULT, a file, or random."},
    ),
    options_of(TrainSpec, "seed", help={"seed": "The first seed of the heads."}, group="Systems"),
    options_of(RunSpec, "seeds", help={"seeds": "Heads of each system."}, group="Systems"),
    options_of(ExtractSpec, "cache_dir", "data_dir"),
    options_of(RunSpec, "runs_dir"),
)
def reproduce(*, report: ReportOption = False, json: JsonOption = False, **options: Any) -> None:
    """Run the notebook's five systems, and show its figures.

    Caches and heads that exist are used.
    """
    from featcache import reproduce as run
    from featcache.notebook.reproduce_table import figures

    extraction, training = ProgressDisplay(), ProgressDisplay()
    result = run(
        **options,
        on_progress=lambda progress: show_extraction(extraction, progress),
        on_train_progress=lambda progress: show_training(training, progress),
        on_note=note,
    )
    reset_progress()
    runs = [run for system in result.systems for run in system.runs]
    page = report_beside(result.markdown, runs, options) if report else None
    if json:
        show_json({**vars(result), "report": page} if report else result)
        return
    lines = [(s.name, s.backbone, s.bn, *figures(s)) for s in result.systems]
    notebooks = ["#notebook", "within 95%"]
    show_table(["system", "backbone", "bn", "#test_acc", *notebooks], (line[:6] for line in lines))
    seconds = ["#extraction s", "#training s", "#end to end s >="]
    show_table(
        ["system", "#test_loss", *notebooks, *seconds], ((line[0], *line[6:]) for line in lines)
    )
    pages = {} if page is None else {"report": page}
    show_facts({"table": result.markdown, "json": result.json, **pages})
