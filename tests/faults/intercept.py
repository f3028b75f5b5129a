"""Stand between one process and the kernel: kill it, fail it or cut it short at its n-th write.

A seccomp filter hands every call of a child that changes files, whichever of its threads makes it,
to this process before the kernel runs it (https://docs.kernel.org/userspace-api/
seccomp_filter.html, "Userspace Notification"; Linux 5.5). So the calls of a whole process stand in
one row, those of libhdf5 among them, and "the 17th" is one place. `strace --inject` counts for each
thread and each kind of call apart, which leaves places that no number reaches.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py

# Numbers of x86-64, each with the argument that holds the file.
_BY_FILE = {
    "write": (1, 0),
    "pwrite64": (18, 0),
    "writev": (20, 0),
    "sendfile": (40, 0),
    "fsync": (74, 0),
    "fdatasync": (75, 0),
    "ftruncate": (77, 0),
    "fchmod": (91, 0),
    "sync_file_range": (277, 0),
    "fallocate": (285, 0),
    "pwritev": (296, 0),
    "copy_file_range": (326, 2),
    "pwritev2": (328, 0),
}
# Likewise, with the argument that holds the name; the one before it is its folder, if "at" is in.
_BY_NAME = {
    "open": (2, 0),
    "truncate": (76, 0),
    "rename": (82, 0),
    "mkdir": (83, 0),
    "rmdir": (84, 0),
    "creat": (85, 0),
    "link": (86, 0),
    "unlink": (87, 0),
    "symlink": (88, 1),
    "chmod": (90, 0),
    "openat": (257, 1),
    "mkdirat": (258, 1),
    "unlinkat": (263, 1),
    "renameat": (264, 1),
    "linkat": (265, 1),
    "renameat2": (316, 1),
}
WRITERS = tuple(_BY_FILE) + tuple(_BY_NAME)
_NAMES = {number: name for name, (number, _) in {**_BY_FILE, **_BY_NAME}.items()}
_OPENS_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TIMEOUT_S = 120.0

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SECCOMP, _PIDFD_GETFD, _NO_NEW_PRIVS, _LISTENER = 317, 438, 38, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1
_libc = ctypes.CDLL(None, use_errno=True)

Child = Callable[[Callable[[int], None]], None]
"""What runs in the child; it is given a function that tells a number to the parent."""


@dataclass(frozen=True)
class Fault:
    """What happens to a call.

    Attributes:
        kind: "SIGKILL" before the call; an errno's name, instead of it; "short": half is written.
        at: The number of the call, from 1; 0 is none.
        lasts: Whether it happens to all calls from there on.
    """

    kind: str = ""
    at: int = 0
    lasts: bool = False

    def meets(self, number: int) -> bool:
        """Tell whether it happens to this call."""
        return self.at > 0 and (number >= self.at if self.lasts else number == self.at)


class Call(NamedTuple):
    """A call that changes files."""

    name: str
    path: Path


@dataclass(frozen=True)
class Outcome:
    """How a child went.

    Attributes:
        status: Its exit code; negative: the signal that ended it.
        calls: Its calls that change files below the folder, in order.
        hit: The first call that the fault happened to.
        told: The numbers that it told before it ended.
        stderr: What it wrote there.
    """

    status: int
    calls: list[Call]
    hit: Call | None
    told: set[int]
    stderr: str


def run(
    child: Child,
    folder: Path,
    fault: Fault = Fault(),
    *,
    beside: Callable[[int], contextlib.AbstractContextManager[object]] | None = None,
) -> Outcome:
    """Run a forked child, with a fault at one of its calls that change files below a folder.

    Args:
        child: What it does; SystemExit is its exit code.
        folder: Absolute, without links; calls elsewhere are left alone and not counted.
        fault: What happens, and where.
        beside: Entered with the child's number before it starts, left when it has ended.

    Raises:
        SystemExit: If this machine has no such interception; it is never skipped in silence.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit("the numbers of the system calls are those of Linux on x86-64")
    ours, theirs = socket.socketpair()
    log = os.memfd_create("stderr")
    pid = os.fork()
    if pid == 0:
        ours.close()
        _be_child(child, theirs, log)
    theirs.close()
    try:
        with beside(pid) if beside else contextlib.nullcontext():
            ours.sendall(b"go")
            _, [listener], _, _ = socket.recv_fds(ours, 1, 1)
            supervisor = _Supervisor(pid, listener, folder, fault)
            try:
                supervisor.serve()
            finally:
                os.close(listener)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told = struct.unpack(f"={len(said := _all_of(ours)) // 4}I", said)
        stderr = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        return Outcome(status, supervisor.calls, supervisor.hit, set(told), stderr)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    finally:
        ours.close()
        os.close(log)


