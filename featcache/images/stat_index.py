"""What is known of files that were read before, so that they need not be read again.

An index as git has one. It holds, for each file, the digest and the stat that the file had when it
was read: device, inode, size, and both times in nanoseconds. A file with the same stat is not read.
Any program that writes to a file changes its ctime, also one that puts size and mtime back.

Two files of one stat are told apart only if the clock moved between them. So an entry is used only
if the file was last changed at least two seconds before the command that read it began. The
coarsest clock of a file system has steps of that size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from featcache.core.paths import user_cache_folder
from featcache.core.private_folder import private_folder
from featcache.core.reporting import NoteCallback, silent
from featcache.core.sealed_files import read_sealed, write_sealed
from featcache.errors import CorruptError, FeatcacheError, MismatchError
from featcache.images.splits import Header, Look

_KIND = b"featcache files 1\n"
_MARGIN_NS = 2_000_000_000
_STAT = struct.Struct("<QQqqq")
_SEEN = struct.Struct("<32s8sBB")  # digest, reader of the header, what the header says
_ENTRY_BYTES = _STAT.size + _SEEN.size
_DANGER = "whoever can write there could have a changed image taken for a known one"


class FileIndex:
    """What is known of the files below one folder, or of the images packed in one file.

    Attributes:
        folder: Its absolute path.
    """

    def __init__(self, folder: str, content: bytes = b"", *, started_ns: int) -> None:
        """Take what a file of an index holds, or begin an empty index."""
        self.folder = folder
        self._started_ns = started_ns
        self._counts_before_ns = 0
        self._entries = b""
        self._places: dict[str, int] = {}
        self._fresh: dict[str, bytes] = {}
        if content:
            self._parse(content)

    def _parse(self, content: bytes) -> None:
        started_ns, n_files, names_bytes = struct.unpack_from("<qqq", content)
        start = struct.calcsize("<qqq")
        try:
            named, *names = _decoded(content[start : start + names_bytes]).split("\0")
        except UnicodeDecodeError as err:
            raise CorruptError("its names are not those of any locale") from err
        self._entries = content[start + names_bytes :]
        if named != self.folder or len(names) != n_files:
            raise CorruptError(f"it is the index of {named!r}")
        self._counts_before_ns = started_ns - _MARGIN_NS
        places = range(0, n_files * _ENTRY_BYTES, _ENTRY_BYTES)
        self._places = dict(zip(names, places, strict=True))

    @property
    def is_changed(self) -> bool:
        """Whether files were read that it did not know."""
        return bool(self._fresh)

    def known(self, name: str, status: os.stat_result, *, reader: bytes = b"") -> Look | None:
        """Tell what was seen of a file, if its stat is the same.

        Args:
            name: Its path below the folder.
            status: Its stat now.
            reader: What reads the headers, as `header_reader` names it; empty asks for the digest
                alone.
        """
        entry, counts_before_ns = self._fresh.get(name), self._started_ns - _MARGIN_NS
        if entry is None:
            at, counts_before_ns = self._places.get(name), self._counts_before_ns
            if at is None:
                return None
            entry = self._entries[at : at + _ENTRY_BYTES]
        if max(status.st_mtime_ns, status.st_ctime_ns) >= counts_before_ns:
            return None
        if entry[: _STAT.size] != stat_bytes(status):
            return None
        digest, read_by, is_clipped, is_turned = _SEEN.unpack_from(entry, _STAT.size)
        if reader and read_by != reader:
            return None
        return Look(digest, Header(bool(is_clipped), bool(is_turned)))

    def add(self, name: str, status: os.stat_result, look: Look, *, reader: bytes = b"") -> None:
        """Keep a file's digest with the stat that the opened file had before it was read."""
        seen = _SEEN.pack(look.digest, reader, look.header.is_clipped, look.header.is_turned)
        self._fresh[name] = stat_bytes(status) + seen

    def to_bytes(self) -> bytes:
        """Write all that is known; what is no longer as it was is left out."""
        kept = dict(self._fresh)
        pack = _stat_of(self.folder)
        is_pack = pack is not None and stat.S_ISREG(pack.st_mode)
        for name, at in self._places.items():
            if name in kept:
                continue
            status = pack if is_pack else _stat_of(f"{self.folder}/{name}")
            if status is not None and self.known(name, status):
                kept[name] = self._entries[at : at + _ENTRY_BYTES]
        names = _encoded("\0".join([self.folder, *kept]))
        head = struct.pack("<qqq", self._started_ns, len(kept), len(names))
        return b"".join([head, names, *kept.values()])


