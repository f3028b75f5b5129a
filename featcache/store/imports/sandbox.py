"""Run the child that reads a foreign file: start it, check all it sends, end it in time."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from featcache.core.files import human_bytes
from featcache.core.starting import starting
from featcache.errors import CorruptError, FeatcacheError, UnsafeFileError, UsageError, did_you_mean
from featcache.store.imports.sandbox_child import FRAME, FRAME_LIMIT, ID_LIMIT
from featcache.store.reader import opened_readonly

CHILD = (sys.executable, "-P", str(Path(__file__).with_name("sandbox_child.py")))
START_S = 60.0
_BYTES_PER_S = 4_000_000
_DTYPES = {f"{order}{kind}" for order in "<>" for kind in ("f2", "f4", "f8", "i2", "i4", "i8")}
_DTYPES |= {f"{order}{kind}" for order in "<>" for kind in ("u2", "u4", "u8")}
_DTYPES |= {"|i1", "|u1", "|b1", "ids"}
KEPT = "Nothing was written."

# What a file makes this process hold is bounded by what it weighs: gzip inflates a thousandfold.
_ALWAYS_HELD = 256 << 20
_MOST_INFLATED = 100


class Column:
    """One column that the child sends: its shape, and its parts as they come.

    Attributes:
        kind: "features", "labels", "ids" or another kind that `reading` names.
        shape: As the file says.
        dtype: NumPy's name of its numbers; "ids" for ids.
    """

    def __init__(self, child: Child, kind: str, shape: tuple[int, ...], dtype: str) -> None:
        self.kind = kind
        self.shape = shape
        self.dtype = dtype
        self._child = child

    @property
    def n_rows(self) -> int:
        """N; MATLAB's columns of labels come as (1, N)."""
        is_lying = self.kind == "labels" and len(self.shape) == 2 and self.shape[0] == 1
        return self.shape[1] if is_lying else self.shape[0]

    def hold(self, nbytes: int) -> None:
        """Count memory against what the file weighs, as `Child.hold` does."""
        self._child.hold(nbytes)

    def parts(self) -> Iterator[npt.NDArray[Any]]:
        """Yield (n, D) arrays, n rows each; the columns must be read in order, each once."""
        row = math.prod(self.shape[1:])
        left = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        row_nbytes = row * np.dtype(self.dtype).itemsize
        held = b""
        while left:
            payload = self._child.receive(b"ROWS")
            left -= len(payload)
            if left < 0 or not payload:
                raise self._child.misbehaved("it sent other rows than it said")
            held += payload
            n_rows = len(held) // row_nbytes
            if n_rows:
                flat = np.frombuffer(held, self.dtype, n_rows * row)
                held = held[n_rows * row_nbytes :]
                yield flat.reshape(n_rows, row)

    def ids(self) -> Iterator[list[str]]:
        """Yield lists of ids, as `parts` yields rows."""
        n_left = self.n_rows
        while n_left:
            payload = self._child.receive(b"ROWS")
            self._child.hold(len(payload))
            part = self._child.parsed(payload)
            if not part or not all(isinstance(i, str) and len(i) <= ID_LIMIT for i in part):
                raise self._child.misbehaved("it sent no ids")
            n_left -= len(part)
            if n_left < 0:
                raise self._child.misbehaved("it sent too many ids")
            yield part


