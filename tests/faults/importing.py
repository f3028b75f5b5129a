"""Foreign HDF5 files: good ones come in bit for bit, bad ones cost an exit code and nothing else.

The import runs in this process, its reader in a child: a crash that reached us would end us, and
memory that it takes is ours. The controls open hostile files in-process, as everyone does: they
read what lies outside of a file, and take a gigabyte for one of 13 kB.
"""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import featcache
from featcache.errors import FeatcacheError, NonFiniteError
from featcache.store.imports import sandbox
from tests.faults.claims import Claim, main

N, D = 300, 8
_FEATURES = np.random.default_rng(0).standard_normal((N, D))
_NAIVE = "import h5py, sys; print(float(h5py.File(sys.argv[1])['x'][0, 0]))"
_GREEDY = (
    "import h5py, resource, sys\n"
    "labels = h5py.File(sys.argv[1])['y'][:].astype(int)\n"
    "ids = [str(i) for i in range(len(labels))]\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)
_SECRET = 424242.0
_MOST_MEMORY = 512 << 20
_INFLATING = ("labels", "rows", "ids", "long rows", "just allowed")

GOOD: dict[str, dict[str, object]] = {
    "contiguous f4": {"dtype": "f4"},
    "gzip and shuffle f4": {"dtype": "f4", "chunks": (64, 4), "compression": 9, "shuffle": True},
    "fletcher32 f8": {"dtype": "f8", "chunks": (50, 8), "fletcher32": True},
    "lzf f2": {"dtype": "f2", "chunks": (33, 8), "compression": "lzf"},
    "big-endian f4": {"dtype": ">f4"},
    "szip f4": {"dtype": "f4", "chunks": (64, 8), "compression": "szip"},
}


def make(path: Path, features: object = _FEATURES, **options: Any) -> Path:
    with h5py.File(path, "w") as h5:
        h5.create_dataset(
            "x", data=np.asarray(features).astype(options.pop("dtype", "f4")), **options
        )
        h5["y"] = np.arange(N)[:, None] % 3
        h5["id"] = [f"image {i}" for i in range(N)]
    return path


def is_right(folder: Path, options: dict[str, object]) -> bool:
    path = make(folder / "good.h5", **options)
    found = featcache.import_features(
        path, features="x", labels="y", ids="id", cache_dir=folder / "cache"
    )
    split = featcache.open_cache(found.path)["train"]
    expected = _FEATURES.astype(str(options["dtype"])).astype("<f4")
    return (
        split.features.tobytes() == expected.tobytes()
        and split.labels.tolist() == [i % 3 for i in range(N)]
        and list(split.ids)[:2] == ["image 0", "image 1"]
        and featcache.verify_cache(found.path).is_sound
    )


def hostile(folder: Path) -> dict[str, Path]:
    """Files that reach elsewhere, lie, or eat memory; all with datasets x and y."""
    made: dict[str, Path] = {}
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as h5:
        h5["x"] = np.full((N, D), _SECRET, "f4")
    raw = folder / "secret.raw"
    raw.write_bytes(np.full((N, D), _SECRET, "f4").tobytes())

    def add(name: str, build: Callable[[h5py.File], object]) -> None:
        path = folder / f"{name.replace(' ', '-')}.h5"
        with h5py.File(path, "w") as h5:
            h5["y"] = np.arange(N) % 3
            build(h5)
        made[name] = path

    def virtual(h5: h5py.File) -> None:
        layout = h5py.VirtualLayout((N, D), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "x", (N, D))
        h5.create_virtual_dataset("x", layout)

    def bomb(h5: h5py.File) -> None:
        x = h5.create_dataset("x", (N, D), "f4", chunks=(N, D), compression=1)
        part = zlib.compressobj(9, zlib.DEFLATED, -15)
        zeros = part.compress(bytes(64 << 20)) + part.flush(zlib.Z_FULL_FLUSH)
        adler = (((64 << 20) * 48 % 65521) << 16) | 1
        stream = b"\x78\x9c" + zeros * 48 + b"\x03\x00" + adler.to_bytes(4, "big")
        x.id.write_direct_chunk((0, 0), stream)

    add("external link", lambda h5: h5.__setitem__("x", h5py.ExternalLink(str(secret), "x")))
    add("soft link", lambda h5: h5.__setitem__("x", h5py.SoftLink("/y")))
    add("dangling link", lambda h5: h5.__setitem__("x", h5py.SoftLink("/none")))
    add(
        "external storage",
        lambda h5: h5.create_dataset("x", (N, D), "f4", external=[(str(raw), 0, N * D * 4)]),
    )
    add("virtual", virtual)
    add("gzip bomb", bomb)
    add("vlen", lambda h5: h5.create_dataset("x", (N,), h5py.vlen_dtype("f4")))
    add("references", lambda h5: h5.create_dataset("x", (N, 1), h5py.ref_dtype))
    add("compound", lambda h5: h5.create_dataset("x", (N, 1), [("a", "f4")]))
    add("unwritten chunks", lambda h5: h5.create_dataset("x", (N, D), "f4", chunks=(10, D)))
    add("huge and sparse", lambda h5: h5.create_dataset("x", (1 << 40, D), "f4", chunks=(10, D)))
    add("unknown filter", lambda h5: h5.create_dataset("x", (N, D), "i4", scaleoffset=4))
    add("whole numbers", lambda h5: h5.create_dataset("x", data=np.ones((N, D), "i4")))
    add("empty", lambda h5: h5.create_dataset("x", (0, D), "f4"))
    add("group", lambda h5: h5.create_group("x"))
    add("other length", lambda h5: h5.create_dataset("x", data=np.ones((N - 1, D), "f4")))
    made |= _inflating(folder)
    whole = make(folder / "whole.h5", chunks=(64, 4), compression=4).read_bytes()
    for share in (0, 1, 30, 60, 99):
        made[f"cut at {share}%"] = folder / f"cut{share}.h5"
        made[f"cut at {share}%"].write_bytes(whole[: len(whole) * share // 100])
    return made


def _inflating(folder: Path) -> dict[str, Path]:
    """Files of some kilobytes that promise labels, ids or rows for gigabytes of memory."""
    made = {n: folder / f"{n.replace(' ', '-')}.h5" for n in _INFLATING}
    digits = (np.arange(3_000_000)[:, None] // 10 ** np.arange(7, -1, -1) % 10 + 48).astype("u1")
    for name, shape, n_labels in (
        ("labels", (10, 1), 10_000_000),
        ("rows", (40_000_000, 1), 40_000_000),
        ("ids", (3_000_000, 1), 3_000_000),
        ("long rows", (N, 1 << 22), N),
        ("just allowed", (1 << 24, 1), 1 << 24),  # refused for its last row, when all was read
    ):
        with h5py.File(made[name], "w") as h5:
            y = h5.create_dataset("y", (n_labels,), "i1", chunks=(n_labels,), compression=9)
            y[:] = 0
            chunk = (min(shape[0], 1 << 20), 1) if shape[1] == 1 else (1, shape[1])
            x = h5.create_dataset("x", shape, "f2", chunks=chunk, compression=9)
            zeros = zlib.compress(bytes(2 * chunk[0] * chunk[1]), 9)
            for start in range(0, shape[0], chunk[0]):
                x.id.write_direct_chunk((start, 0), zeros)
            if name == "just allowed":
                x[-1] = np.nan
            if name == "ids":
                ids = digits.view("S8")[:, 0]
                h5.create_dataset("id", data=ids, chunks=(1 << 18,), compression=9, shuffle=True)
    return made


def peak_memory(act: Callable[[], object]) -> int:
    """Bytes by which the memory of this process grows at most while `act` runs."""

    def now(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = now("VmRSS")
    act()
    return now("VmHWM") - before


def outcome(path: Path, cache_dir: Path) -> int | None:
    """Import; the exit code, or None if it ended otherwise or left a file."""
    ids = "id" if path.stem == "ids" else None
    try:
        featcache.import_features(path, features="x", labels="y", ids=ids, cache_dir=cache_dir)
    except NonFiniteError:
        code: int | None = 13  # a named refusal; a flipped bit of a float
    except FeatcacheError as err:
        code = err.exit_code
    except Exception:
        return None
    else:
        return 0
    return None if [*cache_dir.rglob("*.h5"), *cache_dir.rglob("*.partial")] else code


def mutated(folder: Path, n: int) -> list[int | None]:
    """Flip 1 to 8 bits of a file, anywhere."""
    rng = random.Random(0)
    whole = make(folder / "before.h5", chunks=(64, 4), compression=4, fletcher32=True).read_bytes()
    codes = []
    for i in range(n):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path = folder / "mutated.h5"
        path.write_bytes(content)
        codes.append(outcome(path, folder / f"mutated{i}"))
    return codes


def bad_children(folder: Path) -> list[int | None]:
    """Put children in the reader's place that crash, hang, flood or lie."""
    path = make(folder / "fine.h5")
    usual = sandbox.CHILD, sandbox.START_S
    codes = []
    for _, code in enumerate(
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "import time; time.sleep(60)",
            "import os\nwhile True: os.write(1, b'ROWS' + bytes(1 << 16))",
            "import os; os.write(1, b'HEAD' + (9).to_bytes(4, 'little') + b'[1,2,3,4]')",
            "import os; os.write(1, b'HEAD' + (1 << 31).to_bytes(4, 'little'))",
        )
    ):
        command = (sys.executable, "-c", code)
        try:
            sandbox.START_S = 1.0
            with sandbox.reading(path, [("features", "x")], command=command) as columns:
                for part in columns[0].parts():
                    del part
            codes.append(0)
        except FeatcacheError as err:
            codes.append(err.exit_code)
        finally:
            sandbox.START_S = usual[1]
    return codes


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    n_right = sum(is_right(folder, dict(options)) for options in GOOD.values())
    made = hostile(folder)
    if quick:
        del made["gzip bomb"]  # 13 seconds of one core
    codes: dict[str, int | None] = {}
    peak = peak_memory(
        lambda: codes.update(
            {name: outcome(p, folder / f"of-{p.stem}") for name, p in made.items()}
        )
    )
    wrong = {name: code for name, code in codes.items() if code not in (2, 13, 15)}
    of_children = bad_children(folder)
    n_mutated = 6 if quick else 200
    of_mutated = mutated(folder, n_mutated)
    n_read = 0
    for name in ("external link", "external storage", "virtual"):
        naive = subprocess.run(
            [sys.executable, "-c", _NAIVE, str(made[name])],
            capture_output=True,
            text=True,
            check=False,
        )
        n_read += naive.stdout.strip() == str(_SECRET)
    greedy = subprocess.run(
        [sys.executable, "-c", _GREEDY, str(made["labels"])],
        capture_output=True,
        text=True,
        check=True,
    )
    of_naive = int(greedy.stdout)
    refused = sum(code not in (0, None) for code in of_mutated)
    return [
        Claim(
            number=18,
            line=f"{n_right} of {len(GOOD)} kinds of good files imported bit for bit; "
            f"{len(codes) - len(wrong)} of {len(codes)} bad ones refused with exit 2, 13 or 15"
            f"{f' (not: {wrong})' if wrong else ''}, {peak / 1e6:.0f} MB of this process's memory "
            f"at most; readers that crash, hang, flood or lie: exits "
            f"{of_children}; {n_mutated} files with flipped bits: {refused} refused, "
            f"{of_mutated.count(0)} read, {of_mutated.count(None)} unnamed errors or files left",
            is_proved=n_right == len(GOOD)
            and not wrong
            and peak < _MOST_MEMORY
            and all(code in (13, 15) for code in of_children)
            and None not in of_mutated,
            control=f"h5py in-process read the secret outside the file in {n_read} of 3; labels "
            f"and ids of {made['labels'].stat().st_size} bytes took {of_naive / 1e6:.0f} MB",
            control_failed=n_read > 0 and of_naive > _MOST_MEMORY,
        )
    ]


if __name__ == "__main__":
    sys.exit(main("importing", claims))
