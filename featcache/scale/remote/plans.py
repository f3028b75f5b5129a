"""The plan of the parts in a store, and the folder of this machine where its parts are made."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from featcache.config import ExtractSpec
from featcache.core.backbone_kinds import backbone_slug
from featcache.core.files import make_folder, named_failures
from featcache.core.identity import canonical_json
from featcache.core.paths import user_cache_folder
from featcache.core.replace import write_new_file
from featcache.core.reporting import NoteCallback
from featcache.core.store_urls import PARTS, StoreUrl
from featcache.errors import CacheMissingError, CorruptError, MismatchError
from featcache.images.datasets import dataset_slug
from featcache.scale.plan_file import NAME, PartsPlan, asked_of, read_plan
from featcache.scale.remote.layout import PartsThere
from featcache.scale.remote.objects import Objects

_OLD_S = 60


def scratch_of(url: StoreUrl) -> Path:
    """Name the folder of this machine for what is made for a store, or copied from it.

    It lies in XDG_CACHE_HOME, or in `~/.cache`; without a home, in the folder of temporary files.
    """
    home = user_cache_folder() or Path(tempfile.gettempdir()) / "featcache"
    return home / "stores" / hashlib.sha256(str(url).encode()).hexdigest()[:16]


def plan_there(
    objects: Objects,
    spec: ExtractSpec,
    n_shares: int,
    *,
    make: Callable[[ExtractSpec], Path],
    on_note: NoteCallback,
) -> PartsPlan:
    """Find the plan for these options in a store, or make it and put it there.

    Args:
        objects: Of the store's --cache-dir.
        spec: What the cache is to be.
        n_shares: How many shares there are.
        make: Makes a plan in the --cache-dir of a spec, and gives its path.
        on_note: Told what was chosen.

    Returns:
        The plan, as a copy in a folder of this machine.

    Raises:
        CorruptError: If the plan that is there is damaged.
        MismatchError: If it is of another number of shares, or of a later featcache.
    """
    if found := _found(objects, spec, n_shares, on_note):
        return found
    made, content = _made(spec, scratch_of(objects.url) / f"plans-{n_shares}", make)
    name = f"{made.parent.parent.name}/{made.parent.name}"
    if objects.put_new(f"{name}/{NAME}", content):
        on_note(f"the plan was uploaded: {objects.url}/{name}/{NAME}")
    else:
        on_note("another machine was first to write the plan; this one goes on with that")
    there = PartsThere(objects, objects.url.below(name))
    # The fingerprint in its name says that it is of this cache. Its options may be written
    # otherwise, as another path to the same images.
    try:
        found, _ = copied_plan(there, scratch_of(objects.url))
    except (CorruptError, MismatchError) as err:
        raise type(err)(
            f"{there.url}/{NAME} cannot be used. Nothing was changed. Remove that object with a "
            f"tool of the store, and run the same command again. Of the copy here: {err}"
        ) from err
    _require_shares(there, found, n_shares)
    return found


def copied_plan(there: PartsThere, scratch: Path) -> tuple[PartsPlan, bytes]:
    """Copy the plan of a folder in a store below a folder of this machine, and read it.

    Each plan has a place of its own there, so that parts of two plans never meet.

    Raises:
        CacheMissingError: If there is none.
        CorruptError: If it is damaged.
    """
    content = there.plan_bytes()
    if content is None:
        raise CacheMissingError(
            f"There is no {there.url}/{NAME}, so that is no folder of parts. Nothing was done. The "
            f"first share makes it: featcache extract ... --share 0/N --cache-dir "
            f"{there.url.store}"
        )
    dataset, name = there.url.path.split("/")[-2:]
    folder = scratch / hashlib.sha256(content).hexdigest()[:16] / dataset / name
    write_plan(folder, content)
    return read_plan(folder), content


def write_plan(folder: Path, content: bytes) -> None:
    """Write a plan into a folder of this machine.

    Raises:
        MismatchError: If another plan is there.
    """
    path = folder / NAME
    with named_failures(path, kept="Nothing was computed."):
        make_folder(folder)
    if not write_new_file(path, lambda file: file.write(content)) and path.read_bytes() != content:
        raise MismatchError(
            f"{path} is another plan than the one in the store. Nothing was changed. Move {folder} "
            f"away, or choose another --cache-dir."
        )


def _found(
    objects: Objects, spec: ExtractSpec, n_shares: int, on_note: NoteCallback
) -> PartsPlan | None:
    """Look through the folders of this dataset and backbone for the plan of these options."""
    pattern = f"{backbone_slug(spec.backbone)}-*{PARTS}"
    asked = canonical_json(asked_of(spec))
    for folder in objects.folders(dataset_slug(spec.dataset)):
        if not fnmatchcase(folder.rpartition("/")[2], pattern):
            continue
        there = PartsThere(objects, objects.url.below(folder))
        try:
            plan, _ = copied_plan(there, scratch_of(objects.url))
        except CacheMissingError:
            continue
        except (CorruptError, MismatchError) as err:
            on_note(f"a plan was left out: {err}")
            continue
        if canonical_json(plan.asked) != asked:
            continue
        _require_shares(there, plan, n_shares)
        return plan
    return None


def _require_shares(there: PartsThere, plan: PartsPlan, n_shares: int) -> None:
    if plan.n_shares != n_shares:
        raise MismatchError(
            f"{there.url}/{NAME} is of another number of shares (n_shares: found "
            f"{plan.n_shares}, wanted {n_shares}). Nothing was changed. Go on with --share "
            f"I/{plan.n_shares}, or remove that folder with a tool of the store to begin anew."
        )


def _made(
    spec: ExtractSpec, plans: Path, make: Callable[[ExtractSpec], Path]
) -> tuple[Path, bytes]:
    """Make a plan on this machine; several shares here wait for one of them.

    A plan of an earlier run is removed: the images may be others by now. Another share may do so
    at any time, so a plan that is gone is made again.
    """
    while True:
        for old in plans.glob(f"*/*{PARTS}/{NAME}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > _OLD_S:
                    old.unlink()
        made = make(replace(spec, cache_dir=str(plans)))
        with contextlib.suppress(FileNotFoundError):
            return made, made.read_bytes()
