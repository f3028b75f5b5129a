"""Mutated caches and heads: refused by name, or what they were (claim 16).

Mutations run in processes of their own, with a limit on memory and an alarm for each: what a signal
ended, or what took too long or too much, is counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from featcache.config import HeadSpec, TrainSpec
from featcache.core.identity import canonical_json
from featcache.errors import FeatcacheError
from featcache.heads.head_file import HEAD_FILE, load_head, save_head
from featcache.heads.mlp import build_head
from featcache.heads.trained_head import TrainedHead
from featcache.store import describe_cache, open_cache, verify_cache
from featcache.store.ledger import SLOT_BYTES, Slot, pack_slot
from featcache.store.manifest import Manifest
from tests.faults.claims import Claim, main
from tests.faults.hostile_files import manifest_of, with_manifest
from tests.store.conftest import Recipe, random_rows

_MOST_BYTES = 512 << 20
_LIMIT_S = 5
_CHUNK = 250
Mutate = Callable[[bytes, random.Random], bytes]
Look = Callable[[Path, bytes, bytes], str]


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Mutate a cache and a head, at random and so that their signatures are right again."""
    n = 300 if quick else 10_000
    splits = {"train": random_rows(10, 5, reasons={3: "cut"}), "test": random_rows(3, 5)}
    cache = Recipe(folder / "toys" / "toy-00000000.h5", splits).build()
    head = _make_head(folder / "head")
    caches = _run(cache, folder / "mutated.h5", n, [_at_random, _slot, _manifest], _look_at_cache)
    heads = _run(head, folder / HEAD_FILE, n, [_at_random, _description], _look_at_head)
    n_naive = _naive(cache, folder / "naive.h5", 200)
    both = caches + heads
    bad = ("signal", "hang", "memory", "unnamed", "taken for sound")
    told = ", ".join(f"{both[name]} {name}" for name in bad)
    return [
        Claim(
            16,
            f"{n} mutated caches ({caches['refused']} refused, {caches['unchanged']} unchanged, "
            f"{caches['another']} re-signed into another sound cache) and {n} mutated heads "
            f"({heads['refused']} refused, {heads['unchanged']} unchanged): {told}",
            not any(both[name] for name in bad)
            and all(c["refused"] + c["unchanged"] + c["another"] == n for c in (caches, heads)),
            f"plain h5py reads other rows from {n_naive} of 200 caches with a random mutation, "
            f"without an error",
            n_naive > 0,
        )
    ]


