"""Hostile files are refused at once, and reach for nothing beside themselves (claim 15)."""

from __future__ import annotations

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
_LIMIT_S = 1.0


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Open, describe and verify each."""
    splits = {"train": random_rows(10, 5, reasons={3: "cut"}), "test": random_rows(3, 5)}
    good = Recipe(folder / "toys" / "toy-00000000.h5", splits).build()
    return [_hostile(folder / "files", good)]


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
        is_proved=not not_refused and slowest_s < _LIMIT_S,
        control="plain h5py reads the other file" if leaked else "plain h5py read no other file",
        control_failed=leaked,
    )


def _outcome(look: object, path: Path) -> str:
    """The exit code of a refusal, "sound", or the exception that has no name here."""
    try:
        found = look(path)  # type: ignore[operator]
    except FeatcacheError as err:
        return str(err.exit_code)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "sound" if getattr(found, "is_sound", True) else "13"


if __name__ == "__main__":
    sys.exit(main("hostile", claims))
