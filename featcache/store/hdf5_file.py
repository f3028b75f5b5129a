"""The HDF5 side of a cache: h5py makes the file once, and does not open it again."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5f, h5p, h5s, h5t

from featcache.core.files import preallocate, read_at, write_at
from featcache.core.identity import SHA256_BYTES
from featcache.errors import StorageError
from featcache.store.identity import Identity, NumericClass, Provenance
from featcache.store.ledger import SLOT_BYTES
from featcache.store.manifest import (
    FILE_VERSION,
    HDF5_SIGNATURE,
    HEADER,
    HEADER_LENGTH,
    MANIFEST_OFFSET,
    REASON_BYTES,
    BackboneStatistics,
    Extent,
    Manifest,
    SplitLayout,
)
from featcache.store.manifest_parser import SLOTS_LIMIT

_ERRNO = re.compile(r"errno = (\d+)")
_PAGE = 4096
_OTHER_HDF5 = f"Nothing was written: HDF5 {h5py.version.hdf5_version}"
_FIRST_WORD = HEADER.partition("{")[0].encode()
_FEATURE_ALIGNMENT = 8 << 20
_SMALL = 64 << 20
_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class SplitPlan:
    """One split of a file that is to be made."""

    n_rows: int
    feature_shape: tuple[int, ...]
    feature_dtype: str
    id_nbytes: int
    has_reasons: bool
    has_labels: bool = True
    has_image_sha256: bool = False

    def columns(self) -> dict[str, Extent]:
        """The columns, at no place yet."""
        columns = {"labels": Extent(0, (self.n_rows,), "<i8")} if self.has_labels else {}
        columns |= {
            "valid": Extent(0, (self.n_rows,), "|u1"),
            "features": Extent(0, (self.n_rows, *self.feature_shape), self.feature_dtype),
            "ids": Extent(0, (self.n_rows,), f"|S{self.id_nbytes}"),
        }
        if self.has_reasons:
            columns["reason"] = Extent(0, (self.n_rows,), f"|S{REASON_BYTES}")
        if self.has_image_sha256:
            columns["image_sha256"] = Extent(0, (self.n_rows, SHA256_BYTES), "|u1")
        return columns


@dataclass(frozen=True)
class FilePlan:
    """A file that is to be made; the attributes are those of Manifest.

    Attributes:
        rows_per_block: Doubled until a ledger holds all blocks.
        reference: Shape of the reference rows; None if there are none.
    """

    identity: Identity
    numerics: NumericClass
    provenance: Provenance
    class_names: tuple[str, ...]
    rows_per_block: int
    splits: Mapping[str, SplitPlan]
    statistics: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    reference: tuple[int, int] | None = None
    version: int = FILE_VERSION

    def draft(self) -> Manifest:
        """The manifest without places."""
        splits = {n: SplitLayout(p.n_rows, p.columns()) for n, p in self.splits.items()}
        statistics = None if self.statistics is None else BackboneStatistics(0, self.statistics)
        no_ledger = Extent(0, (0, SLOT_BYTES), "|u1")
        draft = Manifest(
            identity=self.identity,
            numerics=self.numerics,
            provenance=self.provenance,
            class_names=self.class_names,
            rows_per_block=self.rows_per_block,
            splits=splits,
            ledger=no_ledger,
            statistics=statistics,
            reference=None if self.reference is None else Extent(0, self.reference, "<f4"),
            file_size=0,
            version=self.version,
        )
        while draft.n_slots > SLOTS_LIMIT:
            draft = replace(draft, rows_per_block=2 * draft.rows_per_block)
        return replace(draft, ledger=no_ledger._replace(shape=(draft.n_slots, SLOT_BYTES)))


def plan_of(manifest: Manifest) -> FilePlan:
    """Say which plan such a file is made from."""
    splits = {}
    for name, layout in manifest.splits.items():
        features = layout.columns["features"]
        splits[name] = SplitPlan(
            n_rows=layout.n_rows,
            feature_shape=features.shape[1:],
            feature_dtype=features.dtype,
            id_nbytes=layout.columns["ids"].row_nbytes,
            has_reasons="reason" in layout.columns,
            has_labels="labels" in layout.columns,
            has_image_sha256="image_sha256" in layout.columns,
        )
    reference = manifest.reference
    return FilePlan(
        identity=manifest.identity,
        numerics=manifest.numerics,
        provenance=manifest.provenance,
        class_names=manifest.class_names,
        rows_per_block=manifest.rows_per_block,
        splits=splits,
        statistics=None if manifest.statistics is None else manifest.statistics.entries,
        reference=None if reference is None else (reference.shape[0], reference.shape[1]),
        version=manifest.version,
    )


def largest_nbytes(plan: FilePlan) -> int:
    """Bound the size of a planned file from above: its rows, its manifest, and the gaps."""
    extents = [e for s in plan.splits.values() for e in s.columns().values()]
    draft = plan.draft()
    small = len(draft.to_bytes()) + draft.ledger.nbytes + (len(extents) + 8) * 2 * _PAGE
    small += sum(e.nbytes for _, e in draft.parts.values())
    gaps = len(plan.splits) * _FEATURE_ALIGNMENT
    rows = sum(e.nbytes for e in extents)
    return rows + small + (gaps if rows >= _SMALL else 0)


def create_skeleton(fd: int, plan: FilePlan) -> Manifest:
    """Make the HDF5 file in the empty file `fd`: all datasets allocated, none filled.

    Every dataset is contiguous, without filters, times or variable-length parts, so that its
    bytes have one place for good. Manifest, ledger and labels come first and the features start at
    a multiple of 8 MiB (if there are 64 MiB of them): one read of the head opens a file anywhere.

    libhdf5 builds the file in memory, and we copy it to the disk. If libhdf5 wrote to the disk and
    a write failed while it closes the file, it would go on as if nothing had happened, and crash
    (SIGSEGV) when the process ends. The memory file is sparse: only the pages that libhdf5 touches
    exist, and only those are copied.

    Returns:
        The manifest with every place in it. It is not written yet, nor are labels and ids.

    Raises:
        OSError: If the disk cannot hold the file, or refuses a write.
    """
    manifest, parts = skeleton_parts(plan)
    preallocate(fd, manifest.file_size)
    for offset, content in parts:
        write_at(fd, content, offset)
    return manifest


def skeleton_parts(plan: FilePlan) -> tuple[Manifest, list[tuple[int, bytes]]]:
    """Make what `create_skeleton` writes.

    Returns:
        The manifest, and (offset, bytes) of all that is not zero.

    Raises:
        OSError: If memory, or a limit on the size of files, does not allow it.
    """
    with tempfile.TemporaryDirectory(prefix="featcache-", dir=_memory_folder()) as folder:
        path = Path(folder) / "skeleton.h5"
        try:
            manifest = _create(path, plan)
        except (OSError, RuntimeError) as err:
            found = _ERRNO.search(str(err))
            if found is None:
                raise
            # A full /dev/shm, or a limit on the size of files: h5py gives the number in its text.
            number = int(found[1])
            raise OSError(number, os.strerror(number)) from err
        with path.open("rb") as skeleton:
            return manifest, list(_written_parts(skeleton.fileno()))


def was_made_from(path: Path, plan: FilePlan) -> bool:
    """Tell whether a file too damaged to be read is one that was made from a plan.

    It still has the manifest's first word in its place, or HDF5's signature and the plan's length
    to the byte.
    """
    with path.open("rb") as file:
        signature = file.read(len(HDF5_SIGNATURE))
        file.seek(MANIFEST_OFFSET)
        first_word = file.read(len(_FIRST_WORD))
        nbytes = file.seek(0, os.SEEK_END)
    if first_word == _FIRST_WORD:
        return True
    return signature == HDF5_SIGNATURE and nbytes == skeleton_parts(plan)[0].file_size


def _memory_folder() -> str | None:
    """Find a folder in memory; None means the temporary folder (macOS has none in memory)."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else None


