"""Caches in shares: joined, broken and killed, and compared with the file of one process.

`python -m tests.faults.parts [--quick]`. Three claims: shares of every kind of cache are joined to
the file of one process; every defect of a folder of parts is refused with the field named; shares
and merges that are killed at random go on to the same file.

The negative control of the first is a part whose ids are padded to its own longest id and not to
that of the whole. That of the others is a naive join, which appends the parts that it finds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import torch

import featcache
from featcache.core.side_files import partial_path
from featcache.errors import FeatcacheError
from featcache.scale.plan_file import PartsPlan, read_plan
from featcache.store import CacheWriter, SplitRows, read_state
from featcache.store.merging import opened_part, part_plan
from tests.faults.claims import Claim, main
from tests.faults.command import Command, run_command
from tests.paces import blocks_of
from tests.scale.defects import DEFECTS
from tests.scale.kinds import BATCH_SIZE, Kind, kinds

_SHARES = (1, 2, 5, 24)
_N_KILLS = (36, 300)


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Join, break and kill."""
    torch.set_num_threads(1)
    random.seed(0)
    counts = {"n_train": 13, "n_test": 5} if quick else {"n_train": 110, "n_test": 37}
    with blocks_of(BATCH_SIZE):
        of_each = list(kinds(folder, **counts))
        # First of all: a process is not forked well from one whose torch has threads.
        killed = _killed(folder, of_each[0], _N_KILLS[0 if quick else 1])
        joined = _joined(folder, of_each, _SHARES[1:3] if quick else _SHARES)
        return [joined, _broken(folder, of_each), killed]


def _joined(folder: Path, of_each: list[Kind], shares: tuple[int, ...]) -> Claim:
    n_same, n_tried, names = 0, 0, []
    for kind in of_each:
        whole = _sha256(kind.whole(folder / kind.name / "one").path)
        for n in shares:
            plan = _all_shares(kind, folder / kind.name / f"{n}", n)
            n_same += _sha256(featcache.merge_parts(plan.folder).path) == whole
            n_tried += 1
        names.append(kind.name)
    n_differ, n_blocks = _without_padding(folder, of_each[0])
    return Claim(
        28,
        f"{len(names)} kinds of caches ({', '.join(names)}) in {', '.join(map(str, shares))} "
        f"shares: {n_same} of {n_tried} joined files have the SHA-256 of one process's",
        n_same == n_tried,
        f"ids padded to the longest of the share, not of the whole: {n_differ} of {n_blocks} "
        f"blocks have other digests",
        n_differ > 0,
    )


def _all_shares(kind: Kind, cache_dir: Path, n: int) -> PartsPlan:
    """Compute the shares in any order, the plan first or by the first of them."""
    order = [f"{i}/{n}" for i in range(n)]
    random.shuffle(order)
    for share in [f"plan/{n}"] * random.randint(0, 1) + order:
        featcache.extract_share(kind.spec(cache_dir), share=share)
    [path] = cache_dir.glob("*/*.parts/plan.json")
    return read_plan(path.parent)


def _without_padding(folder: Path, kind: Kind) -> tuple[int, int]:
    """Write parts anew with ids as wide as their own; count the blocks with other digests."""
    n = 5
    plan = _all_shares(kind, folder / "unpadded", n)
    n_differ = n_blocks = 0
    for index in range(n):
        with opened_part(plan.part(index)) as part:
            cache = featcache.open_cache(part.path)
            rows = {
                s.name: SplitRows(s.labels, s.ids, s.image_sha256) for s in cache.splits.values()
            }
            made = part_plan(plan.manifest, *plan.blocks(index))
            splits = {
                name: replace(split, id_nbytes=max(len(i.encode()) for i in rows[name].ids))
                for name, split in made.splits.items()
            }
            other = folder / f"unpadded-{index}.h5"
            with CacheWriter.create(other, replace(made, splits=splits), rows) as writer:
                for block in writer.pending():
                    split = cache[block.split]
                    features = split.read(block.start, block.stop)
                    valid = split.valid[block.start : block.stop]
                    ids = split.ids[block.start : block.stop]
                    reasons = {i: split.failures[j] for i, j in enumerate(ids) if not valid[i]}
                    writer.write_block(block, features, valid, reasons)
                writer.commit()
            slots = read_state(partial_path(other)).slots
            for block in part.blocks:
                n_blocks += 1
                n_differ += slots[block.slot].sha256 != part.slot(block).sha256
    return n_differ, n_blocks


def _broken(folder: Path, of_each: list[Kind]) -> Claim:
    [adapted] = [kind for kind in of_each if kind.name.startswith("adapted")]
    sound = _small_folder(folder, adapted)
    refused, told_otherwise, n_joined = Counter[str](), [], 0
    for number, defect in enumerate(DEFECTS):
        plan = read_plan(shutil.copytree(sound, folder / f"broken-{number}" / sound.name))
        defect.do(plan)
        with contextlib.suppress(OSError):
            n_joined += _joined_naively(plan.folder)
        try:
            featcache.merge_parts(plan.folder)
            told_otherwise.append(f"{defect.name}: merged")
        except FeatcacheError as err:
            is_told = isinstance(err, defect.error) and re.search(defect.told, str(err), re.S)
            if not is_told or plan.whole.exists():
                told_otherwise.append(f"{defect.name}: {err}")
            refused[f"exit {err.exit_code}"] += 1
    by_code = ", ".join(f"{code} {n} times" for code, n in sorted(refused.items()))
    n_refused = refused.total()
    wrong = f"; told otherwise: {told_otherwise}" if told_otherwise else ""
    return Claim(
        29,
        f"{len(DEFECTS)} defects of a folder of parts (missing, extra, swapped, older, other "
        f"fingerprint, class, shares, dtype, count, numeric class, bits): {n_refused} refused "
        f"({by_code}), the field named in {len(DEFECTS) - len(told_otherwise)}{wrong}",
        not told_otherwise,
        f"a naive join that appends what it finds: takes {n_joined} of {len(DEFECTS)}",
        n_joined > 0,
    )


