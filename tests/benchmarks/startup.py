"""What a command costs before it does anything: first sign of life, wall and CPU seconds.

    python tests/benchmarks/startup.py OUT.json [--before FOLDER] [--repeats 5] [--only WORD]

FOLDER holds another version of the sources (`git archive COMMIT | tar -x -C FOLDER`), which is
measured in turn with this one. Beside them stand the bare imports of what a command cannot do
without. Each line is a process of its own, on a cache of scikit-learn's digits at 8 px.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.measure import machine

_HERE = Path(__file__).parents[2]
_IMPORTS = ("torch", "torchvision", "torchmetrics", "pytorch_lightning")
_CACHE = ["--dataset", "digits", "--backbone", "pixels"]
_TRAIN = ["train-head", *_CACHE, "--max-epochs", "1", "--patience", "0", "--lr", "1e-3"]
_COMMANDS: Mapping[str, Sequence[str]] = {
    "--help": ["--help"],
    "datasets": ["datasets"],
    "backbones resnet18": ["backbones", "resnet18"],
    "cache ls": ["cache", "ls"],
    "cache verify": ["cache", "verify", "pixels"],
    "extract, unknown backbone": ["extract", "--backbone", "vgg61"],
    "extract, reused": ["extract", *_CACHE, "--image-size", "8"],
    "train-head, reused": [*_TRAIN],
    "train-head, one epoch": [*_TRAIN, "--seed", "{round}"],
    "eval nosuchrun": ["eval", "nosuchrun"],
    "eval": ["eval"],
}


def main() -> int:
    """Print a table of medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    sources = {"before": options.before.resolve()} if options.before else {}
    sources["now"] = _HERE
    lines: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sources.values():  # makes cache and head, and the bytecode of each version
            for name in ("extract, reused", "train-head, reused", "eval"):
                _run([sys.executable, "-m", "featcache_cli", *_COMMANDS[name]], folder, source)
        for i in range(options.repeats):
            for package in _IMPORTS:
                start = [sys.executable, "-c", f"import {package}"]
                lines.setdefault(f"import {package}", []).append(_run(start, folder, _HERE))
            for name, command in _COMMANDS.items():
                if options.only not in name:
                    continue
                for version, source in sources.items():
                    seed = str(1 + 2 * i + (version == "now"))
                    arguments = [part.replace("{round}", seed) for part in command]
                    start = [sys.executable, "-m", "featcache_cli", *arguments]
                    label = f"{name} ({version})"
                    lines.setdefault(label, []).append(_run(start, folder, source))
    medians = {
        label: {what: statistics.median(run[what] for run in runs) for what in runs[0]}
        for label, runs in lines.items()
    }
    for label, figures in medians.items():
        shown = "  ".join(f"{what} {seconds:6.2f}" for what, seconds in figures.items())
        print(f"{label:40} {shown}")
    content = {"machine": machine(), "n": options.repeats, "medians": medians, "runs": lines}
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def _run(command: Sequence[str], folder: str, source: Path) -> dict[str, float]:
    """Run a command; gives the seconds to its first byte, to its end, and of CPU."""
    environment = {**os.environ, "PYTHONPATH": f"{source}:{source / 'cli'}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        process.stdout.read(1)
        first = time.perf_counter()
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 2, 10), command
    ended = time.perf_counter()
    return {
        "first_s": first - started,
        "wall_s": ended - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


if __name__ == "__main__":
    sys.exit(main())