def _written_parts(fd: int) -> Iterator[tuple[int, bytes]]:
    """Read what is not a hole of a sparse file, as (offset, bytes)."""
    stop, end = 0, os.fstat(fd).st_size
    while stop < end:
        try:
            start = os.lseek(fd, stop, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # there is only a hole left
                return
            raise
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, read_at(fd, stop - start, start)


def _create(path: Path, plan: FilePlan) -> Manifest:
    draft = plan.draft()
    # 20 digits for each of the offsets that are still 0.
    n_places = 2 + sum(len(s.columns) for s in draft.splits.values())
    n_places += draft.reference is not None
    capacity = len(draft.to_bytes()) + 20 * (n_places + 1)
    columns = {
        f"{split}/{column}": extent
        for split, layout in draft.splits.items()
        for column, extent in layout.columns.items()
    }
    features = {name: e for name, e in columns.items() if name.endswith("/features")}
    last = ("/ids", "/image_sha256")
    ids = {name: e for name, e in columns.items() if name.endswith(last)}
    alignment = _FEATURE_ALIGNMENT if sum(e.nbytes for e in features.values()) >= _SMALL else _PAGE
    with _open(path, alignment=_PAGE, is_new=True) as h5:
        _dataset(h5, "manifest", (-(-capacity // _PAGE) * _PAGE,), "|u1", early=True)
        _dataset(h5, "ledger", draft.ledger.shape, "|u1", early=True)
        if draft.statistics is not None:
            _dataset(h5, "trunk/statistics", draft.statistics.extent.shape, "<f4", early=True)
        if draft.reference is not None:
            _dataset(h5, "trunk/reference", draft.reference.shape, "<f4", early=True)
        for name, extent in columns.items():
            late = name in features or name in ids
            _dataset(h5, name, extent.shape, extent.dtype, early=not late)
    # A late dataset gets its place, with the alignment of that moment, when it is first written.
    with _open(path, alignment=alignment) as h5:
        _touch(h5, features)
    with _open(path, alignment=_PAGE) as h5:
        _touch(h5, ids)
    return _placed(draft, path)


def _open(path: Path, *, alignment: int, is_new: bool = False) -> h5py.File:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    # 1.8: superblock 2, which HDF5 1.8 and everything since reads.
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    access.set_alignment(512, alignment)
    access.set_file_locking(False, True)  # nobody else knows the file
    if not is_new:
        return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDWR, access))
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)  # of the root group: HDF5 before 2.0 keeps them
    return h5py.File(h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access))


