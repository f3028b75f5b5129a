"""Images that lie in files: decoded one at a time, exactly as torchvision's loader would."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.starting import starting
from featcache.errors import MismatchError, StorageError
from featcache.images.decode import (
    HEIC_EXTENSIONS,
    decode_image,
    image_extensions,
    reason_of,
)
from featcache.images.headers import header_reader, read_header
from featcache.images.rules import ImageRules
from featcache.images.splits import Look, UnreadableImageError
from featcache.images.stat_index import FileIndex, KnownFiles

_UNREADABLE = b"unreadable file"
_DIGEST_BYTES = 32
_FILES_PER_TASK = 128
_TASKS_AHEAD = 16
_WHOLE_READ_BYTES = 4 * 2**20
# The pixels of the largest image that is allowed by default are 512 MiB. A larger file is another
# thing under an image's name, or an image with something behind it.
_HELD_BYTES = 256 * 2**20
# These say that this machine or its disk failed, not that a file is bad: a row must not be lost to
# them, since the identity of the cache counts the file as it was when it was hashed.
_NOT_THE_FILES_FAULT = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
)


@dataclass(frozen=True)
class FolderImages:
    """Image files below one folder.

    Attributes:
        root: Absolute path of the folder.
        paths: N paths relative to `root`, as this process's locale reads them.
        rules: Which of them become rows, and how.
        expected: N SHA-256 of the files' bytes, 32 bytes each, zeros for a file that could not be
            read; empty where the files were not hashed.
    """

    root: str
    paths: tuple[str, ...]
    rules: ImageRules = field(default_factory=ImageRules)
    expected: bytes = field(default=b"", repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: npt.NDArray[np.int64]) -> FolderImages:
        """Keep these rows, in this order."""
        digests = np.frombuffer(self.expected, np.uint8).reshape(-1, _DIGEST_BYTES)
        return replace(
            self,
            paths=tuple(self.paths[i] for i in rows),
            expected=digests[rows].tobytes() if self.expected else b"",
        )

    def following(self, rules: ImageRules) -> FolderImages:
        """Read them by these rules."""
        return replace(self, rules=rules)

    def path_of(self, row: int) -> str:
        """Where one image lies."""
        return f"{self.root}/{self.paths[row]}"

    def expecting(self, digests: Sequence[bytes]) -> FolderImages:
        """Compare every file that is decoded with what `digests` said of it."""
        known = (bytes(_DIGEST_BYTES) if d == _UNREADABLE else d for d in digests)
        return replace(self, expected=b"".join(known))

    def decode(self, row: int) -> Image.Image:
        """Open one image in mode RGB, bit-equal to torchvision.datasets.folder.pil_loader.

        The file is read once, compared with its expected digest, and decoded from memory. A file of
        more than 256 MiB is decoded from disk. It is hashed afterwards through the same open file,
        so that no change before the last pixel is missed.

        Raises:
            UnreadableImageError: If it cannot be decoded; one line, no absolute path.
            MismatchError: If it is not the file that the dataset's digest counts.
            StorageError: If the disk fails, or the file vanished since it was listed.
        """
        with contextlib.ExitStack() as stack:
            with self._failures_told(row):
                file = stack.enter_context(_open(self.path_of(row)))
                is_held = os.fstat(file.fileno()).st_size <= _HELD_BYTES
                content = file.read() if is_held else b""
            if not is_held:
                return self._decode_large(file, row)
        if self.expected:
            self._require(row, hashlib.sha256(content).digest())
        return self._decoded(io.BytesIO(content), row)

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of them."""
        return any(map(is_heic_name, self.paths))

    def _decoded(self, file: BinaryIO, row: int) -> Image.Image:
        return decode_image(file, self.rules, is_heic=is_heic_name(self.paths[row]))

    def _decode_large(self, file: io.FileIO, row: int) -> Image.Image:
        refusal = None
        with io.BufferedReader(file) as buffered:
            try:
                image = self._decoded(buffered, row)
            except UnreadableImageError as err:
                refusal = err
            if self.expected:
                with self._failures_told(row):
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").digest()
                self._require(row, digest)
        if refusal is not None:
            raise refusal
        return image

    def _expected_of(self, row: int) -> bytes:
        return self.expected[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES]

    def _require(self, row: int, digest: bytes) -> None:
        """See that a file's bytes are those that were hashed before."""
        if not any(self._expected_of(row)):
            raise _changed(self.path_of(row), "it could not be read then, and can be now")
        if digest != self._expected_of(row):
            raise _changed(self.path_of(row), "it holds other bytes now")

    @contextlib.contextmanager
    def _failures_told(self, row: int) -> Iterator[None]:
        """Say why a file cannot be read: the disk failed, it changed, or it is damaged."""
        path = self.path_of(row)
        was_readable = any(self._expected_of(row))
        try:
            yield
        except OSError as err:
            has_vanished = isinstance(err, FileNotFoundError) and not os.path.lexists(path)
            if has_vanished or err.errno in _NOT_THE_FILES_FAULT:
                raise StorageError(
                    f"{path} could be read when the dataset was hashed, and no longer: {err}. All "
                    f"acknowledged rows are kept. The same command goes on from there."
                ) from err
            if was_readable:
                raise _changed(path, f"it can no longer be read ({err})") from err
            raise UnreadableImageError(reason_of(err)) from err
        except UnreadableImageError as err:
            if was_readable:
                raise _changed(path, f"it is {err} now") from err
            raise

    def looks(self, known: KnownFiles | None = None) -> Iterator[Look]:
        """Yield the SHA-256 of each file's bytes and what its header says, in order.

        An unreadable file gives a fixed mark. Threads read ahead by at most 2,048 files, so memory
        does not grow with the dataset.

        Args:
            known: What was read before; it takes up what is read now. None reads all.
        """
        index = None if known is None else known.below(self.root)
        reading = _Reading(self.root, self.rules, header_reader(self.rules), index)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            ahead: deque[Future[list[Look]]] = deque()
            for start in range(0, len(self.paths), _FILES_PER_TASK):
                chunk = self.paths[start : start + _FILES_PER_TASK]
                with starting("Threads that hash images", kept="Nothing was changed."):
                    ahead.append(pool.submit(reading.looks_at, chunk))
                if len(ahead) == _TASKS_AHEAD:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()