def _all_of(ours: socket.socket) -> bytes:
    return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def _be_child(child: Child, theirs: socket.socket, log: int) -> None:
    """Run in the child, and end it."""
    status = 1
    faulthandler.disable()  # pytest's: a naive child may die with SIGSEGV
    try:
        theirs.recv(2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        os.dup2(log, 2)
        # Those of the parent may lead elsewhere, as under pytest.
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        listener = _install_filter()
        socket.send_fds(theirs, [b"\0"], [listener])
        os.close(listener)
        child(lambda number: theirs.sendall(struct.pack("=I", number)))
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else int(err.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # What libhdf5 does as a process ends, where files that failed are still open; the other
        # exit handlers, which take torch 0.3 s, have nothing to do with files.
        ctypes.CDLL(h5py.h5.__file__).H5close()
        os._exit(status)


def _install_filter() -> int:
    """Ask for the calls; returns the descriptor on which they arrive."""
    numbers = sorted(_NAMES)
    program = [struct.pack("=HBBI", _LOAD, 0, 0, 0)]
    program += [
        struct.pack("=HBBI", _JUMP_IF_EQUAL, len(numbers) - i, 0, number)
        for i, number in enumerate(numbers)
    ]
    program += [struct.pack("=HBBI", _RETURN, 0, 0, verdict) for verdict in (_ALLOW, _NOTIFY)]
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = int(_libc.syscall(_SECCOMP, 1, _LISTENER, header))
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp is not permitted: {os.strerror(number)}")
    return listener


class _Supervisor:
    """Answers the calls of one child."""

    def __init__(self, pid: int, listener: int, folder: Path, fault: Fault) -> None:
        self.calls: list[Call] = []
        self.hit: Call | None = None
        self._pid = pid
        self._listener = listener
        self._folder = folder
        self._fault = fault

    def serve(self) -> None:
        """Answer until the child has ended."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        deadline_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline_s:
            for _, events in poll.poll(1000):
                if events & select.POLLIN:
                    # A thread that dies with its process takes its notice along.
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        self._answer()
                else:
                    return
        raise TimeoutError(f"the child did not end within {_TIMEOUT_S:g} s")

    def _answer(self) -> None:
        notice = bytearray(_NOTICE.size)
        fcntl.ioctl(self._listener, _RECEIVE, notice)
        notice_id, tid, _, number, _, _, *arguments = _NOTICE.unpack(notice)
        call = self._call(tid, _NAMES[number], arguments)
        value, error, flags = 0, 0, _CONTINUE
        if call is not None:
            self.calls.append(call)
            if self._fault.meets(len(self.calls)):
                if self._fault.kind == "SIGKILL":
                    self.hit = call
                    os.kill(self._pid, signal.SIGKILL)
                    return
                if self._fault.kind != "short":
                    self.hit = self.hit or call
                    error, flags = -getattr(errno, self._fault.kind), 0
                elif (written := self._write_half(tid, call.name, arguments)) is not None:
                    self.hit = self.hit or call
                    value, flags = written, 0
        fcntl.ioctl(self._listener, _SEND, bytearray(_ANSWER.pack(notice_id, value, error, flags)))

    def _call(self, tid: int, name: str, arguments: list[int]) -> Call | None:
        """Name a call; None if it changes nothing below the folder."""
        process = Path(f"/proc/{tid}")
        if name in _BY_FILE:
            path = (process / "fd" / str(arguments[_BY_FILE[name][1]])).readlink()
        else:
            i = _BY_NAME[name][1]
            if name in ("open", "openat") and not arguments[i + 1] & _OPENS_TO_WRITE:
                return None
            path = Path(os.fsdecode(_memory(tid, arguments[i], 4096).partition(b"\0")[0]))
            if not path.is_absolute():
                parent = ctypes.c_int(arguments[i - 1]).value if name.endswith(("at", "2")) else -1
                path = (process / (f"fd/{parent}" if parent >= 0 else "cwd")).readlink() / path
        return Call(name, path) if path.is_relative_to(self._folder) else None

    def _write_half(self, tid: int, name: str, arguments: list[int]) -> int | None:
        """Write the first half of what a call wants written; None if it is not such a call."""
        file, address, nbytes, offset, *_ = arguments
        if name not in ("write", "pwrite64") or nbytes < 2:
            return None
        half = _memory(tid, address, nbytes // 2)
        with _same_file(self._pid, file) as fd:
            return os.write(fd, half) if name == "write" else os.pwrite(fd, half, offset)


def _memory(tid: int, address: int, nbytes: int) -> bytes:
    """Read a process's memory, up to where it ends."""
    memory = os.open(f"/proc/{tid}/mem", os.O_RDONLY)
    try:
        return os.pread(memory, nbytes, address)
    finally:
        os.close(memory)


@contextlib.contextmanager
def _same_file(pid: int, file: int) -> Iterator[int]:
    """Share an open file of a process, its position included."""
    process = os.pidfd_open(pid)
    fd = int(_libc.syscall(_PIDFD_GETFD, process, file, 0))
    os.close(process)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield fd
    finally:
        os.close(fd)