class KnownFiles:
    """The user's indexes: one for each folder with files that are read, in a file of its own.

    They lie in `featcache/index` in XDG_CACHE_HOME or `~/.cache`. Where that folder cannot be had,
    or is not the user's alone, nothing is known and nothing is kept. Two processes may write one
    index: each writes it whole, and the last one stays.
    """

    def __init__(self, *, rehash: bool = False, on_note: NoteCallback = silent) -> None:
        """Open none yet.

        Args:
            rehash: Read every file again, whatever is known of it.
            on_note: Told if an index cannot be used.
        """
        self.started_ns = time.time_ns()
        self._rehash = rehash
        self._on_note = on_note
        self._opened: dict[str, FileIndex] = {}
        self._folder = self._own_folder()

    def below(self, folder: str) -> FileIndex:
        """Open the index of the files below a folder, or of the images packed in a file."""
        folder = os.path.abspath(folder)  # noqa: PTH100 - keeps links
        if folder not in self._opened:
            self._opened[folder] = self._read(folder)
        return self._opened[folder]

    def sha256_of(self, path: str | os.PathLike[str]) -> bytes | None:
        """Give the SHA-256 of a file, read only if it is not known; None if it cannot be read."""
        folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
        return self.sha256_below(folder, name)

    def sha256_below(self, folder: str, name: str) -> bytes | None:
        """Give the SHA-256 of a file below a folder, as `sha256_of` does."""
        index, path = self.below(folder), Path(folder, name)
        with contextlib.suppress(OSError):
            status = path.stat()
            if known := index.known(name, status):
                return known.digest
            if stat.S_ISREG(status.st_mode):
                with path.open("rb", buffering=0) as file:
                    status = os.fstat(file.fileno())
                    look = Look(hashlib.file_digest(file, "sha256").digest())
                index.add(name, status, look)
                return look.digest
        return None

    def is_settled(self, path: Path) -> bool:
        """Tell whether a file has surely not changed since this was made."""
        with contextlib.suppress(OSError):
            status = path.stat()
            return max(status.st_mtime_ns, status.st_ctime_ns) < self.started_ns - _MARGIN_NS
        return False

    def save(self) -> None:
        """Write what was read, where that is possible."""
        for folder, index in self._opened.items():
            if index.is_changed and (file := self.file(folder, "files")) is not None:
                try:
                    write_sealed(file, _KIND, index.to_bytes())
                except FeatcacheError as err:
                    self._on_note(f"the files that were read will be read again next time: {err}")

    @contextlib.contextmanager
    def trusted(self) -> Iterator[None]:
        """Mark work on files that are taken for what the indexes say.

        A file that turns out to be another shows that its stat told nothing, as where a clock was
        set back. Then the indexes are removed, and the next command reads all.
        """
        try:
            yield
        except MismatchError:
            for folder in self._opened:
                if (file := self.file(folder, "files")) is not None:
                    with contextlib.suppress(OSError):
                        file.unlink()
            raise

    def file(self, key: str, kind: str) -> Path | None:
        """Name a file of what is known, by its key; None where nothing can be kept."""
        if self._folder is None:
            return None
        return self._folder / f"{hashlib.sha256(_encoded(key)).hexdigest()[:32]}.{kind}"

    def _own_folder(self) -> Path | None:
        caches = user_cache_folder()
        if caches is None:
            return None
        try:
            return private_folder(
                caches / "index", name="the folder of what is known of files", danger=_DANGER
            )
        except (FeatcacheError, OSError) as err:
            self._on_note(f"all files are read, and nothing is kept of them: {err}")
            return None

    def _read(self, folder: str) -> FileIndex:
        file = self.file(folder, "files")
        if file is not None and not self._rehash:
            try:
                content = read_sealed(file, _KIND) or b""
                return FileIndex(folder, content, started_ns=self.started_ns)
            except (CorruptError, OSError) as err:
                self._on_note(f"an index was thrown away, and all files are read: {err}")
                with contextlib.suppress(OSError):
                    file.unlink()
        return FileIndex(folder, started_ns=self.started_ns)


def _encoded(names: str) -> bytes:
    """Write names of any locale, and those of columns, so that `_decoded` gives the same."""
    return names.encode(errors="surrogatepass")


def _decoded(content: bytes) -> str:
    return content.decode(errors="surrogatepass")


def _stat_of(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - a fifth of the time
    except OSError:
        return None


def stat_bytes(status: os.stat_result) -> bytes:
    """Write what tells one state of a file from another."""
    return _STAT.pack(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )
