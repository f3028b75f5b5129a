"""What it costs to find a cache that is there: the same command again, before and now, in turn.

    python -m tests.benchmarks.reused IMAGES CACHE_DIR --before FOLDER [--repeats 3] -- OPTIONS

IMAGES is a folder of images, CACHE_DIR holds its complete cache, made with OPTIONS of `featcache
extract`. FOLDER holds another version of the sources (`git archive COMMIT | tar -x -C FOLDER`).
The first command of this version reads all files and is told apart; then all are known.
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
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parents[2]
_WITH_IMPORTS = (
    "import runpy, sys\n"
    "sys.argv[0] = 'featcache'\n"
    "try:\n"
    "    runpy.run_module('featcache_cli', run_name='__main__')\n"
    "finally:\n"
    "    print('torch' in sys.modules, file=sys.stderr)\n"
)


def main() -> int:
    """Print a table of medians, least and most."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    asked = parser.parse_args(own.split())
    command = ["extract", "--dataset", f"folder:{asked.images.resolve()}", "--json"]
    command += ["--cache-dir", str(asked.cache_dir.resolve()), *options.split()]
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as kept:
        runs["now, first time"] = [_run(command, _HERE, kept)]
        for _ in range(asked.repeats):
            for name, source, more in (
                ("before", asked.before.resolve(), ()),
                ("now", _HERE, ()),
                ("now, --rehash", _HERE, ("--rehash",)),
            ):
                runs.setdefault(name, []).append(_run([*command, *more], source, kept))
    print("| | its own clock, s | wall s | CPU s | imports torch |\n|---|---|---|---|---|")
    for name, of_it in runs.items():
        cells = [_spread([run[what] for run in of_it]) for what in ("own_s", "wall_s", "cpu_s")]
        has_torch = "yes" if of_it[-1]["torch"] else "no"
        print(f"| {name} | {' | '.join(cells)} | {has_torch} |")
    return 0


def _run(command: Sequence[str], source: Path, kept: str) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": f"{source}:{source / 'cli'}", "XDG_CACHE_HOME": kept}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _WITH_IMPORTS, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        told = process.stdout.read()
        notes = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - started
    result = json.loads(told)
    assert result["outcome"] == "reused", result
    return {
        "own_s": result["seconds"],
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "torch": float(notes.splitlines()[-1] == "True"),
    }


def _spread(seconds: Sequence[float]) -> str:
    median = f"{statistics.median(seconds):.2f}"
    return median if len(seconds) == 1 else f"{median} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    sys.exit(main())