class Child:
    """The running child and its pipe."""

    def __init__(
        self, path: Path, pipe: IO[bytes], process: subprocess.Popen[bytes], *, nbytes: int
    ) -> None:
        self._path = path
        self._pipe = pipe
        self._process = process
        self._nbytes = nbytes
        self._n_held = 0
        self.is_late = False

    def columns(self, asked: Sequence[tuple[str, str]]) -> list[Column]:
        """Read what it says it will send, believing none of it."""
        head = self.parsed(self.receive(b"HEAD"))
        if len(head) != len(asked):
            raise self.misbehaved("it sent other columns than asked for")
        columns = []
        for (kind, _), entry in zip(asked, head, strict=True):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list)):
                raise self.misbehaved("it sent no columns")
            shape, dtype = tuple(entry[0]), entry[1]
            if (
                dtype not in _DTYPES
                or not shape
                or not all(type(n) is int and n > 0 for n in shape)
            ):
                raise self.misbehaved("it sent a column of no known kind")
            columns.append(Column(self, kind, shape, dtype))
        return columns

    def hold(self, nbytes: int) -> None:
        """Count bytes that the columns will take in this process's memory, all together.

        Raises:
            UnsafeFileError: If they are far more than the file has.
        """
        self._n_held += nbytes
        if self._n_held > max(_ALWAYS_HELD, _MOST_INFLATED * self._nbytes):
            raise UnsafeFileError(
                f"{self._path} is refused: it has {human_bytes(self._nbytes)}, but what it holds "
                f"would take {human_bytes(self._n_held)} of memory or more. {KEPT} If you trust "
                f"it, write it again without compression."
            )

    def parsed(self, payload: bytes) -> list[Any]:
        """Read a JSON list."""
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as err:
            raise self.misbehaved("it sent no JSON") from err
        if not isinstance(value, list):
            raise self.misbehaved("it sent no list")
        return value

    def receive(self, kind: bytes) -> bytes:
        """Read the next frame, which must be of this kind.

        Raises:
            FeatcacheError: What the child reports, or how it ended.
        """
        head = self._pipe.read(FRAME.size)
        if len(head) < FRAME.size:
            raise self._ended()
        found, length = FRAME.unpack(head)
        if length > FRAME_LIMIT or found not in (kind, b"FAIL"):
            raise self.misbehaved("it sent no frame that was expected")
        payload = self._pipe.read(length)
        if len(payload) < length:
            raise self._ended()
        if found == b"FAIL":
            raise self._reported(payload)
        return payload

    def misbehaved(self, what: str) -> UnsafeFileError:
        """Say that the child broke the protocol, as one that the file has taken over would."""
        return UnsafeFileError(f"{self._path} is refused: of its reader, {what}. {KEPT}")

    def _ended(self) -> FeatcacheError:
        code = self._process.wait()
        if self.is_late or code == -signal.SIGXCPU or code == -signal.SIGKILL:
            return UnsafeFileError(
                f"{self._path} is refused: its reader was stopped at a limit of time or memory. "
                f"{KEPT}"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return CorruptError(
            f"{self._path} is damaged, or made to do harm: the process that read it ended with "
            f"{how}. {KEPT} Get the file again from its source."
        )

    def _reported(self, payload: bytes) -> FeatcacheError:
        try:
            report = json.loads(payload)
            kind, text = report["kind"], str(report["text"])[:1000]
            known = [str(name) for name in report["known"]][:100]
        except (ValueError, KeyError, TypeError, RecursionError):
            return self.misbehaved("it sent no report")
        if kind == "unsafe":
            return UnsafeFileError(f"{self._path} is refused: {text}. {KEPT}")
        if kind == "corrupt":
            return CorruptError(f"{self._path} is damaged: {text}. {KEPT}")
        hint = ""
        if known:
            wanted = text.partition("'")[2].partition("'")[0]
            hint = f"{did_you_mean(wanted, known)} It has {', '.join(known[:20])}."
        return UsageError(f"{self._path}: {text}.{hint} {KEPT}")


@contextlib.contextmanager
def reading(
    path: Path,
    asked: Sequence[tuple[str, str]],
    *,
    format: str = "hdf5",
    command: Sequence[str] = CHILD,
) -> Iterator[list[Column]]:
    """Open columns of a foreign file, each to be read once and in order.

    Args:
        path: A regular file; it is opened here, and parsed in the child alone.
        asked: (kind, key) of each column: "features", "labels", "ids", and of tables also "split",
            "valid", "reason", "image_sha256" and "about".
        format: As `format_of` names it.
        command: What the child is; for tests.

    Raises:
        UsageError: For keys that do not exist or hold something else.
        CorruptError: If the file is damaged, or the child crashes on it.
        UnsafeFileError: If it reaches elsewhere, or the child hangs or misbehaves.
    """
    with opened_readonly(path) as fd:
        found = os.fstat(fd)
        limit_s = START_S + found.st_size / _BYTES_PER_S
        with starting("The process that reads a foreign file", kept="Nothing was written."):
            reading = subprocess.Popen(
                [*command, json.dumps(asked), str(math.ceil(limit_s)), format],
                stdin=fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        with reading as process:
            assert process.stdout is not None, "a pipe was asked for"
            # The holes of a sparse file weigh nothing; some file systems count no blocks.
            nbytes = min(found.st_size, found.st_blocks * 512 or found.st_size)
            child = Child(path, process.stdout, process, nbytes=nbytes)
            timer = threading.Timer(limit_s, _stop, [child, process])
            timer.daemon = True
            try:
                with starting("The thread that ends a reader", kept="Nothing was written."):
                    timer.start()
                yield child.columns(asked)
                child.receive(b"DONE")
            finally:
                timer.cancel()
                process.kill()


def _stop(child: Child, process: subprocess.Popen[bytes]) -> None:
    child.is_late = True
    process.kill()


def _environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")}
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
    return {**own, **alone, "HDF5_PLUGIN_PRELOAD": "::", "ARROW_DEFAULT_MEMORY_POOL": "system"}
