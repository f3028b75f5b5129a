"""`featcache cache ls | info | repair | rm`; the other commands have files of their own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import ExtractSpec
from featcache.core.store_urls import is_in_store
from featcache.errors import FeatcacheError, UsageError, counted
from featcache_cli.commands import (
    cache_export,
    cache_import,
    cache_parts,
    cache_there,
    cache_verify,
)
from featcache_cli.commands.extract import show_extraction
from featcache_cli.console import ProgressDisplay, ask, fail, note, reset_progress, show_json
from featcache_cli.grammar import Command, Group
from featcache_cli.options import CacheArgument, JsonOption, also_in_a_store, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache.scale.parts import PartsDescription
    from featcache.store import CacheSummary

app = typer.Typer(
    name="cache",
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
    help="List, verify, repair, import, export, merge, remove caches.",
)
app.command("import", cls=Command)(cache_import.import_)
app.command("export", cls=Command)(cache_export.export)
app.command("verify", cls=Command)(cache_verify.verify)
app.command("merge", cls=Command)(cache_parts.merge)


@app.command("ls", cls=Command)
@takes(also_in_a_store(options_of(ExtractSpec, "cache_dir")))
def ls(
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help="A folder of parts: list its parts.")
    ] = None,
    *,
    cache_dir: str,
    json: JsonOption = False,
) -> None:
    """List all caches, complete or not, and folders of parts."""
    from featcache.scale.parts import list_parts
    from featcache.store import extract_command, list_caches

    if folder is not None:
        _refuse_other_folder(folder, cache_dir)
        cache_parts.list_parts(folder, json=json)
        return
    in_store = is_in_store(cache_dir)
    caches = [] if in_store else list_caches(cache_dir)
    parts, problems = [], [cache.problem for cache in caches if cache.problem]
    for path in cache_there.list_there(cache_dir) if in_store else list_parts(cache_dir):
        try:
            parts.append(cache_parts.described(str(path)))
        except FeatcacheError as err:  # one bad plan hides no other cache
            problems.append(str(err))
    if json:
        show_json({"caches": caches, "parts": parts, "problems": problems})
        return
    if not (caches or parts or problems):
        command = extract_command({"cache_dir": cache_dir}) + " --share 0/1" * in_store
        note(f"There are no caches in {cache_dir!r}. Make one with: {command}")
        return
    show_table(
        ["dataset", "backbone", "#rows", "#features", "#size", "state", "cache"],
        [
            *(_line(c, _done(c) if c.state == "incomplete" else c.state, c.path) for c in caches),
            *(_line(p, f"parts, {_done(p)}", p.folder) for p in parts),
        ],
    )
    for problem in problems:
        note(problem)


def _line(
    found: CacheSummary | PartsDescription, state: str, path: Path | str
) -> tuple[object, ...]:
    from featcache.store import human_bytes

    size = human_bytes(found.nbytes)
    return found.dataset, found.backbone, found.n_rows, found.n_features, size, state, path


def _done(found: CacheSummary | PartsDescription) -> str:
    return f"{100 * found.n_rows_done // found.n_rows}%"


def _refuse_other_folder(folder: str, cache_dir: str) -> None:
    """Refuse a folder of caches where one of parts is asked for, and both of them together."""
    from featcache.scale.parts import is_folder_of_parts

    if cache_dir != ExtractSpec.cache_dir:
        raise UsageError(
            f"--cache-dir lists the caches there, and {folder!r} its parts: give one of them."
        )
    if os.path.isdir(folder) and not is_folder_of_parts(folder):  # noqa: PTH112 - Path.is_dir raises
        raise UsageError(
            f"{folder!r} is no folder of parts: it has no plan.json. To list the caches in it: "
            f"featcache cache ls --cache-dir {shlex.quote(folder)}"
        )


@app.command("info", cls=Command)
@takes(options_of(ExtractSpec, "cache_dir"))
def info(cache: CacheArgument, *, cache_dir: str, json: JsonOption = False) -> None:
    """Say what a cache holds.

    Its identity, which the fingerprint is the hash of; what it was made with; its splits and the
    images that could not be read. Of a folder of parts: which shares are there, which are missing.
    """
    from featcache.scale.parts import is_folder_of_parts
    from featcache.store import describe_cache, find_cache

    if is_in_store(cache) or is_folder_of_parts(cache):
        cache_parts.tell_parts(cache, json=json)
        return
    description = describe_cache(find_cache(cache, cache_dir=cache_dir))
    if json:
        show_json(description)
        return
    facts: dict[str, object] = {
        "cache": description.path,
        "state": f"{description.state}, {description.n_rows_done} of "
        f"{counted(description.n_rows, 'row')}",
        "format version": description.format_version,
        "fingerprint": description.fingerprint,
    }
    facts |= {name: _words(value) for name, value in description.identity.items()}
    facts |= {f"made with {n}": v for n, v in description.provenance.items() if v is not None}
    facts |= {f"numerics {name}": value for name, value in description.numerics.items()}
    names = ", ".join(description.class_names[:12]) or "none: the images have no labels"
    facts["classes"] = names + (
        f", ... ({len(description.class_names)})" if len(description.class_names) > 12 else ""
    )
    for split in description.splits:
        facts[f"split {split.name}"] = (
            f"{counted(split.n_rows, 'row')} of {_words(split.row_shape)} {split.dtype}, "
            f"{len(split.failures)} invalid"
            + (f", {split.n_not_decoded} of them not decoded here" if split.n_not_decoded else "")
        )
    show_facts(facts)
    if description.n_foreign_blocks:
        note(f"Blocks that another numeric class computed: {description.n_foreign_blocks}.")
    if any(split.n_not_decoded for split in description.splits):
        note(
            f"What could not be decoded can be computed where there is more memory or time: "
            f"featcache cache repair {shlex.quote(str(description.path))}"
        )
    for split in description.splits:
        for image_id, reason in split.failures.items():
            note(f"{split.name} {image_id}: {reason}")


@app.command("repair", cls=Command)
@takes(
    options_of(
        ExtractSpec,
        "dataset",
        help={"dataset": "Where the images are now."},
        optional=True,
        unset="where they were",
    ),
    options_of(
        ExtractSpec,
        "backbone",
        help={"backbone": "The backbone, if it is a folder or a function of your own."},
        optional=True,
        unset="the one it was made with",
    ),
    options_of(
        ExtractSpec,
        "weights",
        help={"weights": "Weights of the backbone, as for extract."},
        optional=True,
        unset="those it was made with",
    ),
    options_of(
        ExtractSpec,
        "device",
        "n_workers",
        "cache_dir",
        "data_dir",
        "mix_numerics",
        "skip_undecodable",
        help={
            "mix_numerics": "Compute rows although this machine has different hardware or library "
            "versions; their last digits may differ.",
            "skip_undecodable": "Leave out the images that this machine cannot decode.",
        },
    ),
)
def repair(cache: CacheArgument, *, json: JsonOption = False, **options: Any) -> None:
    """Restore a cache: mend its structure, compute damaged rows again.

    A stopped repair goes on with the same command. Images that another machine could not decode
    are tried again.
    """
    from featcache import repair_cache
    from featcache.store import find_cache

    path = find_cache(cache, cache_dir=options.pop("cache_dir"))
    note(f"checking {path}")
    display = ProgressDisplay()
    report = repair_cache(
        path,
        **options,
        on_progress=lambda progress: show_extraction(display, progress),
        on_note=note,
    )
    reset_progress()
    if json:
        show_json({**vars(report), "was_sound": report.was_sound})
    else:
        show_facts(
            {
                "cache": report.path,
                "mended": ", ".join(report.mended) or "nothing",
                "computed": f"{report.n_rows_computed} of {counted(report.n_rows, 'row')}",
                "result": "was sound" if report.was_sound else "repaired",
            }
        )
    if report.n_not_decoded:
        fail(
            f"{counted(report.n_not_decoded, 'image')} could not be decoded here.",
            kind="unreadable",
        )
        raise typer.Exit(3)


@app.command("rm", cls=Command)
@takes(options_of(ExtractSpec, "cache_dir"))
def rm(
    cache: CacheArgument,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask.", rich_help_panel="Answer")
    ] = False,
    *,
    cache_dir: str,
    json: JsonOption = False,
) -> None:
    """Remove a cache; asks first."""
    from featcache.scale.parts import is_folder_of_parts
    from featcache.store import find_cache, human_bytes, remove_cache, summarise

    if is_folder_of_parts(cache):
        raise UsageError(
            f"{cache!r} is a folder of parts. Nothing was removed. To remove it with all its "
            f"parts: rm -r {shlex.quote(cache)}"
        )
    path = find_cache(cache, cache_dir=cache_dir)
    summary = summarise(path)
    size = f"{summary.state}, {counted(summary.n_rows_done, 'row')}, {human_bytes(summary.nbytes)}"
    if not yes and not ask(f"Remove {path} ({size})?"):
        note("Nothing was removed. To remove it without being asked: --yes")
        raise typer.Exit(1)
    removed: list[Path] = remove_cache(path)
    if json:
        show_json({"removed": removed})
    else:
        show_facts({"removed": ", ".join(map(str, removed))})


def _words(value: object) -> str:
    """Write a value of the manifest for people: "resize 224x224, interpolation bilinear, ..."."""
    if isinstance(value, Mapping):
        return ", ".join(f"{n} {_words(v)}" for n, v in value.items() if v is not None)
    if isinstance(value, list | tuple):
        is_size = all(isinstance(item, int) for item in value)
        return ("x" if is_size else " ").join(map(str, value))
    return str(value)
