"""Open a cache without libhdf5: read the manifest, check its places, map the rows."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.core.files import named_read_failures, read_at
from featcache.core.paths import expanded, healed, settled
from featcache.core.side_files import is_partial
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    StorageError,
    UnknownSplitError,
    UnsafeFileError,
    UsageError,
    counted,
)
from featcache.store.cache_html import cache_html
from featcache.store.digest import read_part, skeleton_digest
from featcache.store.extract_command import command_of
from featcache.store.identity import Identity, Provenance
from featcache.store.ledger import (
    SKELETON_SLOT,
    Slot,
    numeric_class_id,
    unpack_slots,
)
from featcache.store.manifest import (
    HDF5_SIGNATURE,
    HEADER_LENGTH,
    MANIFEST_OFFSET,
    PARTS,
    REFERENCE,
    TRUNK,
    Block,
    Manifest,
)
from featcache.store.manifest_parser import parse_header, parse_manifest
from featcache.store.split import CacheSplit, OpenedFile


@dataclass(frozen=True, eq=False)
class Cache:
    """A complete cache file; like a mapping, it gives each split by its name.

    Attributes:
        path: The file, absolute: the rows are read from it whenever they are asked for.
        splits: By name.
        class_names: K names; label k is class_names[k]. Empty if the images have no labels.
        fingerprint: 64 hex digits; two caches of one fingerprint hold the same features.
        identity: What the fingerprint is the hash of: backbone, weights, preprocessing, dataset.
        provenance: Names and versions for people.
        n_features: D, the length of one row, or of one view of it.
        file: The open file, from which the rows are read.
    """

    path: Path
    splits: Mapping[str, CacheSplit]
    class_names: tuple[str, ...]
    fingerprint: str
    identity: Identity
    provenance: Provenance
    n_features: int
    file: OpenedFile = field(repr=False)

    def __getitem__(self, split: str) -> CacheSplit:
        if not isinstance(split, str):
            raise UsageError(
                f"A cache gives its splits by name, not by {split!r}. It has "
                f"{', '.join(map(repr, self.splits))}."
            )
        try:
            return self.splits[split]
        except KeyError:
            listing = f"featcache cache info {shlex.quote(str(self.path))}"
            raise UnknownSplitError("split", split, self.splits, listing=listing) from None

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def keys(self) -> KeysView[str]:
        """Give the names of the splits, in their order."""
        return self.splits.keys()

    def _repr_html_(self) -> str:
        return cache_html(self)


@dataclass(frozen=True)
class CacheState:
    """How far a cache file is written.

    Attributes:
        manifest: Its manifest.
        slots: The good slots of its ledger, by number.
        damaged_slots: Numbers of the slots that are written but not whole; in a file that has its
            final name, which it gets when all are written, also of those that are empty.
    """

    manifest: Manifest
    slots: Mapping[int, Slot]
    damaged_slots: Sequence[int]

    @property
    def n_rows(self) -> int:
        """Rows of all splits."""
        return sum(s.n_rows for s in self.manifest.splits.values())

    @property
    def n_rows_done(self) -> int:
        """Rows that are acknowledged."""
        return sum(b.stop - b.start for b in self.manifest.blocks() if b.slot in self.slots)

    @property
    def is_complete(self) -> bool:
        """Whether every slot is written."""
        return len(self.slots) == self.manifest.n_slots

    @property
    def word(self) -> str:
        """Say it in one word: "complete", "incomplete" or "damaged"."""
        if self.damaged_slots:
            return "damaged"
        return "complete" if self.is_complete else "incomplete"

    @property
    def foreign_blocks(self) -> list[Block]:
        """Blocks that another numeric class than the file's own computed."""
        own = numeric_class_id(self.manifest.numerics)
        blocks = self.manifest.blocks()
        return [b for b in blocks if b.slot in self.slots and self.slots[b.slot].numeric_id != own]


def open_cache(path: str | os.PathLike[str]) -> Cache:
    """Open a complete cache file.

    The manifest and the ledger are checked, the digests of the rows are not: that is
    `verify_cache`.

    Example:
        >>> cache = open_cache("cache/cifar10/vgg16-1a2b3c4d.h5")  # doctest: +SKIP
        >>> cache["train"].features.shape  # doctest: +SKIP
        (50000, 25088)

    Raises:
        CacheMissingError: If there is no such file, or it is not complete.
        CorruptError: If it is not a featcache file, or is damaged.
        MismatchError: If it is of another format version.
        UnsafeFileError: If it is not a regular file.
    """
    path = expanded(path)
    file = OpenedFile(settled(path), open_readonly)
    with named_read_failures(path):
        state = state_of(file.fd, path)
    path = file.path
    manifest = state.manifest
    if state.damaged_slots:
        raise CorruptError(
            f"{path}: damaged slots of its ledger: {len(state.damaged_slots)}. Mend it with: "
            f"featcache cache repair {shlex.quote(str(path))}"
        )
    if not state.is_complete:
        raise CacheMissingError(
            f"{path} is not complete: {state.n_rows_done} of {counted(state.n_rows, 'row')} are "
            f"there. It goes on from there with: "
            f"{command_of(path, manifest.identity, manifest.provenance)}"
        )
    splits = {
        name: CacheSplit(name, layout.n_rows, file, layout.columns, manifest.n_views(name))
        for name, layout in manifest.splits.items()
    }
    return Cache(
        path=path,
        splits=splits,
        class_names=tuple(map(healed, manifest.class_names)),
        fingerprint=manifest.identity.fingerprint,
        identity=manifest.identity,
        provenance=manifest.provenance,
        n_features=manifest.n_features,
        file=file,
    )


