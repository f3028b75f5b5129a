"""No value that a user can type ends in an "unexpected error" (claim 27).

Every option and argument of every command is given every hostile value, one at a time, beside
values that work. A process that has imported everything forks for each command.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer.main

import featcache
from featcache.errors import clipped
from featcache_cli.app import app
from tests.faults.claims import Claim, main
from tests.faults.command import run_command
from tests.faults.images import make_images

CODES = {0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16}
LIMIT_S, _MOST_MEMORY = 5, 16 << 30
_MODULES = (
    *(
        "featcache_cli.app",
        "featcache.extraction.plan",
        "featcache.extraction.run",
        "featcache.extraction.repair",
    ),
    *(
        "featcache.training.run",
        "featcache.training.sweeps.grid_run",
        "featcache.heads.predictions",
        "featcache.notebook.parity_checks",
    ),
    *("torchmetrics.functional.classification", "featcache.images.sources.digits"),
)
NUMBERS = (
    *("0", "-1", "-0", "1.5", "1e400", "-1e400", "1e-400", "nan", "inf", "-inf", "0x10", "1_000"),
    *("9" * 19, "9" * 30, "9" * 5000, str(2**31), str(2**63 - 1), str(2**64), "\u0661", "auto"),
)
LISTS = (
    *(",", ",,", "1,", ",1", "1,a", "50;20", "9" * 20 + ",1", "0.5," * 500 + "0.5"),
    *("1e9TB", "0GB", "1" * 300 + "GB", "101%"),
)
TEXTS = (
    *("", " ", "-", "--", "none", "None", "true", "%s%n", "{0}", "[red]x[/red]", "\x1b[31mx"),
    *("\n", "\udcff", "\u00fcn\u00ef", "\u202e", "a" * 300, "a" * 5000, "\U0001f600", "'", '"'),
)
PATHS = (
    *("/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", "/nothing/at/all", "a/" * 3000),
    *(".", "..", "~", "~nobody", "s3://bucket/x", "folder:", "folder:/dev/null", "torchvision:"),
    *("imported:x", "cuda:99", "cuda:-1", "cuda:" + "9" * 5000, "cache.h5", "file.txt", "loop"),
)


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Run the commands, every fifth of all that there are; `quick` takes a few."""
    for name in _MODULES:
        importlib.import_module(name)
    home, log = folder / "home", folder / "log"
    home.mkdir(parents=True)
    limit_s = 2 if quick else LIMIT_S
    begin = partial(_begin, home, limit_s)
    commands = list(_commands(_bases(home, log)))
    # Strides that have no factor in common with the number of values: each option meets others.
    tried = commands[:: 401 if quick else 5]
    ends: Counter[str] = Counter()
    wrong = []
    for arguments in tried:
        end = run_command(arguments, log, before=begin)
        kind = _kind_of(end.code, end.text, limit_s=limit_s)
        ends[kind] += 1
        if kind.startswith("wrong"):
            shown = " ".join(clipped(word, 40) for word in arguments)
            wrong.append(f"{shown}: exit {end.code}, {end.text[-300:]!r}")
    raw = run_command(["datasets"], log, before=_break)
    found = _kind_of(raw.code, raw.text, limit_s=limit_s)
    told = ", ".join(f"{n} {kind}" for kind, n in ends.most_common())
    return [
        Claim(
            27,
            f"{len(tried)} of {len(commands)} commands with a hostile value in one place: {told}"
            + "".join(f"; {line}" for line in wrong[:20]),
            not wrong,
            f"a command whose own error nobody named is told as: {found}",
            found.startswith("wrong"),
        )
    ]


def _bases(home: Path, log: Path) -> dict[str, list[str]]:
    """Make what the commands work on; gives for each command the arguments that work."""
    images = make_images(home / "pets", n_train=8, n_test=4)
    (home / "file.txt").write_text("no folder")
    (home / "loop").symlink_to("loop")
    pixels = ["--dataset", f"folder:{images}", "--backbone", "pixels", "--image-size", "8"]
    few = ["--max-epochs", "1", "--val-fraction", "0.5"]
    for arguments in (["extract", *pixels, "--n-workers", "0"], ["train-head", *few]):
        end = run_command(arguments, log, before=partial(_begin, home, LIMIT_S))
        assert end.code == 0, end.text
    [cache] = [str(summary.path) for summary in featcache.list_caches(home / "cache")]
    [run] = map(str, featcache.list_runs(home / "runs"))
    backbone = ["--backbone", "squeezenet1_1", "--weights", "random", "--image-size", "32"]
    return {
        "extract": ["--dataset", f"folder:{images}", *backbone, "--n-workers", "0", "--limit", "2"],
        "train-head": ["--cache", cache, *few],
        "sweep": ["--cache", cache, *few],
        "eval": [run],
        "parity": ["--dataset", f"folder:{images}", *backbone, "--levels", "1", "--limit", "2"],
        "reproduce": ["--dataset", f"folder:{images}", "--only", "scratch-mlp", "--limit", "2"],
        "backbones": ["squeezenet1_1", "--image-size", "32"],
        "info": [cache],
        "verify": [cache],
        "repair": [cache],
        "rm": [cache],
        "import": [cache, "--features", "train/features", "--labels", "train/labels"],
    }


def _commands(bases: dict[str, list[str]]) -> Iterator[list[str]]:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if name == "demo":  # a minute, and its two folders are options of others too
            continue
        for leaf in getattr(command, "commands", {name: command}).values():
            words = [name] if leaf is command else [name, leaf.name]
            for param in leaf.params:
                if getattr(param, "is_flag", False):
                    continue
                for value in (*NUMBERS, *LISTS, *TEXTS, *PATHS):
                    given = _replaced(bases.get(leaf.name, []), param, value)
                    yield [*words, *given]


def _replaced(base: Sequence[str], param: Any, value: str) -> list[str]:
    """Put a value where an option, or the first argument, has its own."""
    if param.param_type_name == "argument":
        rest = base[1:] if base and not base[0].startswith("--") else base
        return [*rest, "--", value]
    option = max(param.opts, key=len)
    kept = list(base)
    if option in kept:
        del kept[kept.index(option) : kept.index(option) + 2]
    return [*kept, f"{option}={value}"]


def _kind_of(code: int, text: str, *, limit_s: int) -> str:
    if "unexpected error" in text or "Traceback" in text:
        return "wrong: unexpected error"
    if code == -signal.SIGALRM:
        return f"still at work after {limit_s} s"
    if code not in CODES:
        return f"wrong: exit {code}"
    # "problem" is what doctor says of what it found.
    told = ("error: ", "[y/N]", "\nproblem ")
    if code not in (0, 3) and not any(words in text for words in told):
        return "wrong: no message"
    if len(text) > 20_000 or "\x1b[31m" in text:
        return "wrong: too long, or raw escape characters"
    return "done" if code in (0, 3) else "refused"


def _begin(home: Path, limit_s: int) -> None:
    os.environ |= {"HOME": str(home), "TORCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    os.chdir(home)
    signal.alarm(limit_s)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 - the process ends soon


def _break() -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("nobody named this")

    featcache.list_datasets = broken


if __name__ == "__main__":
    sys.exit(main("values", claims))
