"""`featcache report`: what trained heads are worth, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from featcache.config import EvaluateSpec, ExtractSpec, ReportSpec, RunSpec
from featcache_cli import completion as complete
from featcache_cli.console import note, show_json
from featcache_cli.helpgroups import OUTPUT
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts

# An option, as it is not free: the heads are evaluated, and what a cache says is computed. Of a
# sweep of minutes that may be as long again.
ReportOption = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Also write a page about the heads beside the table, as `featcache report` does.",
        rich_help_panel=OUTPUT,
    ),
]


@takes(
    options_of(ReportSpec),
    options_of(EvaluateSpec, "split"),
    options_of(
        EvaluateSpec,
        *("draws", "seed"),
        help={"seed": "Seed of the bootstrap samples, and of which images are in the map."},
        optional=True,
        unset="as eval left them",
    ),
    options_of(ExtractSpec, "device", "cache_dir", "data_dir"),
    options_of(RunSpec, "runs_dir"),
)
def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            autocompletion=complete.runs,
            help="A run's folder, or part of its name. Of several, those that differ in their "
            "seeds alone are one system. Without one, the newest run is taken, or what a sweep "
            "chose if that is newer.",
        ),
    ] = None,
    *,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Write one HTML page about trained heads.

    It shows figures, curves, confusions, a map, the worst mistakes as pictures, and where all of it
    is from. It needs no network, and holds no script. Heads that were not evaluated are evaluated.
    """
    from featcache import report as run
    from featcache.store import human_bytes

    result = run(runs or None, **options, on_note=note)
    if json:
        show_json(result)
        return
    facts: dict[str, object] = {"report": result.path}
    if result.pdf is not None:
        facts["pdf"] = result.pdf
    facts |= {"size": human_bytes(result.nbytes), "runs": result.n_runs}
    facts["systems"] = ", ".join(result.systems)
    if len(result.systems) > 1 and result.best:
        facts["best"] = result.best
    show_facts(facts)


def report_beside(
    table: Path,
    runs: Sequence[Path],
    options: Mapping[str, Any],
    *,
    untested: Sequence[Path] = (),
) -> Path:
    """Write the page of a command that trained heads, beside its table.

    Args:
        table: The table.
        runs: The heads.
        options: Those of the command, of which folders and device are taken.
        untested: Heads that are shown with the figures of their training alone.
    """
    from featcache import report as run

    names = ("device", "cache_dir", "data_dir", "runs_dir")
    shared = {name: options[name] for name in names if name in options}
    page = table.with_suffix(".html")
    return run(runs, beside=untested, out=page, **shared, on_note=note).path
