"""A model of what a power cut leaves: all that was synced, and any part of what was not.

A `Recording` notes what a run does to the files of one folder. `Recording.crash` makes a state that
the disk may be in after the first N of these events: writes since a file's last sync are there, not
there, or torn at any sector of 512 bytes, in any combination; a file is as long as it was, or as
its space was reserved; changes of names since the folder's last sync have happened up to some
point.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

_SECTOR = 512


class Event(NamedTuple):
    """One thing that was done: "write", "length", "sync", "name", "unname", "syncdir", "ack"."""

    kind: str
    file: int = 0
    offset: int = 0
    content: bytes = b""
    name: str = ""
    told: frozenset[int] = frozenset()


@dataclass
class Recording:
    """What was done to a folder, from the state that it had."""

    before: dict[str, bytes]
    events: list[Event] = field(default_factory=list)

    def acknowledged(self, n_events: int) -> frozenset[int]:
        """What had been told to be safe by then."""
        told = [e.told for e in self.events[:n_events] if e.kind == "ack"]
        return frozenset().union(*told)

    def crash(self, n_events: int, rng: random.Random) -> dict[str, bytes]:
        """Make the files that may be there after a crash behind the first `n_events`."""
        names = {name: i for i, name in enumerate(self.before, start=1)}
        durable = {i: bytearray(self.before[name]) for name, i in names.items()}
        pending: dict[int, list[Event]] = {}
        renames: list[Event] = []
        for event in self.events[:n_events]:
            file = event.file
            if event.kind in ("write", "length"):
                pending.setdefault(file, []).append(event)
            elif event.kind == "sync":
                content = durable.setdefault(file, bytearray())
                for write in pending.pop(file, []):
                    _apply(content, write)
            elif event.kind in ("name", "unname"):
                renames.append(event)
            elif event.kind == "syncdir":
                _rename(names, renames)
                renames = []
        _rename(names, renames[: rng.randint(0, len(renames))])
        for file, writes in pending.items():
            content = durable.setdefault(file, bytearray())
            rng.shuffle(writes)
            for write in writes:
                for part in _torn(write, rng):
                    _apply(content, part)
        return {name: bytes(durable.get(file, b"")) for name, file in names.items()}


def _rename(names: dict[str, int], events: list[Event]) -> None:
    for event in events:
        for name in [n for n, file in names.items() if event.kind == "name" and file == event.file]:
            del names[name]
        if event.kind == "name":
            names[event.name] = event.file
        else:
            names.pop(event.name, None)


def _torn(write: Event, rng: random.Random) -> list[Event]:
    """Some sectors of a write, often all or none."""
    fate = rng.random()
    if fate < 0.4:
        return []
    if fate < 0.7 or write.kind == "length":
        return [write]
    parts, start = [], write.offset
    while start < write.offset + len(write.content):
        stop = min((start // _SECTOR + 1) * _SECTOR, write.offset + len(write.content))
        if rng.random() < 0.5:
            inside = write.content[start - write.offset : stop - write.offset]
            parts.append(write._replace(offset=start, content=inside))
        start = stop
    return parts


def _apply(content: bytearray, event: Event) -> None:
    end = event.offset + len(event.content)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[event.offset : end] = event.content


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[Recording]:
    """Note what is done inside to the files of `folder`, while it is really done."""
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    # Files that are there have the numbers that `crash` gives their names.
    known = {(folder / n).stat().st_ino: i for i, n in enumerate(before, start=1)}
    recording = Recording(before)
    device = folder.stat().st_dev
    where = str(folder)

    def number(fd: int) -> int | None:
        status = os.fstat(fd)
        if status.st_dev != device or not stat.S_ISREG(status.st_mode):
            return None
        return known.setdefault(status.st_ino, len(known) + 1)

    def note(event: Event) -> None:
        recording.events.append(event)

    real: dict[str, Callable[..., Any]] = {
        name: getattr(os, name)
        for name in ("pwrite", "fsync", "fdatasync", "posix_fallocate", "replace", "unlink", "open")
    }

    def pwrite(fd: int, content: Any, offset: int) -> int:
        done: int = real["pwrite"](fd, content, offset)
        file = number(fd)
        if file is not None:
            note(Event("write", file, offset, bytes(memoryview(content)[:done])))
        return done

    def fallocate(fd: int, offset: int, nbytes: int) -> None:
        real["posix_fallocate"](fd, offset, nbytes)
        file = number(fd)
        if file is not None:
            note(Event("length", file, offset + nbytes))

    def sync(fd: int) -> None:
        real["fsync"](fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            note(Event("syncdir"))
        elif (file := number(fd)) is not None:
            note(Event("sync", file))

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        fd: int = real["open"](path, flags, *args, **options)
        if flags & os.O_CREAT and str(path).startswith(where):
            file = number(fd)
            assert file is not None, path
            note(Event("name", file, name=Path(path).name))
        return fd

    def replace(old: Any, new: Any) -> None:
        file = known.get(Path(old).stat().st_ino)
        real["replace"](old, new)
        if file is not None and str(new).startswith(where):
            note(Event("name", file, name=Path(new).name))

    def unlink(path: Any, **options: Any) -> None:
        real["unlink"](path, **options)
        if str(path).startswith(where):
            note(Event("unname", name=Path(path).name))

    patches = {
        "os.pwrite": pwrite,
        "os.fsync": sync,
        "os.posix_fallocate": fallocate,
        "os.replace": replace,
        "os.unlink": unlink,
        "os.open": open_,
        "featcache.store.writer.sync_bytes": sync,
    }
    with contextlib.ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(mock.patch(name, function))
        yield recording
