"""Images that are read once, compared with the bytes that were hashed, and decoded from memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from featcache.core.identity import SHA256_BYTES
from featcache.core.starting import starting
from featcache.errors import FeatcacheError, MismatchError, StorageError
from featcache.images.decode import decode_image, reason_of
from featcache.images.image_names import is_heic_name
from featcache.images.rules import ImageRules
from featcache.images.splits import Look, UnreadableImageError

if TYPE_CHECKING:
    from featcache.images.stat_index import KnownFiles

UNREADABLE = b"unreadable file"
_IMAGES_PER_TASK = 128
_TASKS_AHEAD = 16
# The pixels of the largest image that is allowed by default are 512 MiB. A larger file is another
# thing under an image's name, or an image with something behind it.
HELD_BYTES = 256 * 2**20
# These say that this machine or its disk failed, not that a file is bad: a row must not be lost to
# them, since the identity of the cache counts the file as it was when it was hashed.
NOT_THE_FILES_FAULT = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedImages(ABC):
    """Images whose bytes lie somewhere: in files, in archives, in tables.

    A subclass says how many there are, where each lies, and what its bytes are. It is picklable,
    and reads in any process.

    Attributes:
        rules: Which of them become rows, and how.
        expected: N SHA-256 of the images' bytes, 32 bytes each, zeros for one that could not be
            read; empty where they were not hashed.
    """

    rules: ImageRules = field(default_factory=ImageRules)
    expected: bytes = field(default=b"", repr=False)

    n_threads: ClassVar[int] = 8
    """Threads that hash; 1 where reading in order is faster."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Keep these rows, in this order."""

    @abstractmethod
    def path_of(self, row: int) -> str:
        """Where one image lies, for messages."""

    @abstractmethod
    def name_of(self, row: int) -> str:
        """Give the name of the image's file, whose ending may say that it is HEIC."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Read the bytes of one image, at most `HELD_BYTES`.

        Raises:
            UnreadableImageError: If it is damaged where it lies, with the reason.
            OSError: If the file that it lies in cannot be read.
        """

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of them."""
        return any(is_heic_name(self.name_of(row)) for row in range(len(self)))

    def following(self, rules: ImageRules) -> Self:
        """Read them by these rules."""
        return replace(self, rules=rules)

    def expecting(self, digests: Sequence[bytes]) -> Self:
        """Compare every image that is decoded with what `digests` said of it."""
        known = (bytes(SHA256_BYTES) if d == UNREADABLE else d for d in digests)
        return replace(self, expected=b"".join(known))

    def expected_at(self, rows: npt.NDArray[np.int64]) -> bytes:
        """Give `expected` of these rows, in this order."""
        digests = np.frombuffer(self.expected, np.uint8).reshape(-1, SHA256_BYTES)
        return digests[rows].tobytes() if self.expected else b""

    def decode(self, row: int) -> Image.Image:
        """Open one image in mode RGB, bit-equal to torchvision.datasets.folder.pil_loader.

        Its bytes are read once, compared with their expected digest, and decoded from memory.

        Raises:
            UnreadableImageError: If it cannot be decoded; one line, no absolute path.
            MismatchError: If it is not the image that the dataset's digest counts.
            StorageError: If the disk fails, or the file vanished since it was listed.
        """
        with self.failures_told(row):
            content = self.read(row)
        if self.expected:
            self.require(row, hashlib.sha256(content).digest())
        return self.decoded(io.BytesIO(content), row)

    def decoded(self, file: BinaryIO, row: int) -> Image.Image:
        """Decode what was read."""
        return decode_image(file, self.rules, is_heic=is_heic_name(self.name_of(row)))

    def require(self, row: int, digest: bytes) -> None:
        """See that an image's bytes are those that were hashed before."""
        if not any(self._expected_of(row)):
            raise _changed(self.path_of(row), "it could not be read then, and can be now")
        if digest != self._expected_of(row):
            raise _changed(self.path_of(row), "it holds other bytes now")

    @contextlib.contextmanager
    def failures_told(self, row: int) -> Iterator[None]:
        """Say why an image cannot be read: the disk failed, it changed, or it is damaged."""
        path = self.path_of(row)
        was_readable = any(self._expected_of(row))
        try:
            yield
        except FeatcacheError:  # some are OSErrors
            raise
        except OSError as err:
            has_vanished = isinstance(err, FileNotFoundError) and not os.path.lexists(path)
            if has_vanished or err.errno in NOT_THE_FILES_FAULT:
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

    def _expected_of(self, row: int) -> bytes:
        return self.expected[row * SHA256_BYTES : (row + 1) * SHA256_BYTES]

    def looks(self, known: KnownFiles | None = None) -> Iterator[Look]:
        """Yield the SHA-256 of each image's bytes and what its header says, in order.

        An unreadable one gives a fixed mark. Threads read ahead by at most 2,048 images, so memory
        does not grow with the dataset.

        Args:
            known: What was read before; it takes up what is read now. None reads all.
        """
        look = self.looking(known)
        n_threads = min(self.n_threads, os.cpu_count() or 1)
        n_ahead = _TASKS_AHEAD if n_threads > 1 else 1
        with ThreadPoolExecutor(n_threads) as pool:
            ahead: deque[Future[list[Look]]] = deque()
            for start in range(0, len(self), _IMAGES_PER_TASK):
                rows = range(start, min(start + _IMAGES_PER_TASK, len(self)))
                with starting("Threads that hash images", kept="Nothing was changed."):
                    ahead.append(pool.submit(_looks_at, look, rows))
                if len(ahead) == n_ahead:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()

    @abstractmethod
    def looking(self, known: KnownFiles | None) -> Callable[[int], Look]:
        """Give what looks at one row. What lies in files can be known by their stat."""

    @contextlib.contextmanager
    def disk_told(self, row: int) -> Iterator[None]:
        """Say that the disk failed before anything was computed.

        Raises:
            StorageError: Naming the image.
        """
        try:
            yield
        except FeatcacheError:  # some are OSErrors
            raise
        except OSError as err:
            raise StorageError(
                f"{self.path_of(row)} cannot be read: {err}. Nothing was changed."
            ) from err


def _looks_at(look: Callable[[int], Look], rows: range) -> list[Look]:
    return [look(row) for row in rows]


def _changed(path: str, how: str) -> MismatchError:
    return MismatchError(
        f"{path} is not the file that the cache's identity counts: {how}. It changed since "
        f"it was hashed. All acknowledged rows are kept. Put the file back as it was and "
        f"run the same command, or leave it: the same command then makes another cache."
    )
