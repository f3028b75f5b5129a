"""The parts in an object store: which are there, and whether their bytes are as written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.core.files import make_folder, named_failures, require_space
from featcache.core.reporting import NoteCallback
from featcache.core.store_urls import PARTS, StoreUrl, parts_url, store_url
from featcache.errors import CorruptError, MismatchError
from featcache.scale.part_checks import checked_part, other_numerics
from featcache.scale.parts import (
    COMPLETE,
    EMPTY,
    MISSING,
    OTHER_NUMERICS,
    PartsDescription,
    PartState,
    described,
)
from featcache.scale.plan_file import NAME, PartsPlan
from featcache.scale.remote.layout import SEAL, Marker, PartsThere, marker_name
from featcache.scale.remote.objects import Objects
from featcache.scale.remote.part_files import bring_part
from featcache.scale.remote.plans import copied_plan, scratch_of
from featcache.scale.shares import Share
from featcache.store import verify_cache

BlocksProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class FoundThere:
    """What is in a folder of parts in a store.

    Attributes:
        there: The folder.
        plan: A copy of its plan.
        plan_bytes: The plan as it is written.
        markers: By the number of the share.
        sizes: Of all objects of the folder, by their names in it.
    """

    there: PartsThere
    plan: PartsPlan
    plan_bytes: bytes
    markers: dict[int, Marker]
    sizes: dict[str, int]

    @property
    def description(self) -> PartsDescription:
        """The states of all shares; no part is read."""
        return self.described(tuple(_state_of(self, i) for i in range(self.plan.n_shares)))

    def described(self, parts: tuple[PartState, ...]) -> PartsDescription:
        """Describe the folder whose shares are in these states."""
        url = self.there.url
        own = {marker_name(self.plan, index) for index in self.plan.filled}
        strangers = sorted(n for n in self.sizes if n.startswith("markers/") and n not in own)
        return described(
            self.plan,
            parts,
            folder=str(url),
            cache=f"{url}/{SEAL}" if SEAL in self.sizes else "not sealed yet",
            strangers=tuple(f"{url}/{name}" for name in strangers),
            cache_dir=str(url.store),
        )


def find_there(there: PartsThere, scratch: Path) -> FoundThere:
    """Look what is in a folder of parts in a store.

    Raises:
        CacheMissingError: If it has no plan.
        CorruptError: If the plan or a marker is damaged.
    """
    plan, plan_bytes = copied_plan(there, scratch)
    folder = there.key("")
    sizes = {
        key.removeprefix(folder): nbytes
        for key, nbytes in there.objects.sizes(folder.rstrip("/")).items()
    }
    return FoundThere(there, plan, plan_bytes, there.markers(plan), sizes)


def describe_there(folder: str, *, on_note: NoteCallback) -> PartsDescription:
    """Say which parts of a cache are in a folder in a store; reads no part.

    Raises:
        CacheMissingError: If the folder has no plan.
        CorruptError: If the plan or a marker is damaged.
        StorageError: If the store does not answer.
    """
    url = parts_url(folder)
    with (
        Objects.at(url.store, on_note=on_note) as objects,
        tempfile.TemporaryDirectory(prefix="featcache-") as scratch,
    ):
        return find_there(PartsThere(objects, url), Path(scratch)).description


def list_there(cache_dir: str, *, on_note: NoteCallback) -> list[StoreUrl]:
    """List the folders of parts in a --cache-dir in a store, by URL."""
    url = store_url(cache_dir)
    with Objects.at(url, on_note=on_note) as objects:
        folders = [key for dataset in objects.folders("") for key in objects.folders(dataset)]
        named = [key for key in folders if key.endswith(PARTS)]
        plans = objects.get_all([f"{key}/{NAME}" for key in named])
        return [url.below(k) for k, plan in zip(named, plans, strict=True) if plan is not None]


def verify_there(
    folder: str, *, on_progress: BlocksProgress, on_note: NoteCallback
) -> PartsDescription:
    """Read every part in a folder in a store, one at a time, and compare all of its digests.

    Args:
        folder: Its URL.
        on_progress: Called with (shares done, shares).
        on_note: Told what is tried again.

    Returns:
        The states of the shares; a part whose bytes are not as written is "damaged".

    Raises:
        FeatcacheError: As `describe_there` raises them.
    """
    url = parts_url(folder)
    with (
        Objects.at(url.store, on_note=on_note) as objects,
        _scratch(url) as scratch,
    ):
        found = find_there(PartsThere(objects, url), scratch)
        largest = max((marker.nbytes for marker in found.markers.values()), default=0)
        require_space(scratch, nbytes=largest)
        parts = []
        for part in found.description.parts:
            on_progress(part.index, found.plan.n_shares)
            parts.append(_verified(found, part) if part.state == COMPLETE else part)
        return found.described(tuple(parts))


@contextlib.contextmanager
def _scratch(url: StoreUrl) -> Iterator[Path]:
    """Make a folder beside what is made for the store: that of temporary files may be small."""
    home = scratch_of(url.store)
    with named_failures(home, kept="Nothing was checked."):
        make_folder(home)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=home) as folder:
        yield Path(folder)


def _verified(found: FoundThere, part: PartState) -> PartState:
    """Bring a part here, compare it with its marker and the plan, and remove it."""
    copy = found.plan.part(part.index)
    try:
        bring_part(found.there, found.markers[part.index], copy, on_progress=lambda _, __: None)
        with checked_part(found.plan, part.index, mix_numerics=True, reads_rows=True) as opened:
            differing = other_numerics(found.plan, opened)
        damages = verify_cache(copy).damages
        if damages:
            raise CorruptError(f"{part.path}: {damages[0].what}")
    except (CorruptError, MismatchError) as err:
        word = "stranger" if isinstance(err, MismatchError) else "damaged"
        problem = f"{err} {way_to_anew(found, part.index)}"
        return replace(part, state=word, n_rows_done=0, problem=problem)
    finally:
        copy.unlink(missing_ok=True)
    return replace(part, state=OTHER_NUMERICS, problem=differing) if differing else part


def way_to_anew(found: FoundThere, index: int) -> str:
    """Say how the part of a share is made anew."""
    url, plan = found.there.url, found.plan
    command = plan.command(Share(index, plan.n_shares), cache_dir=str(url.store))
    seal = f" and {url}/{SEAL}" if SEAL in found.sizes else ""
    return (
        f"To compute it anew, remove {url}/{marker_name(plan, index)}{seal} with a tool of the "
        f"store, then: {command}"
    )


def _state_of(found: FoundThere, index: int) -> PartState:
    plan, url = found.plan, found.there.url
    first, stop = plan.blocks(index)
    if first == stop:
        return PartState(index, str(url), EMPTY)
    n_rows = sum(b.stop - b.start for b in plan.manifest.blocks(first, stop))
    marker = found.markers.get(index)
    if marker is None:
        return PartState(index, f"{url}/{marker_name(plan, index)}", MISSING, n_rows)
    path = f"{url}/{marker.name}"
    if found.sizes.get(marker.name) == marker.nbytes:
        return PartState(index, path, COMPLETE, n_rows, n_rows, marker.nbytes)
    there = found.sizes.get(marker.name, 0)
    problem = f"{path} has {there} bytes, but must have {marker.nbytes}."
    problem = f"{problem} {way_to_anew(found, index)}"
    return PartState(index, path, "damaged", n_rows, problem=problem)