def read_state(path: Path) -> CacheState:
    """Read manifest and ledger of a cache, complete or not; the raises are those of open_cache."""
    with opened_readonly(path) as fd:
        return state_of(fd, path)


def state_of(fd: int, path: Path) -> CacheState:
    """Read manifest and ledger of an open file; the raises are those of open_cache."""
    manifest = read_manifest(fd, name=str(path))
    slots, damaged = read_slots(fd, manifest, path=path)
    if not is_partial(path):
        damaged = [number for number in range(manifest.n_slots) if number not in slots]
    return CacheState(manifest, slots, damaged)


@contextlib.contextmanager
def opened_readonly(path: Path) -> Iterator[int]:
    """Open a file as `open_readonly` does, and name the failures to read it."""
    fd = open_readonly(path)
    try:
        with named_read_failures(path):
            yield fd
    finally:
        os.close(fd)


def open_readonly(path: Path) -> int:
    """Open a regular file.

    Raises:
        CacheMissingError: If there is none.
        UnsafeFileError: If it is something else than a regular file.
        StorageError: If it may not be read.
    """
    try:
        return open_regular(path, os.O_RDONLY)
    except FileNotFoundError as err:
        raise CacheMissingError(
            f"There is no cache at {path}. See what there is with: featcache cache ls"
        ) from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err.strerror} (errno {err.errno}).") from err


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file with these flags of `os.open`; never waits on a FIFO or acts on a device.

    Raises:
        UnsafeFileError: If it is something else than a regular file.
        OSError: If it cannot be opened.
    """
    refusal = UnsafeFileError(
        f"{path} is not a regular file, so it is not read. Nothing was changed. Move it away."
    )
    if not stat.S_ISREG(path.stat().st_mode):  # to open some devices is to act on them
        raise refusal
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise refusal
    return fd


def read_manifest(fd: int, *, name: str) -> Manifest:
    """Read and check the manifest of an open file."""
    file_size = os.fstat(fd).st_size
    if os.pread(fd, len(HDF5_SIGNATURE), 0) != HDF5_SIGNATURE:
        way_out = "."
        if ".h5" in Path(name).suffixes:  # as every cache is called
            way_out = "; if this is one, its first bytes are damaged. Mend it with: "
            way_out += f"featcache cache repair {shlex.quote(name)}"
        raise CorruptError(
            f"{name} is not an HDF5 file ({counted(file_size, 'byte')}, no HDF5 signature). "
            f"Nothing was changed. Give a file that featcache wrote{way_out}"
        )
    header = parse_header(os.pread(fd, HEADER_LENGTH, MANIFEST_OFFSET), name=name)
    body = os.pread(fd, header.length, MANIFEST_OFFSET + HEADER_LENGTH)
    return parse_manifest(body, header, file_size=file_size, name=name)


def read_slots(fd: int, manifest: Manifest, *, path: Path) -> tuple[dict[int, Slot], list[int]]:
    """Read the ledger of an open file, and check the skeleton against it.

    Returns:
        The good slots by number, and the numbers of those that are written but damaged.

    Raises:
        CorruptError: If the file is damaged outside its rows.
    """
    slots, damaged = unpack_slots(read_ledger(fd, manifest))
    skeleton = slots.get(SKELETON_SLOT)
    if skeleton is None or skeleton.sha256 != skeleton_digest(fd, manifest):
        quoted = shlex.quote(str(path))
        raise CorruptError(
            f"{path} is damaged outside its rows (its skeleton's SHA-256 differs), so its rows "
            f"cannot be trusted. Nothing was changed. Mend it (featcache cache repair {quoted}), "
            f"copy it again from its source, or remove it (featcache cache rm {quoted}) and "
            f"extract again."
        )
    return slots, damaged


def read_ledger(fd: int, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Read the ledger, (n_slots, 64)."""
    raw = read_at(fd, manifest.ledger.nbytes, manifest.ledger.offset)
    return np.frombuffer(raw, np.uint8).reshape(manifest.ledger.shape)


def read_trunk_statistics(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Read the running statistics of an adapted backbone, by buffer name; empty for a frozen one.

    Raises:
        CorruptError: If they are not what was written.
    """
    path = expanded(path)
    state = read_state(path)
    statistics = state.manifest.statistics
    if statistics is None:
        return {}
    return statistics.by_name(_read_part(path, state, TRUNK))


def read_reference(path: str | os.PathLike[str]) -> npt.NDArray[np.float32] | None:
    """Read the reference rows, (R, D); None if the cache has none.

    Raises:
        CorruptError: If they are not what was written.
    """
    path = expanded(path)
    state = read_state(path)
    if state.manifest.reference is None:
        return None
    return _read_part(path, state, REFERENCE)


def _read_part(path: Path, state: CacheState, name: str) -> npt.NDArray[np.float32]:
    part = state.manifest.parts[name]
    slot = state.slots.get(part.slot)
    with opened_readonly(path) as fd:
        values = None if slot is None else read_part(fd, part, slot.sha256)
    if values is None:
        raise CorruptError(
            f"{path}: {PARTS[name]} are damaged or not written. Mend them with: featcache cache "
            f"repair {shlex.quote(str(path))}"
        )
    return values