def _run(good: Path, path: Path, n: int, ways: list[Mutate], look: Look) -> Counter[str]:
    """Mutate and look, in chunks that are processes."""
    content = good.read_bytes()
    counts = Counter[str]()
    for first in range(0, n, _CHUNK):
        reading, writing = os.pipe()
        numbers = range(first, min(n, first + _CHUNK))
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                _limit()
                for i in numbers:
                    rng = random.Random(i)
                    mutated = ways[i % len(ways)](content, rng)
                    path.write_bytes(mutated)
                    signal.alarm(_LIMIT_S)
                    outcome = look(path, content, mutated)
                    signal.alarm(0)
                    os.write(writing, f"{outcome}\n".encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            outcomes = [line.strip() for line in pipe]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for outcome in outcomes:
            kind, _, what = outcome.partition(": ")
            counts[kind] += 1
            if what:
                print(outcome, file=sys.stderr)
        if len(outcomes) < len(numbers):
            counts["hang" if code == -signal.SIGALRM else "signal"] += 1
            print(f"mutation {numbers[len(outcomes)]} ended with {code}", file=sys.stderr)
    return counts


def _limit() -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - no file of ours
        base = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + _MOST_BYTES, base + _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _tried(look: Look) -> Look:
    """Name how looking at a file ends that cannot be taken."""

    def tried(path: Path, content: bytes, mutated: bytes) -> str:
        try:
            return look(path, content, mutated)
        except FeatcacheError:
            return "refused"
        except MemoryError:
            return "memory"
        except Exception as err:
            return f"unnamed: {type(err).__name__}: {str(err)[:200]!r}"

    return tried


@_tried
def _look_at_cache(path: Path, content: bytes, mutated: bytes) -> str:
    """Open, describe, verify, and read every row."""
    cache = open_cache(path)
    describe_cache(path)
    if not verify_cache(path).is_sound:
        return "refused"
    for split in cache.splits.values():
        np.array(split.features)
    if mutated == content:
        return "unchanged"
    # Signed anew, another manifest is another file: sound, if every row is what it was.
    columns = [e for s in _manifest_of(content).splits.values() for e in s.columns.values()]
    places = [slice(e.offset, e.offset + e.nbytes) for e in columns]
    is_same = all(mutated[place] == content[place] for place in places)
    return "another" if is_same else "taken for sound"


@_tried
def _look_at_head(path: Path, content: bytes, mutated: bytes) -> str:
    """Load, build and run it."""
    head = load_head(path)
    logits = head.module()(torch.zeros(1, head.n_features))
    assert logits.shape == (1, len(head.class_names))
    if mutated == content or _says(head) == _said(content, path):
        return "unchanged"  # spaces, an unknown key of the metadata, a value by itself
    return "taken for sound"


_sayings: dict[bytes, Any] = {}


def _said(content: bytes, path: Path) -> Any:
    key = hashlib.sha256(content).digest()
    if key not in _sayings:
        path.write_bytes(content)
        _sayings[key] = _says(load_head(path))
    return _sayings[key]


def _says(head: TrainedHead) -> Any:
    """All that a head is, but its place."""
    tensors = {name: (t.dtype, t.tolist()) for name, t in head.state.items()}
    return {**vars(head), "path": None, "arrays": None, "state": tensors}


def _at_random(content: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(content)
    at = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        mutated[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del mutated[at:]
    elif kind == 2:
        start = rng.randrange(len(content))
        mutated[at : at + 64] = content[start : start + 64]
    else:
        mutated[at : at + 8] = rng.randbytes(8)
    return bytes(mutated)


def _slot(content: bytes, rng: random.Random) -> bytes:
    """Write a ledger slot of other content, its CRC right."""
    manifest = _manifest_of(content)
    number = rng.randrange(manifest.n_slots)
    slot = pack_slot(number, Slot(rng.randbytes(32), rng.randbytes(8)), rng.randrange(1 << 32))
    mutated = bytearray(content)
    place = manifest.ledger.offset + rng.randrange(manifest.n_slots) * SLOT_BYTES
    mutated[place : place + SLOT_BYTES] = slot
    return bytes(mutated)


def _manifest(content: bytes, rng: random.Random) -> bytes:
    """Change a value of the manifest, and sign it and the skeleton anew."""
    manifest = _manifest_of(content)
    value = json.loads(manifest.to_bytes().partition(b"\n")[2])
    _change(value, rng)
    if rng.random() < 0.5:
        own = canonical_json(value.get("identity")) if isinstance(value, dict) else ""
        value["fingerprint"] = hashlib.sha256(own.encode()).hexdigest()
    return with_manifest(content, manifest, value)


_manifests: dict[bytes, Manifest] = {}


def _manifest_of(content: bytes) -> Manifest:
    key = hashlib.sha256(content).digest()
    if key not in _manifests:
        _manifests[key] = manifest_of(content)
    return _manifests[key]


def _description(content: bytes, rng: random.Random) -> bytes:
    """Change a value of a head's header or description; lengths stay right, digests do not."""
    [length] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.5:
        description = json.loads(header["__metadata__"]["featcache"])
        _change(description, rng)
        header["__metadata__"]["featcache"] = json.dumps(description)
    else:
        _change(header, rng)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + content[8 + length :]


def _change(value: Any, rng: random.Random) -> None:
    """Change, remove or add one value, somewhere in a tree of JSON."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            value = inner
            continue
        break
    strange = (-1, 0, 1 << 40, 1 << 70, 1.5, None, True, "", "x" * 5000, [], {}, [[]], "\x1b[31m")
    kind = rng.randrange(4)
    if kind == 0 and isinstance(value, dict):
        del value[key]
    elif kind == 1 and isinstance(inner, int):
        value[key] = inner + rng.choice((-1, 1, 4096, -4096))
    elif kind == 2 and isinstance(value, dict):
        value[f"{key}2"] = inner
    else:
        value[key] = rng.choice(strange)


def _make_head(folder: Path) -> Path:
    folder.mkdir()
    spec = HeadSpec(hidden=(4,))
    module = build_head(spec, n_features=5, n_classes=3, seed=0)
    identity = {"backbone": "toy", "bn": "frozen"}
    head = TrainedHead(
        path=None,
        spec=spec,
        train=TrainSpec(),
        n_features=5,
        class_names=("ant", "bee", "cow"),
        split={"train": {"name": "train", "n_rows": 8}, "val": {"name": "train", "n_rows": 2}},
        dataset="toys",
        cache_path=Path("cache/toys/toy-00000000.h5"),
        cache_fingerprint=hashlib.sha256(canonical_json(identity).encode()).hexdigest(),
        cache_identity=identity,
        n_epochs=1,
        is_finished=True,
        arrays={name: tensor.numpy() for name, tensor in module.state_dict().items()},
        versions={"featcache": "0"},
    )
    return save_head(folder, head)


def _naive(good: Path, path: Path, n: int) -> int:
    """How often h5py reads other rows from a mutated file, and says nothing."""
    content, rng = good.read_bytes(), random.Random(1)
    with h5py.File(good) as h5:
        rows = h5["train/features"][:]
    n_other = 0
    for _ in range(n):
        path.write_bytes(_at_random(content, rng))
        try:
            with h5py.File(path) as h5:
                n_other += not np.array_equal(h5["train/features"][:], rows)
        except (OSError, KeyError, RuntimeError, ValueError):
            continue
    return n_other


if __name__ == "__main__":
    sys.exit(main("fuzz", claims))
