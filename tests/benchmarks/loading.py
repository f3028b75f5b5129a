"""How long a head of one epoch takes on a large cache, which is verified and loaded first.

    python -m tests.benchmarks.loading OUT.json [--before FOLDER] [--rows N] [--repeats R]

FOLDER holds another version of the sources (`git archive COMMIT | tar -x -C FOLDER`), which is
measured in turn with this one. Each run is a process of its own that trains a linear probe: once
as a command begins, with its imports, and once with all that it imports there already. The file is
in the page cache ("warm"), or put out of it ("cold").
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HERE = Path(__file__).parents[2]
_N_FEATURES, _ROWS_PER_BLOCK = 25_088, 128
_KINDS = ("with imports", "imported")


def main() -> int:
    """Print each run, then a table of medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rows", type=int, default=15_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sources = {"before": options.before.resolve()} if options.before else {}
    sources["now"] = _HERE
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = _make_cache(Path(folder), options.rows)
        for source in sources.values():  # makes the bytecode of each version
            _run(cache, "with imports", source, is_cold=False)
        for _ in range(options.repeats):
            for kind in _KINDS:
                for is_cold in (False, True):
                    for version, source in sources.items():
                        label = f"{kind}, {'cold' if is_cold else 'warm'} ({version})"
                        ran = _run(cache, kind, source, is_cold=is_cold)
                        runs.setdefault(label, []).append(ran)
                        print(label, json.dumps(ran), flush=True)
        nbytes = cache.stat().st_size
    medians = {
        label: {what: statistics.median(run[what] for run in of_label) for what in of_label[0]}
        for label, of_label in runs.items()
    }
    for label, figures in medians.items():
        shown = "  ".join(f"{what} {figure:8.2f}" for what, figure in figures.items())
        print(f"{label:32} {shown}")
    from tests.benchmarks.measure import machine

    content = {"machine": machine(), "n": options.repeats, "file_bytes": nbytes}
    content |= {"medians": medians, "runs": runs}
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def _make_cache(folder: Path, n_rows: int) -> Path:
    """Write a cache of random features that has a split to train and one to test."""
    from tests.feature_caches import FeatureRecipe
    from tests.store.conftest import random_rows

    n_test = n_rows // 5
    splits = {
        name: random_rows(n, _N_FEATURES)
        for name, n in (("train", n_rows - n_test), ("test", n_test))
    }
    identity = {"backbone": "toy", "bn": "frozen", "dataset_sha256": "0" * 64}
    path = folder / "toys" / "toy-00000000.h5"
    path.parent.mkdir()
    return FeatureRecipe(path, splits, rows_per_block=_ROWS_PER_BLOCK, identity=identity).build()


def _run(cache: Path, kind: str, source: Path, *, is_cold: bool) -> dict[str, float]:
    """Train in a process; wall and CPU seconds, and bytes read by system calls."""
    with cache.open("rb") as file:
        if is_cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(1 << 24):
                pass
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(cache), kind]
    started = time.perf_counter()
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    wall_s = time.perf_counter() - started
    ran: dict[str, float] = json.loads(said)
    return {"wall_s": wall_s, **ran} if kind == "with imports" else ran


def _train(cache: str, kind: str) -> None:
    """Be the process that trains."""
    import featcache

    if kind == "imported":
        import featcache.training.run
    started, cpu, read = time.perf_counter(), time.process_time(), _bytes_read()

    with tempfile.TemporaryDirectory() as runs_dir:
        featcache.train_head(
            cache, hidden=(), max_epochs=1, lr=1e-3, device="cpu", runs_dir=runs_dir
        )
    ran = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    if kind == "with imports":
        ran["cpu_s"] += cpu
    print(json.dumps({**ran, "read_gb": (_bytes_read() - read) / 1e9}))


def _bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _train(*sys.argv[2:])
    else:
        sys.exit(main())
