"""Build .h5 files that reach for other files, for memory or for time, and that are no caches."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache.core.identity import canonical_json
from featcache.store.digest import skeleton_digest
from featcache.store.ledger import SLOT_BYTES, Slot, pack_slot
from featcache.store.manifest import HEADER, MANIFEST_OFFSET, Manifest
from featcache.store.reader import read_manifest

SECRET = b"the secret of another file......"
_GOOD_MANIFEST = b"featcache manifest v002 length="


Write = Callable[[Path], object]
Edit = Callable[[dict[str, Any]], object]


def hostile(folder: Path, good: bytes) -> dict[str, Write]:
    """What writes each hostile file; `good` is a sound cache to start from.

    Args:
        folder: Where the secret lies that some of them reach for.
        good: The bytes of the cache.
    """
    folder.mkdir()
    secret = folder / "secret.bin"
    secret.write_bytes(SECRET)
    return {**_with_h5py(secret), **_from(good), **_places(secret)}


def build_all(folder: Path, writers: dict[str, Write]) -> dict[str, Path]:
    """Write every file into a folder, by its name."""
    made = {name: folder / f"{name}.h5" for name in writers}
    for name, path in made.items():
        writers[name](path)
    return made


def unusable(good: bytes) -> dict[str, Write]:
    """Caches of pixels that are signed, and say what no command can use."""
    nested: list[Any] = []
    for _ in range(500):
        nested = [nested]
    sides, factors = {"resize": [1 << 40, 8]}, {"mean": ["a"]}
    return _resigned(
        good,
        {
            "no-backbone": lambda m: m["identity"].pop("backbone"),
            "no-dataset": lambda m: m["provenance"].pop("dataset"),
            "backbone-elsewhere": lambda m: m["identity"].update(backbone="../../out"),
            "backbone-escapes": lambda m: m["identity"].update(backbone="\x1b[2J"),
            "long-backbone": lambda m: m["identity"].update(backbone="x" * 600),
            "nested": lambda m: m["identity"].update(bn=nested),
            "no-preprocess": lambda m: m["identity"].pop("preprocess"),
            "preprocess-text": lambda m: m["identity"].update(preprocess="notebook"),
            "preprocess-huge": lambda m: m["identity"]["preprocess"].update(sides),
            "preprocess-mean": lambda m: m["identity"]["preprocess"].update(factors),
            "batch-below-0": lambda m: m["numerics"].update(batch_size=-1),
            "huge-blocks": lambda m: m.update(rows_per_block=1 << 50),
            "one-class": lambda m: m.update(class_names=["cat"]),
            "no-class": lambda m: m.update(class_names=[]),
        },
    )


def of_no_dataset(good: bytes) -> dict[str, Write]:
    """Caches whose dataset is none, which only what names a folder after it can tell."""
    names = {"dataset-elsewhere": "../../out", "dataset-nul": "folder:a\0b", "dataset": "x" * 999}
    return _resigned(
        good,
        {
            name: lambda m, text=text: m["provenance"].update(dataset=text)  # type: ignore[misc]
            for name, text in names.items()
        },
    )


def laid_out_otherwise(good: bytes) -> dict[str, Write]:
    """Caches of the same identity with rows of 8 x 8 pixels described otherwise."""

    def features(**described: object) -> Edit:
        return lambda m: m["splits"][0]["columns"]["features"].update(described)

    n_rows = manifest_of(good).splits["train"].n_rows
    return _resigned(
        good,
        {
            "other-shape": features(shape=[n_rows, 192]),
            "other-type": features(shape=[n_rows, 8, 4, 3], dtype="<f2"),
            "other-split": lambda m: m["splits"][0].update(name="other"),
            "other-order": lambda m: m["splits"].reverse(),
        },
    )


def _resigned(good: bytes, edits: dict[str, Edit]) -> dict[str, Write]:
    contents = {name: resigned(good, edit) for name, edit in edits.items()}
    return {
        name: lambda path, content=content: path.write_bytes(content)  # type: ignore[misc]
        for name, content in contents.items()
    }


def _with_h5py(secret: Path) -> dict[str, Write]:
    def h5(fill: Callable[[h5py.File], object]) -> Write:
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


def _from(good: bytes) -> dict[str, Write]:
    def raw(content: bytes) -> Write:
        return lambda path: path.write_bytes(content)

    def sparse(content: bytes) -> Write:
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
        "other-version": raw(good.replace(_GOOD_MANIFEST, b"featcache manifest v003 length=")),
        "huge-length": raw(good.replace(_GOOD_MANIFEST + b"00000", _GOOD_MANIFEST + b"99999")),
        "other-headers": raw(other_address),
        "nan": raw(good.replace(b'"limit":null', b'"limit":NaN ')),
        "unsigned": raw(good.replace(b'"backbone":"pixels"', b'"backbone":"pixelz"')),
        "negative": raw(good.replace(b'"offset":', b'"offset"-')),
        "sparse-hole": sparse(good[:8]),
        "sparse-cache": sparse(good),
    }


def _places(secret: Path) -> dict[str, Write]:
    return {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "link-to-device": lambda path: path.symlink_to("/dev/zero"),
        "link-to-secret": lambda path: path.symlink_to(secret),
        "link-to-folder": lambda path: path.symlink_to(secret.parent),
    }


def resigned(good: bytes, edit: Edit) -> bytes:
    """Change what the manifest of a cache says, and sign it, its identity and the skeleton anew."""
    manifest = manifest_of(good)
    value = json.loads(manifest.to_bytes().partition(b"\n")[2])
    edit(value)
    identity = canonical_json(value["identity"])
    value["fingerprint"] = hashlib.sha256(identity.encode()).hexdigest()
    return with_manifest(good, manifest, value)


def with_manifest(good: bytes, manifest: Manifest, value: object) -> bytes:
    """Write JSON in the manifest's place, its own digest and that of the skeleton right."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    header = HEADER.format(version=manifest.version, length=len(body), sha256=sha256).encode()
    signed = (header + body).ljust(len(manifest.to_bytes()), b"\0")
    changed = bytearray(good)
    changed[MANIFEST_OFFSET : MANIFEST_OFFSET + len(signed)] = signed
    fd = _in_memory(bytes(changed))
    try:
        slot = Slot(skeleton_digest(fd, manifest), bytes(8))  # at the places of before
    finally:
        os.close(fd)
    place = manifest.ledger.offset
    changed[place : place + SLOT_BYTES] = pack_slot(0, slot, 0)
    return bytes(changed)


def manifest_of(content: bytes) -> Manifest:
    """Read the manifest of a cache that is in memory."""
    fd = _in_memory(content)
    try:
        return read_manifest(fd, name="good")
    finally:
        os.close(fd)


def _in_memory(content: bytes) -> int:
    fd = os.memfd_create("cache")
    os.write(fd, content)
    return fd
