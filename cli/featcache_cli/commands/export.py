"""`featcache export`: a head and its backbone as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featcache.config import ExportSpec, ExtractSpec, RunSpec
from featcache_cli import completion as complete
from featcache_cli.console import note, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts


@takes(
    options_of(ExportSpec),
    options_of(
        ExtractSpec,
        "backbone",
        "weights",
        optional=True,
        unset="as the head says",
        help={
            "backbone": "The head's backbone, where it is code of one's own or a folder.",
            "weights": "The backbone's weights, where they are elsewhere now.",
        },
    ),
    options_of(ExtractSpec, "cache_dir", "data_dir"),
    options_of(RunSpec, "runs_dir"),
)
def export(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            autocompletion=complete.runs,
            help="A run's folder, or part of its name. Without one, the newest run is taken, or "
            "what a sweep chose if that is newer.",
        ),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write (flowers.onnx), or the folder of hf.", rich_help_panel="File"
        ),
    ],
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Write a head with its backbone as one file.

    The file takes images and gives probabilities. A new process then loads it and compares 64
    images with PyTorch. A model card and a description stand beside it. For the features of a cache
    there is `featcache cache export`.
    """
    from featcache.deployment.exports.export import export as run_export
    from featcache.heads.runs import find_run, newest_run
    from featcache.store import human_bytes

    runs_dir = options["runs_dir"]
    if run is None:
        taken = newest_run(runs_dir)
        path, told = taken.value, taken.told
    else:
        path = find_run(run, runs_dir=runs_dir)
        told = str(path)
    note(f"exporting {told}")
    result = run_export(path, out=out, **options, on_note=note)
    if json:
        show_json(result)
        return
    show_facts(
        {
            "exported": result.path,
            "run": path,
            "takes": result.input,
            "classes": result.n_classes,
            "size": human_bytes(result.nbytes),
            "check": "left out" if result.check is None else result.check.told,
            "card": result.card,
        }
    )
