"""What trained heads are worth, as one page that a browser opens without a network."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.config import EvaluateSpec, ExtractSpec, ReportSpec, RunSpec
from featcache.core.arguments import text
from featcache.core.replace import replace_file
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import MismatchError, UsageError
from featcache.heads.runs import find_run, newest_run
from featcache.insight.page.page_file import place_of_page
from featcache.insight.report.browser import find_browser, print_page, require_own_pdf
from featcache.insight.report.drawn import Drawn
from featcache.insight.report.gathering import gathered
from featcache.insight.report.judged_run import JudgedRun, judged, untested
from featcache.insight.report.write import written

RunGiven = str | os.PathLike[str]


@dataclass(frozen=True)
class ReportResult:
    """What `report` wrote.

    Attributes:
        path: The page.
        pdf: It as PDF; None if that was not asked for.
        nbytes: Size of the page.
        systems: Names of the systems, each a setting with its seeds.
        best: The name of the one with the highest accuracy; empty if none could be evaluated.
        n_runs: Runs of all systems.
    """

    path: Path
    pdf: Path | None
    nbytes: int
    systems: tuple[str, ...]
    best: str
    n_runs: int


@starting(*ANY_START)
def report(
    runs: RunGiven | Sequence[RunGiven] | None = None,
    *,
    out: str | os.PathLike[str] = ReportSpec.out,
    beside: Sequence[RunGiven] = (),
    paths: bool = ReportSpec.paths,
    audit: bool = ReportSpec.audit,
    pdf: bool = ReportSpec.pdf,
    split: str | None = EvaluateSpec.split,
    draws: int | None = None,
    seed: int | None = None,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_note: NoteCallback | None = None,
) -> ReportResult:
    """Write a page about runs: figures, curves, mistakes, where all of it is from.

    The figures of a head are those that `evaluate` left in its run's folder; where it did not, it
    is evaluated. What a cache says by itself is computed once and kept in a file beside it. The
    specs `featcache.config.ReportSpec`, `EvaluateSpec` and `ExtractSpec` say what the arguments
    mean.

    Args:
        runs: A run's folder, or part of its name; or several of one dataset. Those that differ in
            their seeds alone are one system. None is the newest, or what its sweep chose.
        beside: Runs that are shown with the figures of their training alone, such as those of
            settings that a sweep did not choose: to test them too would be to choose by the test.
        draws: Bootstrap samples of the intervals; None takes those of `evaluate` where they are
            kept, else as many as that does. Kept ones that were drawn otherwise are drawn anew.
        seed: Seeds them, and the choice of images in the map; None likewise.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such run.
        CorruptError: If a run is damaged.
        MismatchError: If the runs are of several datasets.
        StorageError: If nothing can be written there.
        UsageError: If `out` is something else than a page, or there is no browser for `pdf`.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> head = featcache.train_head(cache.path, solver="ncm", runs_dir=tmp / "runs")
        >>> featcache.report(head.path, out=tmp / "report.html").systems
        ('pixels-ncm',)
    """
    note = on_note or silent
    asked = ReportSpec(out=text("--out", out), paths=paths, audit=audit, pdf=pdf)
    drawn = Drawn(draws, seed)
    where = RunSpec(
        device=device,
        cache_dir=text("--cache-dir", cache_dir),
        runs_dir=text("--runs-dir", runs_dir),
    )
    split = replace(drawn.spec, split=split).split
    page = place_of_page(asked.out)
    browser = _browser_for(page) if asked.pdf else None
    folders = _found(runs, where.runs_dir, note)
    sound: list[Path] = []
    material = gathered(
        _known(folders, beside, split=split, drawn=drawn, where=where, on_note=note, sound=sound),
        drawn=drawn,
        paths=asked.paths,
        audited=asked.audit,
        where=where,
        data_dir=text("--data-dir", data_dir),
        images_per_s=_rates(folders),
        sound=sound,
        on_note=note,
    )
    content = written(material, made=f"{datetime.now(UTC):%Y-%m-%d}").encode()
    replace_file(page, content)
    best = material.best
    return ReportResult(
        path=page,
        pdf=None if browser is None else print_page(browser, page, page.with_suffix(".pdf")),
        nbytes=len(content),
        systems=tuple(system.name for system in material.systems),
        best="" if best is None else best.name,
        n_runs=sum(len(system.runs) for system in material.systems),
    )


def _browser_for(page: Path) -> str:
    """Find the browser that prints a page, before any work.

    Raises:
        UsageError: If there is none, or what lies in the place of the PDF is not featcache's.
    """
    browser = find_browser()
    require_own_pdf(page.with_suffix(".pdf"))
    return browser


def _known(
    folders: Sequence[Path],
    beside: Sequence[RunGiven],
    *,
    split: str | None,
    drawn: Drawn,
    where: RunSpec,
    on_note: NoteCallback,
    sound: list[Path],
) -> list[JudgedRun]:
    """Read all runs, and judge those of `folders`; to `sound` the caches are added that are.

    Raises:
        MismatchError: If they are of several datasets.
    """
    others = _named(beside, where.runs_dir)
    known = [
        judged(
            folder,
            split=split,
            drawn=drawn,
            device=where.device,
            cache_dir=where.cache_dir,
            on_note=on_note,
            sound=sound,
        )
        for folder in folders
    ]
    known += [untested(folder, cache_dir=where.cache_dir) for folder in others]
    _require_one_dataset(known)
    return known


def _found(
    runs: RunGiven | Sequence[RunGiven] | None, runs_dir: str, on_note: NoteCallback
) -> list[Path]:
    """Find the runs, each once."""
    if runs is None:
        taken = newest_run(runs_dir)
        on_note(f"report on {taken.told}")
        return [taken.value]
    given = [runs] if isinstance(runs, str | os.PathLike) else [*runs]
    if not given:
        raise UsageError("No run was given. Nothing was written. Give one, or leave it out.")
    return _named(given, runs_dir)


def _named(runs: Sequence[RunGiven], runs_dir: str) -> list[Path]:
    folders = {
        os.path.realpath(found): found
        for run in runs
        for found in [find_run(run, runs_dir=runs_dir)]
    }
    return [*folders.values()]


def _require_one_dataset(runs: Sequence[JudgedRun]) -> None:
    """Refuse runs of several datasets, whose figures do not stand in one table.

    Raises:
        MismatchError: Naming two of them.
    """
    first = runs[0]
    for run in runs[1:]:
        same = run.head.class_names == first.head.class_names
        if not same or _images_of(run) != _images_of(first):
            what = "images" if same else "classes"
            raise MismatchError(
                f"A report is of one dataset, but {first.path} is a head for {first.head.dataset} "
                f"and {run.path} one for {run.head.dataset}, and their {what} differ. Nothing was "
                f"written. Write a report for each."
            )


def _images_of(run: JudgedRun) -> object:
    return run.head.cache_identity.get("dataset_sha256")


def _rates(runs: Sequence[Path]) -> dict[str, float]:
    """Read the rates of extractions that `reproduce` noted beside the runs, by fingerprint."""
    rates: dict[str, float] = {}
    for folder in dict.fromkeys(run.parent for run in runs):
        for table in sorted(folder.glob("reproduce-*.json")):
            with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
                rates |= _positive(json.loads(table.read_bytes()).get("images_per_s"))
    return rates


def _positive(said: Any) -> Mapping[str, float]:
    if not isinstance(said, dict):
        return {}
    return {
        key: float(rate) for key, rate in said.items() if isinstance(rate, int | float) and rate > 0
    }
