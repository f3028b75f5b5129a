"""A full disk: refused with exit 14, what is there is kept, and the command goes on (claim 5)."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from featcache.store import list_caches
from tests.faults.claims import Claim, main, require_tool
from tests.faults.command import extract_arguments, run_command
from tests.faults.images import extract, make_images, small_blocks

_SIDE, _N_TRAIN, _N_TEST = 96, 600, 150  # 20.7 MB of rows
_MIB = 1 << 20


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Fill file systems of many sizes, limit the size of files, and fill a disk in mid-run."""
    images = make_images(folder / "images", n_train=_N_TRAIN, n_test=_N_TEST)
    whole = extract(images, folder / "whole", backbone="pixels", image_size=_SIDE)
    content = whole.path.read_bytes()
    sizes = [1, 8, 16, 19] if quick else range(1, 33)
    n_small = n_refused = n_same = 0
    for mib in sizes:
        with _tmpfs(folder / f"disk{mib}", mib) as disk:
            ended = run_command(extract_arguments(images, disk, side=_SIDE), folder / "log")
            if mib * _MIB < len(content):
                n_small += 1
                n_refused += ended.code == 14 and ended.is_clean and "missing" in ended.text
                _mount(disk, f"remount,size={2 * len(content)}")
                ended = run_command(extract_arguments(images, disk, side=_SIDE), folder / "log")
            n_same += ended.code == 0 and list_caches(disk)[0].path.read_bytes() == content
    limits = np.linspace(1000, len(content) - 1, 4 if quick else 20).astype(int)
    n_limited = sum(_file_limit(folder, images, int(n), content) for n in limits)
    n_going_on = sum(_filled_in_mid_run(folder, images, n, content) for n in ((1, 5, 9)))
    heads = _heads(folder, quick=quick)
    silent = _naive(folder)
    n_sizes, n_limits = len(sizes), len(limits)
    return [
        Claim(
            5,
            f"{n_small} disks too small: {n_refused} times exit 14, {n_same}/{n_sizes} "
            f"byte-identical once there is room; {n_limits} limits of file size: {n_limited} times "
            f"exit 14, then byte-identical; a disk filled by others in mid-run: {n_going_on} of 3 "
            f"runs go on; heads on a full disk: {heads} of 3 as they were, exit 14",
            (n_refused, n_same, n_limited, n_going_on, heads) == (n_small, n_sizes, n_limits, 3, 3),
            f"h5py on a full disk: {silent}",
            "left" in silent,
        )
    ]


@contextlib.contextmanager
def _tmpfs(disk: Path, mib: int) -> Iterator[Path]:
    require_tool("mount")
    disk.mkdir()
    _mount(disk, f"size={mib * _MIB}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def _mount(disk: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a tmpfs cannot be mounted, and this proves nothing without: {done.stderr}")


def _file_limit(folder: Path, images: Path, nbytes: int, content: bytes) -> bool:
    """Refuse files beyond `nbytes`, then none."""
    cache = folder / f"limit{nbytes}"
    arguments = extract_arguments(images, cache, side=_SIDE)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))

    ended = run_command(arguments, cache.with_suffix(".log"), before=limit)
    if ended.code != 14 or not ended.is_clean:
        print(f"limit {nbytes}: exit {ended.code}: {ended.text[-300:]}", file=sys.stderr)
        return False
    again = run_command(arguments, folder / "log")
    return again.code == 0 and list_caches(cache)[0].path.read_bytes() == content


def _filled_in_mid_run(folder: Path, images: Path, n_blocks: int, content: bytes) -> bool:
    """Stop a run, fill the disk, and go on: its space was reserved at the start."""
    with _tmpfs(folder / f"filled{n_blocks}", len(content) // _MIB + 4) as disk:

        def press_ctrl_c() -> None:
            import signal

            from featcache.store import CacheWriter

            commit, left = CacheWriter.commit, [n_blocks]

            def counted(writer: CacheWriter, *args: object) -> None:
                commit(writer, *args)  # type: ignore[arg-type]
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            CacheWriter.commit = counted  # type: ignore[method-assign]

        arguments = extract_arguments(images, disk, side=_SIDE)
        run_command(arguments, folder / "log", before=press_ctrl_c)
        _fill(disk)
        ended = run_command(arguments, folder / "log")
        if ended.code:
            print(f"a full disk in mid-run: {ended.text[-300:]}", file=sys.stderr)
            return False
        return list_caches(disk)[0].path.read_bytes() == content


def _fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        for step in (_MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(step))


def _heads(folder: Path, *, quick: bool) -> int:
    """Train a head, fill the disk, train two others and sweep: the first is as it was."""
    images = make_images(folder / "few", n_train=40, n_test=10)
    cache = extract(images, folder / "cache", backbone="pixels", image_size=8).path
    n_kept = 0
    with _tmpfs(folder / "runs", 8) as disk:
        train = ["train-head", "--cache", str(cache), "--max-epochs", "1", "--hidden", "4"]
        train += ["--runs-dir", str(disk)]
        assert run_command(train, folder / "log").code == 0, (folder / "log").read_text()
        [head] = disk.rglob("head.safetensors")
        before = head.read_bytes()
        _fill(disk)
        sweep = ["sweep", *train[1:]]
        for command, lr in ((train, "0.5"), (train, "0.25"), (sweep, "0.5")):
            ended = run_command([*command, "--lr", lr], folder / "log")
            is_kept = head.read_bytes() == before
            if ended.code != 14 or not ended.is_clean or not is_kept:
                told = f"exit {ended.code}, head {'kept' if is_kept else 'LOST'}"
                print(f"{command[0]} --lr {lr}: {told}: {ended.text[-400:]}", file=sys.stderr)
            n_kept += ended.code == 14 and ended.is_clean and is_kept
    return n_kept


def _naive(folder: Path) -> str:
    """Append with h5py on a full disk, in a process of its own, and look what is left."""
    with _tmpfs(folder / "naive", 2) as disk:
        path = disk / "rows.h5"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with h5py.File(path, "w") as h5:
                    rows = h5.create_dataset("features", (0, 4096), "f4", maxshape=(None, 4096))
                    for start in range(0, 1000, 10):
                        rows.resize(start + 10, axis=0)
                        rows[start:] = np.full((10, 4096), start + 1, "f4")
            except OSError as err:
                code = 14 if err.errno == errno.ENOSPC else 2
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            with h5py.File(path) as h5:
                n_there = len(h5["features"])
                n_right = int((h5["features"][:, 0] > 0).sum())
        except (OSError, KeyError, RuntimeError):
            return f"exit {code}, no file that opens is left"
        return f"exit {code}, {n_right} of {n_there} rows are left right"


if __name__ == "__main__":
    sys.exit(main("disk", claims))
