"""Run the fault harnesses, print a line per claim, and write them into docs/reliability.md.

    python -m tests.faults.all [--quick] [--only NAME ...]

A full run rewrites the table between the two marks of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from tests.faults.claims import Claim, run

HARNESSES = (
    "kills",
    "syscalls",
    "power",
    "disk",
    "locks",
    "sweeps",
    "lostcaches",
    "signals",
    "rows",
    "clock",
    "damage",
    "stale",
    "folders",
    "changes",
    "undecodable",
    "hostile",
    "fuzz",
    "pickles",
    "importing",
    "planted",
    "values",
    "states",
    "soak",
)
# Only where they are named: each takes more than half an hour.
LONG = ("parts", "workers", "cloud", "sweepers")
_SOAKED = "soak.json"
ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
BEGIN, END = "<!-- begin: make faults -->", "<!-- end: make faults -->"


def main() -> int:
    """Run the harnesses; 0 if every claim holds. One that breaks off does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=(*HARNESSES, *LONG), default=HARNESSES)
    options = parser.parse_args()
    found: dict[str, list[Claim]] = {}
    seconds = {}
    broken = []
    soak = None
    if "soak" in options.only and not options.quick:  # half an hour, beside the others
        Path(_SOAKED).unlink(missing_ok=True)
        soak = subprocess.Popen([sys.executable, "-m", "tests.faults.soak", "--out", _SOAKED])
    for name in options.only:
        started = time.monotonic()
        try:
            if name == "soak" and soak is not None:
                soak.wait()
                found[name] = [Claim(**c) for c in json.loads(Path(_SOAKED).read_text())]
                Path(_SOAKED).unlink()
            else:
                harness = importlib.import_module(f"tests.faults.{name}").claims
                found[name] = run(name, harness, quick=options.quick)
        except (Exception, SystemExit):  # a missing tool exits
            traceback.print_exc()
            broken.append(name)
            continue
        seconds[name] = round(time.monotonic() - started)
        if not options.quick:
            _write(found, seconds)
    if broken:
        print(f"BROKEN OFF, with nothing proved: {', '.join(broken)}")
    are_proved = all(claim.holds for claims in found.values() for claim in claims)
    return 0 if are_proved and not broken else 1


def _write(found: dict[str, list[Claim]], seconds: dict[str, int]) -> None:
    """Keep the figures of the harnesses that did not run."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for name, claims in found.items():
        figures[name] = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
            f"Python {platform.python_version()}, torch {torch.__version__}",
            "seconds": seconds[name],
            "claims": [asdict(claim) for claim in claims],
        }
    FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True, default=bool) + "\n")
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{table(figures)}{END}{rest.partition(END)[2]}")


def table(figures: dict[str, dict[str, object]]) -> str:
    """Write what `figures` hold as Markdown, by number of claim."""
    rows = []
    for name, told in figures.items():
        claims = told["claims"]
        assert isinstance(claims, list), "one entry per claim"
        for claim in (Claim(**c) for c in claims):
            holds = "holds" if claim.holds else "**FAILS**"
            rows.append(
                (
                    claim.number,
                    f"| {claim.number} | {claim.line} | {claim.control or '-'} | {holds} | "
                    f"`python -m tests.faults.{name}` ({told['seconds']} s, {told['date']}) |",
                )
            )
    lines = ["| | found | negative control | | command |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(line for _, line in sorted(rows))]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
