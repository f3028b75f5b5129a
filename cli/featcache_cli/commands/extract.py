"""`featcache extract`: images through a frozen backbone into a cache."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import DevicesSpec, ExtractSpec, ForecastSpec, ShareSpec
from featcache.core.arguments import option_name
from featcache.core.options import declared
from featcache.core.store_urls import is_in_store
from featcache.errors import UsageError, counted
from featcache_cli.commands.extract_plan import show_forecast
from featcache_cli.console import (
    ProgressDisplay,
    duration,
    fail,
    note,
    rate_of,
    reset_progress,
    show_json,
)
from featcache_cli.options import JsonOption, also_in_a_store, options_of, repeated, takes
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache.extraction.progress import Progress
    from featcache.extraction.result import ExtractResult
    from featcache.scale.share_result import ShareResult

_SHOWN_FAILURES = 10
_STAGES = {
    "digest": "reading the dataset",
    "weights": "reading the weights",
    "probe": "trying the batch size",
    "engines": "trying engines",
    "check": "checking the rows that are there",
    "adapt": "adapting BatchNorm",
    "plan": "planning the shares",
    "shares": "shares",
    "upload": "uploading, MiB",
}


@takes(
    options_of(ExtractSpec, "dataset"),
    [
        repeated(option, "Repeat the option for several caches from one reading of the images.")
        for option in options_of(ExtractSpec, "backbone")
    ],
    also_in_a_store(options_of(ExtractSpec, without=("dataset", "backbone"))),
    options_of(DevicesSpec),
    options_of(ShareSpec),
    options_of(ForecastSpec),
)
def extract(
    *,
    devices: str | None,
    share: str | None,
    wait: float,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say what it will cost and what will bound it; compute nothing.",
            rich_help_panel="Forecast",
        ),
    ] = False,
    json: JsonOption = False,
    **options: Any,
) -> Any:
    """Run a dataset through frozen backbones once, into HDF5 files.

    The same command resumes an interrupted run. If the cache exists, the command checks the images
    and the weights, and returns.
    """
    from featcache import extract_all, extract_on_devices

    display = ProgressDisplay()
    of_forecast = ForecastSpec(**{name: options.pop(name) for name in declared(ForecastSpec)})
    specs = [ExtractSpec(**{**options, "backbone": name}) for name in options["backbone"]]
    if devices is not None:
        DevicesSpec(devices=devices)
        _refuse_with_devices(specs, plan=plan, share=share)
    if wait != ShareSpec.wait and (plan or share is None):
        raise UsageError("--wait is for computing a --share. Nothing was started.")
    if plan:
        return show_forecast(specs, of_forecast, share=share, json=json)
    _refuse_without_plan(of_forecast)
    _refuse_whole_in_store(options["cache_dir"], share)
    if share is not None:
        return _extract_share(specs, ShareSpec(share=share, wait=wait), display, json=json)

    def show(progress: Progress) -> None:
        show_extraction(display, progress)

    results: Sequence[ExtractResult]
    if devices is not None:
        [spec] = specs
        results = [extract_on_devices(spec, devices=devices, on_progress=show, on_note=note)]
    else:
        results = extract_all(specs, on_progress=show, on_note=note)
    reset_progress()
    _show_all(results, json=json)
    return results


def _show_all(results: Sequence[ExtractResult], *, json: bool) -> None:
    """Show each cache; the command ends with 3 where images could not be read."""
    if json:
        show_json(results if len(results) > 1 else results[0])
    else:
        for result in results:
            _show(result)
    failed = [result for result in results if result.failures]
    for result in failed:
        _tell_failures(result)
    if failed:
        raise typer.Exit(3)


def _refuse_with_devices(specs: Sequence[ExtractSpec], *, plan: bool, share: str | None) -> None:
    """Refuse what several devices do not do together."""
    if len(specs) != 1:
        raise UsageError(
            f"--devices takes one backbone, but {len(specs)} are named. Nothing was started. Run "
            f"a command for each."
        )
    for option, is_given in (("--plan", plan), ("--share", share is not None)):
        if is_given:
            raise UsageError(
                f"--devices and {option} do not go together. Nothing was started. Use --device "
                f"there; with --share, start one share for each device."
            )


def _refuse_whole_in_store(cache_dir: str, share: str | None) -> None:
    if share is None and is_in_store(cache_dir):
        raise UsageError(
            f"--cache-dir {cache_dir} is a URL of an object store, which holds parts. Nothing was "
            f"started. Add --share 0/1 for a single part, or --share I/N on each of N machines; "
            f"featcache cache merge brings the cache to a machine."
        )


def _refuse_without_plan(of_forecast: ForecastSpec) -> None:
    for name, value in vars(of_forecast).items():
        if value is not None:
            raise UsageError(
                f"{option_name(name)} is for --plan, which was not given. Nothing was started."
            )


def _extract_share(
    specs: Sequence[ExtractSpec], asked: ShareSpec, display: ProgressDisplay, *, json: bool
) -> ShareResult:
    """Compute one share. Images that could not be read are told when the parts are merged."""
    from featcache import extract_share
    from featcache.store import human_bytes

    if len(specs) != 1:
        raise UsageError(
            f"--share takes one backbone, but {len(specs)} are named. Nothing was started. Submit "
            f"a job for each."
        )
    result = extract_share(
        specs[0],
        share=asked.share,
        wait=asked.wait,
        on_progress=lambda progress: show_extraction(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json(result)
    else:
        facts: dict[str, object] = {result.outcome: result.path, "share": result.share}
        facts |= {"rows": result.n_rows, "size": human_bytes(result.nbytes)}
        facts["time"] = duration(result.seconds)
        if result.n_rows_computed:
            facts["rate"] = rate_of(result.images_per_s)
        show_facts(facts)
    if result.failures:
        note(
            f"{len(result.failures)} of {counted(result.n_rows, 'image')} could not be read; "
            f"the merge lists them"
        )
    if result.next:
        is_all = result.outcome == "planned" or result.share.startswith("ray/")
        when = "Then" if is_all else "Once all shares are there"
        note(f"{when}: {result.next}")
    return result


def show_extraction(display: ProgressDisplay, progress: Progress) -> None:
    """Show how far an extraction is."""
    stage = _STAGES.get(progress.stage, progress.split)
    detail = ""
    if progress.images_per_s:
        rate, left = rate_of(progress.images_per_s), duration(progress.left_s)
        parts = (rate, f"{left} left", _shares(progress.seconds))
        detail = ", ".join(part for part in parts if part)
    display.show(stage, progress.n_done, progress.n_total, detail)


_SHOWN = {"trunk": "backbone"}  # the key of --json is older than the word


def _shares(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values()) or 1.0
    percents = {phase: round(100 * s / total) for phase, s in seconds.items()}
    shown = {phase: percent for phase, percent in percents.items() if percent}
    return " ".join(f"{_SHOWN.get(phase, phase)} {percent}%" for phase, percent in shown.items())


def _show(result: ExtractResult) -> None:
    from featcache.store import human_bytes

    facts: dict[str, object] = {
        result.outcome: result.path,
        "rows": f"{result.n_rows} of {counted(result.n_features, 'feature')}",
        "size": human_bytes(result.nbytes),
        "time": duration(result.seconds),
    }
    if result.n_rows_computed:
        facts["rate"] = (
            f"{rate_of(result.images_per_s)} over {counted(result.n_rows_computed, 'row')} "
            f"({_shares(result.seconds_by_phase)})"
        )
    account = result.account
    if account is not None:
        saves = (
            f"an epoch through the backbone costs {duration(account.end_to_end_epoch_s)}, on this "
            f"cache about {duration(account.cache_epoch_s)}"
        )
        if account.break_even_epoch is not None:
            saves += f": worth it from epoch {account.break_even_epoch} on"
        facts["saves"] = saves
    show_facts(facts)


def _tell_failures(result: ExtractResult) -> None:
    from featcache.core.reporting import NOT_DECODED_HERE

    n = len(result.failures)
    n_here = sum(failure.reason.startswith(NOT_DECODED_HERE) for failure in result.failures)
    replace = " Replace the files and run the same command for another cache." if n > n_here else ""
    fail(
        f"{n} of {counted(result.n_rows, 'image')} could not be read. Their rows are marked "
        f"invalid; all others are kept.{replace}",
        kind="unreadable",
    )
    if n_here:
        note(
            f"What could not be decoded here can be computed where there is more memory or time: "
            f"featcache cache repair {shlex.quote(str(result.path))}"
        )
    for failure in result.failures[:_SHOWN_FAILURES]:
        note(f"  {failure.split} {failure.id}: {failure.reason}")
    if n > _SHOWN_FAILURES:
        path = shlex.quote(str(result.path))
        note(f"  and {n - _SHOWN_FAILURES} more: featcache cache info {path}")
