"""Power lost at any moment of a run, and of its recovery: what was acknowledged stays (claim 4)."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

from featcache.errors import FeatcacheError
from featcache.store import CacheWriter
from tests.faults.claims import Claim, main
from tests.faults.commits import told_commits
from tests.faults.crashes import Event, Recording, recorded
from tests.store.conftest import Recipe, random_rows


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Make states that a crash may leave, recover each, and crash some of the recoveries."""
    n_states = 200 if quick else 10_000
    reference = _recipe(folder / "whole").build().read_bytes()
    counts = _crashes(folder / "states", reference, n_states)
    without = _crashes(folder / "control", reference, n_states // 10, synced=False)
    return [
        Claim(
            4,
            f"{counts['states']} states after a power cut, {counts['in_recovery']} of them during "
            f"a recovery: {counts['lost']} of {counts['acknowledged']} acknowledged blocks lost, "
            f"{counts['same']}/{counts['states']} byte-identical after the next run, "
            f"{counts['anew']} begun anew with nothing acknowledged",
            counts["lost"] == 0
            and counts["same"] == counts["states"] == n_states
            and counts["in_recovery"] > 0
            and counts["acknowledged"] > 0,
            f"the same writer without its syncs: {without['lost']} of {without['acknowledged']} "
            f"acknowledged blocks lost",
            without["lost"] > 0,
        )
    ]


def _recipe(folder: Path) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": random_rows(30, 40, reasons={3: "truncated"}), "test": random_rows(9, 40)}
    return Recipe(folder / "toy-00000000.h5", splits=splits)


def _run(recipe: Recipe) -> None:
    """Do what the command does: go on with a partial file, or begin; several blocks a commit."""
    if recipe.path.exists():
        return
    if recipe.partial.exists():
        writer = CacheWriter.resume(recipe.path, recipe.rows())
        writer.recheck()
    else:
        writer = recipe.create()
    with writer:
        pending = writer.pending()
        for i in range(0, len(pending), 2):
            recipe.write(writer, pending[i : i + 2])
        writer.finish()


def _crashes(folder: Path, reference: bytes, n_states: int, *, synced: bool = True) -> Counter[str]:
    rng = random.Random(0)
    counts = Counter[str]()
    first = _record(_recipe(folder / "first"), synced=synced)
    while counts["states"] < n_states:
        recipe = _recipe(folder / "now")
        recording, is_in_recovery = first, rng.random() < 0.3
        acknowledged = _crash(recipe, recording, rng)
        if is_in_recovery:
            recording = _record(recipe, synced=synced)
            acknowledged |= _crash(recipe, recording, rng)
        counts["states"] += 1
        counts["in_recovery"] += is_in_recovery
        counts["acknowledged"] += len(acknowledged)
        counts["lost"] += len(acknowledged - _kept(recipe, counts))
        with contextlib.suppress(FeatcacheError):
            _run(recipe)
        counts["same"] += recipe.path.exists() and recipe.path.read_bytes() == reference
    return counts


def _record(recipe: Recipe, *, synced: bool) -> Recording:
    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(recorded(recipe.path.parent))
        stack.enter_context(
            told_commits(lambda slots: recording.events.append(Event("ack", told=frozenset(slots))))
        )
        if synced:
            _run(recipe)
        else:
            with mock.patch("featcache.store.writer.sync_bytes", return_value=None):
                _run(recipe)
    return recording


def _crash(recipe: Recipe, recording: Recording, rng: random.Random) -> frozenset[int]:
    """Leave the folder as a crash at a random event may; what was acknowledged until then."""
    n_events = rng.randint(0, len(recording.events))
    files = recording.crash(n_events, rng)
    for path in recipe.path.parent.iterdir():
        path.unlink()
    for name, content in files.items():
        (recipe.path.parent / name).write_bytes(content)
    return recording.acknowledged(n_events)


def _kept(recipe: Recipe, counts: Counter[str]) -> frozenset[int]:
    """The blocks that a run finds whole."""
    path = recipe.path
    if path.exists():  # every block is there, or `same` tells
        path.rename(recipe.partial)
    if not recipe.partial.exists():
        counts["anew"] += 1
        return frozenset()
    try:
        with CacheWriter.resume(recipe.path, recipe.rows()) as writer:
            writer.recheck()
            return frozenset(block.slot for block in writer.acknowledged())
    except FeatcacheError:
        return frozenset()


if __name__ == "__main__":
    sys.exit(main("power", claims))
