"""What a fault harness says: one line per claim, proved or not, with its negative control.

A harness is a module of this folder with a function `claims(folder, *, quick)`; it runs alone as
`python -m tests.faults.NAME [--quick]`, and all together as `make faults`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claim:
    """One promise, tried.

    Attributes:
        number: Its place in docs/reliability.md, from 1.
        line: What was found, with counts: "200 kills: 0 acknowledged rows lost, ...".
        is_proved: Whether every count is as promised.
        control: What the same trial did to a naive implementation; empty where there is none.
        control_failed: Whether the naive one failed, as it must; else the trial proves nothing.
    """

    number: int
    line: str
    is_proved: bool
    control: str = ""
    control_failed: bool = True

    @property
    def holds(self) -> bool:
        """Whether the promise is proved by a trial that can fail."""
        return self.is_proved and self.control_failed


Harness = Callable[..., list[Claim]]


def run(name: str, harness: Harness, *, quick: bool) -> list[Claim]:
    """Run one harness in a folder of its own, and print its lines."""
    folder = Path(tempfile.mkdtemp(prefix=f"featcache-{name}-"))
    started = time.monotonic()
    try:
        found = harness(folder, quick=quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for claim in found:
        print(f"{claim.number:2} {'holds' if claim.holds else 'FAILS'}  {claim.line}", flush=True)
        if claim.control:
            print(f"          control: {claim.control}", flush=True)
    print(f"          {name}: {time.monotonic() - started:.0f} s", flush=True)
    return found


def main(name: str, harness: Harness) -> int:
    """Run one harness as a command: exit code 0 if all its claims hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a subset, in seconds")
    parser.add_argument("--out", type=Path, help="write the claims there, as JSON")
    options = parser.parse_args()
    found = run(name, harness, quick=options.quick)
    if options.out:
        options.out.write_text(
            json.dumps([asdict(c) for c in found], indent=2, default=bool) + "\n"
        )
    return 0 if found and all(c.holds for c in found) else 1


def require_tool(name: str) -> str:
    """Find a program that a harness cannot do without.

    Raises:
        SystemExit: If it is not there; a trial is never skipped in silence.
    """
    found = shutil.which(name)
    if found is None:
        sys.exit(f"{name} is not installed, and this harness proves nothing without it.")
    return found
