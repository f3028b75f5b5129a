"""Objects in a store: small ones whole, large ones as files, and which there are."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from featcache.core.reporting import NoteCallback
from featcache.core.store_urls import StoreUrl
from featcache.errors import CorruptError, StorageError, UsageError
from featcache.scale.remote.calls import (
    client_options,
    is_exists,
    own_tries,
    reason_of,
    s3_endpoint,
    tried,
    waited,
)

T = TypeVar("T")

_N_THREADS = 4
_CHUNK_NBYTES = 5 << 20  # the least of S3: a slow line must send a few of them in one request
_MOST_CHUNKS = 9_000  # S3 takes 10,000 in one upload
_MOST_SMALL_NBYTES = 256 << 20
_NO_UPLOAD = "NoSuchUpload"

BytesProgress = Callable[[int, int], None]


class Objects:
    """The objects below a URL; keys are relative to it.

    Attributes:
        url: The place.
    """

    def __init__(self, url: StoreUrl, *, on_note: NoteCallback) -> None:
        self.url = url
        self._on_note = on_note
        self._store = _opened(url)
        self._threads = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="featcache-store")

    @classmethod
    @contextlib.contextmanager
    def at(cls, url: StoreUrl, *, on_note: NoteCallback) -> Iterator[Objects]:
        """Open the objects below a URL; threads that still wait at the end are left alone."""
        objects = cls(url, on_note=on_note)
        try:
            yield objects
        finally:
            objects._threads.shutdown(wait=False, cancel_futures=True)

    def sizes(self, folder: str) -> dict[str, int]:
        """List the objects below a folder, by key, with their sizes."""

        def listed() -> dict[str, int]:
            import obstore

            found = obstore.list(self._store, folder or None).collect()
            return {item["path"]: item["size"] for item in found}

        return self._done(listed, f"list {folder or '/'}")

    def folders(self, folder: str) -> list[str]:
        """List the folders in a folder, as keys."""

        def listed() -> list[str]:
            import obstore

            return sorted(
                obstore.list_with_delimiter(self._store, folder or None)["common_prefixes"]
            )

        return self._done(listed, f"list {folder or '/'}")

    def get(self, key: str) -> bytes | None:
        """Read a small object; None if there is none."""
        return self.get_all([key])[0]

    def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read small objects, several at once; None for each that is not there."""
        return list(self._in_order(partial(self._get, key) for key in keys))

    def put_new(self, key: str, content: bytes) -> bool:
        """Write a small object, unless there is one; tell whether these bytes are there now.

        A try whose answer was lost finds its own bytes there.
        """

        def put() -> bool:
            import obstore

            try:
                obstore.put(self._store, key, content, mode="create", use_multipart=False)
            except Exception as err:
                if not is_exists(err):
                    raise
                return False
            return True

        return self._done(put, f"write {key}") or self.get(key) == content

    def upload(self, key: str, path: Path, *, on_progress: BytesProgress) -> None:
        """Write a file as an object, which is there whole or not at all."""
        nbytes = path.stat().st_size
        chunk = max(_CHUNK_NBYTES, -(-nbytes // _MOST_CHUNKS))
        was_there = self._done(lambda: _size_of(self._store, key), f"look for {key}") is not None

        def put() -> None:
            import obstore

            try:
                with path.open("rb") as file:
                    obstore.put(
                        self._store,
                        key,
                        _Told(file, nbytes, on_progress),
                        chunk_size=chunk,
                        max_concurrency=_N_THREADS,
                    )
            except FileNotFoundError as err:
                # A chunk failed, so the package gave the upload up while others were on their way;
                # or the answer to its end was lost, and the end is tried again.
                if _NO_UPLOAD not in str(err):
                    raise
                if was_there:  # its size tells nothing of this upload
                    raise OSError("the store has forgotten the upload") from err
            found = _size_of(self._store, key)
            if found != nbytes:
                raise OSError(f"{key} has {found} bytes there, but {nbytes} were written")

        self._done(put, f"write {key}")

    def download(
        self, key: str, nbytes: int, sha256: str, file: BinaryIO, *, on_progress: BytesProgress
    ) -> None:
        """Read an object into an open file, in ranges, and compare its digest.

        Raises:
            CorruptError: If its bytes are not those of the digest, or it is not there.
        """
        digest = hashlib.sha256()
        starts = range(0, nbytes, _CHUNK_NBYTES)
        ranges = (partial(self._range, key, s, min(s + _CHUNK_NBYTES, nbytes)) for s in starts)
        try:
            for content in self._in_order(ranges):
                digest.update(content)
                file.write(content)
                on_progress(file.tell(), nbytes)
        except FileNotFoundError as err:
            raise CorruptError(f"{self.url}/{key} is not there. Nothing was kept of it.") from err
        if digest.hexdigest() != sha256:
            raise CorruptError(
                f"{self.url}/{key} is damaged: its SHA-256 begins with {digest.hexdigest()[:8]}, "
                f"but must be as its name. Nothing was kept of it."
            )

    def _range(self, key: str, start: int, stop: int) -> bytes:
        def read() -> bytes:
            import obstore

            content = bytes(obstore.get_range(self._store, key, start=start, end=stop))
            if len(content) != stop - start:
                raise OSError(f"{len(content)} bytes came instead of {stop - start}")
            return content

        return tried(read, what=f"read {key}", url=self.url, on_note=self._on_note)

    def _get(self, key: str) -> bytes | None:
        def read() -> bytes | None:
            import obstore

            result = obstore.get(self._store, key)
            if result.meta["size"] > _MOST_SMALL_NBYTES:
                raise CorruptError(
                    f"{self.url}/{key} has {result.meta['size']} bytes, which is too large for "
                    f"what it should be. Nothing was done."
                )
            content = bytes(result.bytes())
            if len(content) != result.meta["size"]:
                raise OSError(f"{len(content)} bytes came instead of {result.meta['size']}")
            return content

        try:
            return tried(read, what=f"read {key}", url=self.url, on_note=self._on_note)
        except FileNotFoundError:
            return None

    def _done(self, call: Callable[[], T], what: str) -> T:
        """Call the store in a thread, so that a wish to stop is met meanwhile."""
        try:
            return waited(
                self._begun(lambda: tried(call, what=what, url=self.url, on_note=self._on_note))
            )
        except FileNotFoundError as err:
            raise StorageError(f"Cannot {what} in {self.url}: {reason_of(err)}.") from err

    def _in_order(self, calls: Iterator[Callable[[], T]]) -> Iterator[T]:
        """Call several at once, a few ahead; give what they give in their order."""
        begun: deque[Future[T]] = deque()
        for call in calls:
            begun.append(self._begun(call))
            if len(begun) == 2 * _N_THREADS:
                yield waited(begun.popleft())
        while begun:
            yield waited(begun.popleft())

    def _begun(self, call: Callable[[], T]) -> Future[T]:
        return self._threads.submit(copy_context().run, call)


class _Told:
    """A file that tells how far it was read; obstore reads it from a thread of its own."""

    def __init__(self, file: BinaryIO, nbytes: int, on_progress: BytesProgress) -> None:
        self._file, self._nbytes, self._on_progress = file, nbytes, on_progress

    def read(self, n: int = -1) -> bytes:
        content = self._file.read(n)
        self._on_progress(self._file.tell(), self._nbytes)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _size_of(store: Any, key: str) -> int | None:
    """Ask for the size of an object; None if there is none."""
    import obstore

    try:
        return int(obstore.head(store, key)["size"])
    except FileNotFoundError:
        return None


def _opened(url: StoreUrl) -> Any:
    from obstore.store import from_url

    allow_http = False
    config: dict[str, Any] = {}
    if url.scheme == "s3":
        config = {"checksum_algorithm": "sha256"}  # a body that changed on its way is refused
        if found := s3_endpoint():
            config["endpoint"] = found[1]
            allow_http = found[1].startswith("http://")
    try:
        return from_url(
            str(url),
            config=config or None,
            client_options=client_options(allow_http),
            retry_config=own_tries(),
        )
    except Exception as err:
        raise UsageError(
            f"{url} cannot be opened: {reason_of(err)}. Nothing was started. Mend the variables of "
            f"the environment that name the account."
        ) from err