def _small_folder(folder: Path, kind: Kind) -> Path:
    """Make the folder that the defects are counted for: 3 shares of 19 rows."""
    place = folder / "to be broken"
    [small] = [k for k in kinds(place) if k.name == kind.name]
    return _all_shares(small, place / "cache", 3).folder


def _joined_naively(folder: Path) -> bool:
    """Append all parts in the order of their names, as a naive program does."""
    n_rows = 0
    for path in (p for p in sorted(folder.glob("part-*.h5")) if p.is_file()):  # a pipe waits
        try:
            with h5py.File(path) as h5:
                n_rows += sum(
                    len(h5[f"{split}/features"]) for split in ("train", "test") if split in h5
                )
        except (OSError, KeyError, RuntimeError):  # RuntimeError: h5py's word for damage
            return False
    return n_rows > 0


def _killed(folder: Path, kind: Kind, n_kills: int) -> Claim:
    """Kill shares and merges at random moments; every next command goes on."""
    whole = kind.whole(folder / "unkilled").path.read_bytes()
    counts = Counter[str]()
    home = folder / "killed"
    with blocks_of(BATCH_SIZE, commit_s=0.005):
        started = time.monotonic()
        run_command(_share_arguments(kind, folder / "timed", 0), folder / "log.txt")
        within_s = 1.2 * (time.monotonic() - started)  # so that some end by themselves
        for number in range(n_kills):
            if number % 6 == 0:
                shutil.rmtree(home, ignore_errors=True)
            _kill_one(home, kind, counts, log=folder / "log.txt", within_s=within_s)
            if number % 6 == 5 or number == n_kills - 1:
                counts["rounds"] += 1
                counts["identical"] += _end_of(home, kind, folder / "log.txt") == whole
    return Claim(
        30,
        f"{n_kills} SIGKILLs of shares and merges ({counts['in mid-work']} in mid-work) over "
        f"{counts['rounds']} caches of 3 shares: {counts['acknowledged lost']} of "
        f"{counts['acknowledged']} acknowledged slots lost, {counts['identical']} of "
        f"{counts['rounds']} joined files byte-identical",
        counts["identical"] == counts["rounds"]
        and not counts["acknowledged lost"]
        and counts["acknowledged"] > 0
        and counts["in mid-work"] > 0,
    )


def _kill_one(home: Path, kind: Kind, counts: Counter[str], *, log: Path, within_s: float) -> None:
    """Run a share, or a merge where all are there, and kill it somewhere."""
    folders = [path.parent for path in home.glob("*/*.parts/plan.json")]
    state = featcache.describe_parts(folders[0]) if folders else None
    index = random.randrange(3)
    arguments = _share_arguments(kind, home, index)
    if state is not None and not state.missing:
        arguments = ["cache", "merge", str(folders[0])]
    before = _acknowledged(home)
    command = Command(arguments, log, before=lambda: torch.set_num_threads(1))
    time.sleep(random.uniform(0.2, 1) * within_s)  # it imports first, and reads
    with contextlib.suppress(ProcessLookupError):
        os.kill(command.pid, signal.SIGKILL)
    counts["in mid-work"] += command.wait().code == -signal.SIGKILL
    after = _acknowledged(home)
    for path, slots in before.items():
        there = after.get(path) or after.get(path.with_suffix("")) or set()
        counts["acknowledged"] += len(slots)
        counts["acknowledged lost"] += len(slots - there)


def _acknowledged(home: Path) -> dict[Path, set[int]]:
    """The acknowledged slots of every part and of the whole."""
    found = {}
    for path in (*home.glob("**/*.h5"), *home.glob("**/*.h5.partial")):
        found[path] = set(read_state(path).slots)
    return found


def _end_of(home: Path, kind: Kind, log: Path) -> bytes:
    """Run every share and the merge to their ends; give the file."""
    for index in range(3):
        done = run_command(_share_arguments(kind, home, index), log)
        assert done.code == 0, done.text
    [plan] = home.glob("*/*.parts/plan.json")
    done = run_command(["cache", "merge", str(plan.parent)], log)
    assert done.code in (0, 3), done.text
    return read_plan(plan.parent).whole.read_bytes()


def _share_arguments(kind: Kind, home: Path, index: int) -> list[str]:
    options = {f"--{n.replace('_', '-')}": str(value) for n, value in kind.options.items()}
    asked = {"--dataset": kind.dataset, "--cache-dir": str(home), "--n-workers": "0", **options}
    return ["extract", *(w for pair in asked.items() for w in pair), "--share", f"{index}/3"]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main("parts", claims))
