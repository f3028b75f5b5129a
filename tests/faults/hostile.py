"""Hostile files are refused at once; a mutated cache never passes for the one it was.

    python -m tests.faults.hostile [--quick]

What is tried is the library in this process: open, describe, verify. What plain h5py does with
the file of external storage is the control.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import h5py

from featcache.errors import FeatcacheError
from featcache.store import describe_cache, open_cache, verify_cache
from tests.faults.claims import Claim, main
from tests.faults.hostile_files import SECRET, build_all
from tests.store.conftest import Recipe, random_rows

_REFUSALS = {12, 13, 15}
_N_MUTATIONS = {True: 300, False: 10_000}
_LIMIT_S = {"hostile": 1.0, "mutated": 5.0}


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Try both."""
    splits = {"train": random_rows(10, 5, reasons={3: "cut"}), "test": random_rows(3, 5)}
    good = Recipe(folder / "toys" / "toy-00000000.h5", splits).build()
    return [_hostile(folder / "files", good), _mutated(folder, good, _N_MUTATIONS[quick])]


def _hostile(folder: Path, good: Path) -> Claim:
    paths = build_all(folder, good)
    n_tries, not_refused, slowest_s = 0, [], 0.0
    for name, path in paths.items():
        for look in (open_cache, describe_cache, verify_cache):
            started = time.perf_counter()
            outcome = _outcome(look, path)
            slowest_s = max(slowest_s, time.perf_counter() - started)
            n_tries += 1
            if outcome not in {str(code) for code in _REFUSALS}:
                not_refused.append(f"{look.__name__} {name}: {outcome}")
    with h5py.File(paths["external-storage"]) as h5:
        leaked = h5["x"][:].tobytes() == SECRET
    return Claim(
        15,
        f"{len(paths)} hostile files, {n_tries} tries to open, describe, verify: "
        f"{n_tries - len(not_refused)} refused, the slowest after {slowest_s:.2f} s"
        + "".join(f"; {line}" for line in not_refused),
        is_proved=not not_refused and slowest_s < _LIMIT_S["hostile"],
        control="plain h5py reads the other file" if leaked else "plain h5py read no other file",
        control_failed=leaked,
    )


def _mutated(folder: Path, good: Path, n_mutations: int) -> Claim:
    """Flips, cuts and splices: sound only if no byte differs, for every byte is covered."""
    content, path = good.read_bytes(), folder / "mutated.h5"
    rng = random.Random(0)
    surprises, n_passed, n_naive, slowest_s = [], 0, 0, 0.0
    for i in range(n_mutations):
        mutated = _mutate(content, rng)
        path.write_bytes(mutated)
        started = time.perf_counter()
        outcomes = [_outcome(look, path) for look in (verify_cache, open_cache, describe_cache)]
        slowest_s = max(slowest_s, time.perf_counter() - started)
        surprises += [f"mutation {i}: {o}" for o in outcomes if not o.isdigit() and o != "sound"]
        n_passed += outcomes[0] == "sound" and mutated != content
        n_naive += mutated != content and _naive_reads(path)
    return Claim(
        16,
        f"{n_mutations} mutated caches (not re-signed): {n_passed} taken for sound, "
        f"{len(surprises)} unnamed exceptions, the slowest {slowest_s:.2f} s"
        + "".join(f"; {line}" for line in surprises[:5]),
        is_proved=not surprises and not n_passed and slowest_s < _LIMIT_S["mutated"],
        control=f"plain h5py reads {n_naive} of them without an error",
        control_failed=n_naive > 0,
    )


def _mutate(content: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(content)
    at = rng.randrange(len(content))
    kind = rng.randrange(4)
    if kind == 0:
        mutated[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del mutated[at:]
    elif kind == 2:
        mutated[at : at + 64] = content[(start := rng.randrange(len(content))) : start + 64]
    else:
        mutated[at : at + 8] = rng.randbytes(8)
    return bytes(mutated)


def _outcome(look: object, path: Path) -> str:
    """The exit code of a refusal, "sound", or the exception that has no name here."""
    try:
        found = look(path)  # type: ignore[operator]
    except FeatcacheError as err:
        return str(err.exit_code)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "sound" if getattr(found, "is_sound", True) else "13"


def _naive_reads(path: Path) -> bool:
    try:
        with h5py.File(path) as h5:
            return bool(h5["train/features"][:].size)
    except (OSError, KeyError, RuntimeError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main("hostile", claims))
