"""Do everything that can be done to a cache in random order, and compare its file with a model.

    python -m tests.faults.states [--quick] [--out FILE.json]

The negative controls are four stores that are wrong in one place each; the machine must find all.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from featcache.core.files import read_at
from featcache.store import CacheWriter
from featcache.store.manifest import COLUMNS, Block, Manifest
from tests.faults.claims import Claim, main
from tests.faults.machine import N_STEPS, RULES, Bench, CacheMachine
from tests.faults.makers import ExtractMaker, Maker, StoreMaker

_BEYOND_WHOLE = 1.75  # hypothesis also tries sequences that end early; these do not count


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Run the machine on the true store, and on wrong ones."""
    makers = _makers(folder)
    n_wanted = 2 if quick else 500
    tally, failure = explore(folder, makers, n_sequences=n_wanted)
    if failure:
        print(failure, file=sys.stderr)
    never = [name for name in RULES if not tally[name]]
    ran = ", ".join(f"{name.replace('_', ' ')} {tally[name]}" for name in RULES)
    met = ", ".join(f"{name} {n}" for name, n in sorted(tally.items()) if " " in name)
    n_sequences, n_steps = tally["sequences"], tally["steps"]
    outcome = "a state that should not be" if failure else "no state unforeseen"
    line = (
        f"{n_sequences} sequences of {N_STEPS} steps, with shorter {n_steps} steps: {outcome}; "
        f"rules that never ran: {', '.join(never) or 'none'}. Ran: {ran}. Met: {met}"
    )
    caught = {
        name: bool(explore(folder, makers, n_sequences=100, wrong=wrong)[1])
        for name, wrong in list(_wrong_stores(makers).items())[: 1 if quick else None]
    }
    found = [name for name, is_caught in caught.items() if is_caught]
    return [
        Claim(
            19,
            line,
            is_proved=not failure and (quick or not never) and n_sequences >= n_wanted,
            control=f"{len(found)} of {len(caught)} wrong stores found: {', '.join(found)}",
            control_failed=len(found) == len(caught),
        )
    ]


def explore(
    folder: Path,
    makers: list[tuple[Maker, Path]],
    *,
    n_sequences: int,
    wrong: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> tuple[Counter[str], str]:
    """Run sequences until one fails.

    Returns:
        What was counted, and the sequence that failed; empty if none did.
    """
    bench = Bench(folder, makers)
    machine = seed(0)(type("ACache", (CacheMachine,), {"bench": bench}))
    is_control = wrong is not contextlib.nullcontext
    options = settings(
        max_examples=round(_BEYOND_WHOLE * n_sequences),
        stateful_step_count=1 + N_STEPS,  # the first is the initialisation
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=[Phase.generate] if is_control else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        with wrong():
            run_state_machine_as_test(machine, settings=options)
    except Exception as err:
        steps = "\n".join(getattr(err, "__notes__", []))
        return bench.tally, f"{steps}\n{type(err).__name__}: {err}"
    return bench.tally, ""


def _makers(folder: Path) -> list[tuple[Maker, Path]]:
    makers: list[Maker] = [StoreMaker(), ExtractMaker(folder)]
    for maker in makers:
        maker.run(folder / f"whole-{maker.name}")
    return [(maker, maker.path(folder / f"whole-{maker.name}")) for maker in makers]


def _wrong_stores(
    makers: list[tuple[Maker, Path]],
) -> dict[str, Callable[[], contextlib.AbstractContextManager[object]]]:
    wholes = [whole for _, whole in makers]
    return {
        "a lock that locks nothing": lambda: mock.patch(  # found soonest, so a quick run has it
            "tests.faults.makers.locked", contextlib.nullcontext
        ),
        "a verify that takes the labels for granted": lambda: mock.patch(
            "featcache.store.verify.block_digest", _digest_but_labels(wholes)
        ),
        "a recheck that returns nothing": lambda: mock.patch.object(
            CacheWriter, "recheck", return_value=[]
        ),
        "slots that are written before their rows": _slots_first,
    }


def _digest_but_labels(wholes: list[Path]) -> Callable[..., bytes]:
    by_size = {whole.stat().st_size: whole.read_bytes() for whole in wholes}

    def digest(fd: int, manifest: Manifest, block: Block, **_: object) -> bytes:
        sha = hashlib.sha256()
        columns = manifest.splits[block.split].columns
        for column in (name for name in COLUMNS if name in columns):
            offset, nbytes = columns[column].rows(block.start, block.stop)
            right = by_size[manifest.file_size][offset : offset + nbytes]
            sha.update(right if column == "labels" else read_at(fd, nbytes, offset))
        return sha.digest()

    return digest


@contextlib.contextmanager
def _slots_first() -> Iterator[None]:
    """Acknowledge each block as it is handed over, and write its rows at the next commit."""
    write_block, commit = CacheWriter.write_block, CacheWriter.commit
    waiting: list[tuple[CacheWriter, tuple[object, ...]]] = []

    def write_later(writer: CacheWriter, *block: object) -> None:
        with mock.patch("featcache.store.writer.write_at"):
            write_block(writer, *block)  # type: ignore[arg-type]
        waiting.append((writer, block))

    def commit_first(writer: CacheWriter, *numerics: object) -> None:
        commit(writer, *numerics)  # type: ignore[arg-type]
        rows = [block for of, block in waiting if of is writer]
        waiting[:] = [one for one in waiting if one[0] is not writer]
        for block in rows:
            write_block(writer, *block)  # type: ignore[arg-type]
            writer._uncommitted.clear()

    with (
        mock.patch.object(CacheWriter, "write_block", write_later),
        mock.patch.object(CacheWriter, "commit", commit_first),
    ):
        yield


if __name__ == "__main__":
    sys.exit(main("states", claims))
