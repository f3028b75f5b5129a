"""Build .h5 files that reach for other files, for memory or for time, and that are no caches."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

SECRET = b"the secret of another file......"
_GOOD_MANIFEST = b"featcache manifest v001 length="


def build_all(folder: Path, good: Path) -> dict[str, Path]:
    """Write every hostile file; `good` is a sound cache to start from."""
    folder.mkdir()
    secret = folder / "secret.bin"
    secret.write_bytes(SECRET)
    made = {}
    for name, write in {
        **_with_h5py(secret),
        **_from(good.read_bytes()),
        **_places(secret),
    }.items():
        made[name] = folder / f"{name}.h5"
        write(made[name])
    return made


def _with_h5py(secret: Path) -> dict[str, Callable[[Path], object]]:
    def h5(fill: Callable[[h5py.File], object]) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with h5py.File(path, "w", userblock_size=0) as file:
                fill(file)

        return write

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
        file.create_virtual_dataset("train/features", layout)

    def cycle(file: h5py.File) -> None:
        file.create_group("train")["again"] = file["/"]

    def text(file: h5py.File) -> None:
        file.create_dataset("ids", (9,), h5py.string_dtype())[:] = "x" * 99

    external = [(str(secret), 0, len(SECRET))]
    bomb = np.zeros(1 << 24, np.uint8)
    return {
        "external-storage": h5(
            lambda f: f.create_dataset("x", (len(SECRET),), "u1", external=external)
        ),
        "external-link": h5(lambda f: f.__setitem__("x", h5py.ExternalLink(str(secret), "/x"))),
        "soft-link": h5(lambda f: f.__setitem__("x", h5py.SoftLink("/nowhere"))),
        "group-link": h5(lambda f: f.__setitem__("train", h5py.ExternalLink(str(secret), "/"))),
        "virtual": h5(virtual),
        "cycle": h5(cycle),
        "variable-length": h5(text),
        "terabytes": h5(lambda f: f.create_dataset("x", (1 << 40,), "f4", chunks=(1 << 20,))),
        "gzip-bomb": h5(lambda f: f.create_dataset("x", data=bomb, compression="gzip")),
        "escapes": h5(lambda f: f.create_group("\x1b]0;title\x07\x1b[2J")),
    }


def _from(good: bytes) -> dict[str, Callable[[Path], object]]:
    def raw(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    def sparse(content: bytes) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            path.write_bytes(content)
            os.truncate(path, 1 << 41)

        return write

    other_address = good[:36] + bytes([good[36] ^ 8]) + good[37:]  # superblock 2: root's address
    return {
        "empty": raw(b""),
        "text": raw(b"id,label\n" * 1000),
        "signature-only": raw(good[:8]),
        "cut": raw(good[:-1]),
        "longer": raw(good + b"\0"),
        "other-version": raw(good.replace(_GOOD_MANIFEST, b"featcache manifest v002 length=")),
        "huge-length": raw(good.replace(_GOOD_MANIFEST + b"00000", _GOOD_MANIFEST + b"99999")),
        "other-headers": raw(other_address),
        "nan": raw(good.replace(b'"dataset":"toys"', b'"dataset":NaN   ')),
        "twice": raw(good.replace(b'"seed":0', b'"seed":1')),
        "negative": raw(good.replace(b'"offset":', b'"offset"-')),
        "sparse-hole": sparse(good[:8]),
        "sparse-cache": sparse(good),
    }


def _places(secret: Path) -> dict[str, Callable[[Path], object]]:
    return {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "link-to-device": lambda path: path.symlink_to("/dev/zero"),
        "link-to-secret": lambda path: path.symlink_to(secret),
        "link-to-folder": lambda path: path.symlink_to(secret.parent),
    }