def is_image_name(name: str) -> bool:
    """Tell by the extension, in any case, whether a file counts as an image."""
    return name.lower().endswith(image_extensions())


def is_heic_name(name: str) -> bool:
    """Tell by the extension whether a file is a photo that only the extra `heif` reads."""
    return name.lower().endswith(HEIC_EXTENSIONS)


def bytewise(path: str) -> bytes:
    """Give the key that sorts paths alike on every machine and in every locale."""
    return os.fsencode(path)


@dataclass(frozen=True)
class _Reading:
    """How the files below a folder are hashed."""

    root: str
    rules: ImageRules
    reader: bytes
    index: FileIndex | None

    def looks_at(self, paths: Sequence[str]) -> list[Look]:
        return [self._look(path) for path in paths]

    def _look(self, name: str) -> Look:
        """Hash one file, by plain calls: pathlib and file_digest triple the time of small files."""
        path = f"{self.root}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
            if not stat.S_ISREG(status.st_mode):
                return Look(_UNREADABLE)
            if self.index is None:
                return self._read(path, status)
            look = self.index.known(name, status, reader=self.reader)
            if look is None:
                look = self._read(path, status)
                self.index.add(name, status, look, reader=self.reader)
            return look
        except OSError as err:
            if err.errno in _NOT_THE_FILES_FAULT:
                raise StorageError(f"{path} cannot be read: {err}. Nothing was changed.") from err
            return Look(_UNREADABLE)

    def _read(self, path: str, status: os.stat_result) -> Look:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            if status.st_size < _WHOLE_READ_BYTES:
                content = file.read()
                sha256 = hashlib.sha256(content).digest()
                return Look(sha256, read_header(content, None, self.rules))
            sha256 = hashlib.file_digest(file, "sha256").digest()
            file.seek(0)
            return Look(sha256, read_header(b"", file, self.rules))


def _open(path: str) -> io.FileIO:
    """Open one file; a pipe, a socket or a device is refused, because it may block for ever.

    Plain calls, as in `_Reading`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise UnreadableImageError("not a regular file")
    return open(path, "rb", buffering=0)  # noqa: PTH123 - the caller closes it


def _changed(path: str, how: str) -> MismatchError:
    return MismatchError(
        f"{path} is not the file that the cache's identity counts: {how}. It changed since "
        f"it was hashed. All acknowledged rows are kept. Put the file back as it was and "
        f"run the same command, or leave it: the same command then makes another cache."
    )
