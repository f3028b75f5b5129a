"""`featcache doctor`: what this machine has for featcache, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from featcache.config import ExtractSpec, RunSpec
from featcache_cli.console import note, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.streams import flush_answer
from featcache_cli.tables import show_row

if TYPE_CHECKING:
    from featcache.machine.finding import Checkup, Finding

_WIDTHS = (7, 13)


@takes(options_of(ExtractSpec, "cache_dir", "data_dir"), options_of(RunSpec, "runs_dir"))
def doctor(*, cache_dir: str, data_dir: str, runs_dir: str, json: JsonOption = False) -> None:
    """Tell what this machine has for featcache, and what to do where something is wrong.

    Nothing is downloaded, and nothing stays on the disk. The exit code is 0 if featcache can work,
    warnings or not, and 1 if something keeps it from working.
    """
    from featcache import doctor as run

    tell = None if json else _show
    checkup = run(cache_dir=cache_dir, data_dir=data_dir, runs_dir=runs_dir, on_finding=tell)
    if json:
        show_json({"can_work": checkup.can_work, "findings": checkup.findings})
    else:
        _sum_up(checkup)
    if not checkup.can_work:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    """Show a finding as it comes: to ask torch takes seconds."""
    _show_cells(finding.state, finding.subject, finding.said)
    if finding.way_out:
        _show_cells("", "", finding.way_out)
    flush_answer()  # in a pipe too


def _show_cells(*cells: str) -> None:
    show_row(cells, _WIDTHS, are_numbers=[False] * len(cells))


def _sum_up(checkup: Checkup) -> None:
    n_warnings = sum(one.state == "warning" for one in checkup.findings)
    told = f"; warnings: {n_warnings}" if n_warnings else ""
    note(f"featcache can {'' if checkup.can_work else 'not '}work here{told}")
