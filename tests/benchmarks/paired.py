"""Each head of a `reproduce`, and the systems held against each other seed by seed.

    python -m tests.benchmarks.paired STEM REPRODUCED.json ...

A REPRODUCED.json is what `featcache reproduce --json` printed; its run folders are read. Writes
STEM.json with a row for each head, and STEM.md with two tables: each system beside the notebook's
figures, and each system minus each before it, of the seeds that both have.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from featcache.core.device import pick_device
from featcache.training.notebook_systems import find_system
from tests.benchmarks.resultfile import ResultFile, markdown_table

FIGURES = ("test_acc", "test_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("reproduced", type=Path, nargs="+")
    options = parser.parse_args()
    file = read(options.stem.with_suffix(".json"), options.reproduced)
    options.stem.with_suffix(".md").write_text(page(file))


def read(path: Path, reproduced: Sequence[Path]) -> ResultFile:
    """Enter each head once; a head that two reports name is one."""
    file = ResultFile(path, {}, device=pick_device("cpu").value)
    for report in map(json.loads, map(Path.read_text, reproduced)):
        for told in report["systems"]:
            for folder in told["runs"]:
                run = json.loads(Path(folder, "result.json").read_text())
                key = {"system": told["name"], "backbone": told["backbone"], "seed": run["seed"]}
                if not file.has(**key):
                    names = (*FIGURES, "n_epochs", "seconds")
                    file.add({**key, **{name: run[name] for name in names}})
    return file


def page(file: ResultFile) -> str:
    """Write the two tables."""
    names = list(dict.fromkeys(row["system"] for row in file.results))
    rows: list[Sequence[object]] = []
    for name in names:
        system = find_system(name)
        for figure, published in zip(FIGURES, (system.test_acc, system.test_loss), strict=True):
            spread = file.spread(figure, system=name)
            interval = spread.prediction()
            said = "-" if interval is None else "yes" if published in interval else "no"
            seeds = f"{spread.low:.4f} to {spread.high:.4f}"
            rows.append([name, figure, spread, seeds, interval or "-", published, said])
    lines = markdown_table(
        [
            "system",
            "figure",
            "mean ± sd (n)",
            "range",
            "95% of a further seed",
            "notebook",
            "in it",
        ],
        rows,
    )
    rows = []
    for first, second in combinations(names, 2):
        for figure in FIGURES:
            spread, interval = file.difference(figure, {"system": first}, {"system": second})
            ups = f"{spread.low:+.4f} to {spread.high:+.4f}"
            differs = f"{spread.mean:+.4f}"
            rows.append(
                [f"{second} minus {first}", figure, differs, interval or "-", ups, spread.n]
            )
    head = ["of the same seed", "figure", "mean", "95% interval of the mean", "range", "n"]
    return "\n".join([*lines, *markdown_table(head, rows)]).rstrip() + "\n"


if __name__ == "__main__":
    main()
