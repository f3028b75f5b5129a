"""Make a new partial file: its space reserved, and all that is known of it in its place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from featcache.core.files import (
    make_folder,
    named_failures,
    preallocate,
    require_file_size,
    require_space,
    sync_folder,
    write_at,
)
from featcache.core.side_files import newborn_path, partial_path
from featcache.store.columns import SplitRows, known_columns, require_known
from featcache.store.digest import skeleton_digest
from featcache.store.hdf5_file import FilePlan, create_skeleton, largest_nbytes
from featcache.store.ledger import SKELETON_SLOT, Slot, numeric_class_id, pack_slot
from featcache.store.manifest import MANIFEST_OFFSET, Manifest

_ROWS_AT_ONCE = 1 << 16


def make_partial_file(path: Path, plan: FilePlan, rows: Mapping[str, SplitRows]) -> None:
    """Make `<path>.partial`; the raises are those of `CacheWriter.create`.

    It gets that name when it is whole, so a kill leaves no partial file without its structure.
    """
    partial = partial_path(path)
    nbytes = _plan_nbytes(plan)
    newborn = newborn_path(path)
    with named_failures(newborn, kept="Nothing was changed."):
        newborn.unlink(missing_ok=True)  # a kill may have left one, with its space reserved
    require_space(path.parent, nbytes=nbytes)
    with named_failures(partial, kept="Nothing was written."):
        make_folder(path.parent)
        try:
            # Before libhdf5, which meets such a limit in memory too, and then tells tracebacks.
            require_file_size(largest_nbytes(plan))
            with _opened(newborn, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
                preallocate(fd, nbytes)
                manifest = create_skeleton(fd, plan)
                _fill_skeleton(fd, manifest, rows)
                os.fsync(fd)
            newborn.replace(partial)
            sync_folder(path.parent)
        except BaseException:
            newborn.unlink(missing_ok=True)
            raise


def _plan_nbytes(plan: FilePlan) -> int:
    """Bytes of the rows of a planned file: its size but for a few alignment gaps."""
    return sum(e.nbytes for s in plan.splits.values() for e in s.columns().values())


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)


def _fill_skeleton(fd: int, manifest: Manifest, rows: Mapping[str, SplitRows]) -> None:
    write_at(fd, manifest.to_bytes(), MANIFEST_OFFSET)
    for name, layout in manifest.splits.items() if rows else ():
        require_known(rows[name], layout.columns, name)
        for start in range(0, layout.n_rows, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, layout.n_rows)
            for column, part in known_columns(rows[name], layout.columns, start, stop).items():
                write_at(fd, part, layout.columns[column].rows(start, stop)[0])
    slot = Slot(skeleton_digest(fd, manifest), numeric_class_id(manifest.numerics))
    write_at(fd, pack_slot(SKELETON_SLOT, slot, 0), manifest.ledger.offset)