def _dataset(h5: h5py.File, name: str, shape: tuple[int, ...], dtype: str, *, early: bool) -> None:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY if early else h5d.ALLOC_TIME_LATE)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = np.dtype(dtype)
    if kind.kind == "S":
        kind = h5py.string_dtype("utf-8", kind.itemsize)
    space = h5s.create_simple(shape)
    h5d.create(h5.id, name.encode(), h5t.py_create(kind, logical=True), space, properties, links)


def _touch(h5: h5py.File, names: Mapping[str, Extent]) -> None:
    for name in names:
        dataset = h5[name]
        dataset[0] = np.zeros((), dataset.dtype)


def _placed(draft: Manifest, path: Path) -> Manifest:
    with h5py.File(path, "r", locking=False) as h5:
        if h5["manifest"].id.get_offset() != MANIFEST_OFFSET:
            raise StorageError(f"{_OTHER_HDF5} does not put the manifest at {MANIFEST_OFFSET}.")
        place: dict[str, int] = {}
        h5.visititems(lambda name, item: place.update({name: _offset(item)}))
        room = h5["manifest"].shape[0]
    splits = {
        split: SplitLayout(
            layout.n_rows,
            {c: e._replace(offset=place[f"{split}/{c}"]) for c, e in layout.columns.items()},
        )
        for split, layout in draft.splits.items()
    }
    statistics = draft.statistics
    if statistics is not None:
        statistics = replace(statistics, offset=place["trunk/statistics"])
    reference = draft.reference
    if reference is not None:
        reference = reference._replace(offset=place["trunk/reference"])
    manifest = replace(
        draft,
        splits=splits,
        statistics=statistics,
        reference=reference,
        ledger=draft.ledger._replace(offset=place["ledger"]),
        file_size=path.stat().st_size,
    )
    if not HEADER_LENGTH < len(manifest.to_bytes()) <= room:
        raise StorageError(f"{_OTHER_HDF5} leaves {room} bytes of room for the manifest.")
    return manifest


def _offset(item: h5py.Dataset | h5py.Group) -> int:
    return int(item.id.get_offset()) if isinstance(item, h5py.Dataset) else 0
