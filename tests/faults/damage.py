"""Damage that is found, and repaired byte for byte (claim 11)."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

import featcache
from featcache.errors import FeatcacheError
from featcache.store import read_state, verify_cache
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images, small_blocks

_PAGE = 512


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Flip bits, cut, extend, zero and swap; verify each, repair each flip."""
    n_flips, n_backbone_flips, n_others = (30, 0, 30) if quick else (1000, 20, 300)
    rng = random.Random(0)
    images = make_images(folder / "images", n_train=300, n_test=70)
    pixels = extract(images, folder / "pixels", backbone="pixels", image_size=16).path
    found, restored, rows = _flips(pixels, n_flips, rng)
    if n_backbone_flips:
        backbone = extract(images, folder / "trunk", batch_size=32).path
        more = _flips(backbone, n_backbone_flips, rng)
        found, restored = found + more[0], restored + more[1]
    n_all = n_flips + n_backbone_flips
    kinds: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "truncations": lambda c, r: c[: r.randrange(len(c))],
        "extensions": lambda c, r: c + r.randbytes(r.randint(1, 9000)),
        "zeroed pages": _zeroed,
        "swapped blocks": _swapper(pixels),
    }
    others = {name: _found(pixels, harm, n_others, rng) for name, harm in kinds.items()}
    told = ", ".join(f"{n} of {n_others} {name}" for name, n in others.items())
    n_silent = _naive_flips(folder, 100, rng)
    return [
        Claim(
            11,
            f"{n_all} single bit flips: {found} found, {restored} repaired byte for byte with "
            f"{rows} rows computed again at most; found: {told}",
            found == restored == n_all
            and rows <= 64
            and all(n == n_others for n in others.values()),
            f"100 bit flips in a plain HDF5 file: {n_silent} read without a word",
            n_silent > 0,
        )
    ]


def _flips(path: Path, n: int, rng: random.Random) -> tuple[int, int, int]:
    """Flip bits, every second one outside the features: (found, restored, most rows computed)."""
    sound = path.read_bytes()
    features = [s.columns["features"] for s in read_state(path).manifest.splits.values()]
    n_found = n_restored = most = 0
    for i in range(n):
        byte = rng.randrange(len(sound))
        while i % 2 and any(f.offset <= byte < f.offset + f.nbytes for f in features):
            byte = rng.randrange(len(sound))
        harmed = bytearray(sound)
        harmed[byte] ^= 1 << rng.randrange(8)
        path.write_bytes(harmed)
        n_found += _is_found(path)
        try:
            report = featcache.repair_cache(path, n_workers=0)
        except FeatcacheError as err:
            print(f"a flip at byte {byte} was not repaired: {err}", file=sys.stderr)
            path.write_bytes(sound)
            continue
        most = max(most, report.n_rows_computed)
        n_restored += path.read_bytes() == sound
        path.write_bytes(sound)
    return n_found, n_restored, most


def _found(
    path: Path, harm: Callable[[bytes, random.Random], bytes], n: int, rng: random.Random
) -> int:
    sound = path.read_bytes()
    n_found = 0
    for _ in range(n):
        harmed = harm(sound, rng)
        assert harmed != sound, "nothing was harmed"
        path.write_bytes(harmed)
        n_found += _is_found(path)
    path.write_bytes(sound)
    return n_found


def _is_found(path: Path) -> bool:
    try:
        return not verify_cache(path).is_sound
    except FeatcacheError:
        return True


def _zeroed(content: bytes, rng: random.Random) -> bytes:
    while True:
        start = _PAGE * rng.randrange(len(content) // _PAGE)
        if any(content[start : start + _PAGE]):
            return content[:start] + bytes(_PAGE) + content[start + _PAGE :]


def _swapper(path: Path) -> Callable[[bytes, random.Random], bytes]:
    manifest = read_state(path).manifest
    features = manifest.splits["train"].columns["features"]
    blocks = [b for b in manifest.blocks() if b.split == "train"][:-1]

    def swap(content: bytes, rng: random.Random) -> bytes:
        one, other = rng.sample(blocks, 2)
        a, nbytes = features.rows(one.start, one.stop)
        b, _ = features.rows(other.start, other.stop)
        swapped = bytearray(content)
        swapped[a : a + nbytes], swapped[b : b + nbytes] = (
            content[b : b + nbytes],
            content[a : a + nbytes],
        )
        return bytes(swapped)

    return swap


def _naive_flips(folder: Path, n: int, rng: random.Random) -> int:
    """Flip bits in a plain file; how often other numbers are read, and no error."""
    plain, harmed = folder / "plain.h5", folder / "harmed.h5"
    rows = np.arange(64_000, dtype="f4").reshape(1000, 64)
    with h5py.File(plain, "w") as h5:
        h5["features"] = rows
    n_silent = 0
    for _ in range(n):
        shutil.copy(plain, harmed)
        with harmed.open("r+b") as file:
            byte = rng.randrange(harmed.stat().st_size)
            file.seek(byte)
            old = file.read(1)[0]
            file.seek(byte)
            file.write(bytes([old ^ 1 << rng.randrange(8)]))
        try:
            with h5py.File(harmed) as h5:
                n_silent += not np.array_equal(h5["features"][:], rows)
        except (OSError, KeyError, RuntimeError, ValueError):
            continue
    return n_silent


if __name__ == "__main__":
    sys.exit(main("damage", claims))
