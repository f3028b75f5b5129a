"""`featcache cache verify`: every digest of a cache, and those of its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from featcache.config import ExtractSpec
from featcache.core.store_urls import is_in_store
from featcache.errors import UsageError, counted
from featcache_cli.commands.cache_parts import verify_parts
from featcache_cli.console import ProgressDisplay, fail, note, reset_progress, show_json
from featcache_cli.options import CacheArgument, JsonOption, options_of, takes
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache import ImagesReport
    from featcache.store import VerifyReport


@takes(
    options_of(
        ExtractSpec,
        "dataset",
        help={"dataset": "Where the images are now, for --images."},
        optional=True,
        unset="where they were",
    ),
    options_of(ExtractSpec, "data_dir", "cache_dir"),
)
def verify(
    cache: CacheArgument,
    subset: Annotated[
        str,
        typer.Option(
            help="Share of the blocks to read, drawn at random: 5% or 0.05.",
            rich_help_panel="Check",
        ),
    ] = "100%",
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Read the images too, and name those that changed.",
            rich_help_panel="Check",
        ),
    ] = False,
    *,
    dataset: str | None,
    data_dir: str,
    cache_dir: str,
    json: JsonOption = False,
) -> None:
    """Check every digest of a cache; with --images, also those of the images.

    Exit 13 if a byte is not what was written, 10 if rows are still to be computed, 12 if the images
    are not those that the cache was made from. A folder of parts is checked part by part.
    """
    from featcache.scale.parts import is_folder_of_parts
    from featcache.store import find_cache, verify_cache

    share = _share(subset)
    if dataset is not None and not images:
        raise UsageError("--dataset says where the images are for --images, which was not given.")
    if is_in_store(cache) or is_folder_of_parts(cache):
        if images:
            raise UsageError("--images is for a cache; merge the parts first. Nothing was checked.")
        verify_parts(cache, subset=share, json=json)
        return
    path = find_cache(cache, cache_dir=cache_dir)
    note(f"checking {path}")
    display = ProgressDisplay()
    report = verify_cache(
        path,
        subset=share,
        on_progress=lambda done, total: display.show("blocks", done, total),
    )
    reset_progress()
    found = None
    if images and report.is_sound:
        from featcache import verify_images

        found = verify_images(
            path,
            dataset=dataset,
            data_dir=data_dir,
            on_progress=lambda done, total: display.show("images", done, total),
            on_note=note,
        )
        reset_progress()
    if json:
        of_images = {} if found is None else {"images": {**vars(found), "are_same": found.are_same}}
        answer = {**vars(report), "is_sound": report.is_sound, **of_images}
        if report.is_sound:
            del answer["mend_with"]  # changed images are not mended by a repair
        show_json(answer)
    else:
        _show(report, found)
    if not report.is_sound:
        _tell_damaged(report)
        raise typer.Exit(13)
    if report.n_missing:
        _tell_missing(report)
        raise typer.Exit(10)
    if found is not None and not found.are_same:
        _tell_changed(found)
        raise typer.Exit(12)


def _show(report: VerifyReport, found: ImagesReport | None) -> None:
    facts = {
        "cache": report.path,
        "checked": f"{report.n_blocks_checked} of {counted(report.n_blocks, 'block')}, "
        f"{report.n_rows_checked} of {counted(report.n_rows, 'row')}",
        "result": "sound" if report.is_sound else "DAMAGED",
    }
    if found is not None:
        state = "as they were" if found.are_same else "CHANGED"
        facts["images"] = f"{found.n_images} of {found.dataset}, {state}"
    show_facts(facts)


def _tell_damaged(report: VerifyReport) -> None:
    for damage in report.damages:
        fail(
            f"{damage.split} rows {damage.first_row} to {damage.last_row} (block {damage.block}): "
            f"{damage.what}",
            kind="damaged",
        )
    note(f"Mend it with: {report.mend_with}")


def _tell_missing(report: VerifyReport) -> None:
    from featcache.store import command_of, read_state

    manifest = read_state(report.path).manifest
    command = command_of(report.path, manifest.identity, manifest.provenance)
    note(
        f"It is incomplete: {report.n_missing} of {counted(report.n_blocks, 'block')} are not "
        f"written yet. To go on from there: {command}"
    )


def _tell_changed(found: ImagesReport) -> None:
    for image in found.changed:
        row = "" if image.row is None else f" (row {image.row})"
        fail(f"{image.split} {image.id}{row}: {image.what}", kind="changed")
    if found.difference:
        fail(found.difference, kind="changed")
    note("The cache itself is sound. Put the images back, or extract them into another cache.")


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as err:
        raise UsageError(f"--subset is {text!r}, but must be like 5% or 0.05.") from err
