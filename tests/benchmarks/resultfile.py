"""Results of a long benchmark, each on disk as soon as it is there; its table and its picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from featcache.evaluation.metrics import Interval, Spread, student_t
from featcache.store import replace_file
from tests.benchmarks.measure import machine

Row = Mapping[str, Any]


class ResultFile:
    """One row per trained head, in a JSON file that a second call adds to.

    Attributes:
        content: What the file holds: "machine", "options", "results" and whatever is entered.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, device: str) -> None:
        """Read the file, or begin it.

        Args:
            path: The file.
            options: What all rows of a file must share.
            device: Where heads are trained.
        """
        self.path = path
        self.content: dict[str, Any] = {"machine": machine(device), "options": dict(options)}
        self.content["results"] = []
        if path.exists():
            kept = json.loads(path.read_text())
            for name in ("processor", "cores", "threads", "torch"):
                found, own = kept["machine"][name], self.content["machine"][name]
                assert found == own, f"{path} was begun with {name} {found}, here it is {own}"
            assert kept["options"] == options, f"{path} was begun with {kept['options']}"
            self.content = kept

    @property
    def results(self) -> Sequence[Row]:
        """All rows."""
        rows: list[Row] = self.content["results"]
        return rows

    def has(self, **key: Any) -> bool:
        """Tell whether a head was trained."""
        return any(all(row[name] == value for name, value in key.items()) for row in self.results)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.content["results"].append(dict(row))
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, (json.dumps(self.content, indent=1) + "\n").encode())

    def spread(self, figure: str, **key: Any) -> Spread:
        """Sum up a figure over the seeds."""
        return Spread.of([row[figure] for row in self._of(key)])

    def difference(self, figure: str, first: Row, second: Row) -> tuple[Spread, Interval | None]:
        """Sum up the differences of the seeds that two settings share.

        Returns:
            The differences, second minus first, and the 95% interval of their mean: mean ±
            t(n - 1, 0.975) sd / sqrt(n); None for one seed.
        """
        one, other = (
            {row["seed"]: row[figure] for row in self._of(key)} for key in (first, second)
        )
        spread = Spread.of([other[seed] - one[seed] for seed in one if seed in other])
        if spread.sd is None:
            return spread, None
        reach = student_t(0.975, spread.n - 1) * spread.sd / spread.n**0.5
        return spread, Interval(spread.mean - reach, spread.mean + reach)

    def _of(self, key: Mapping[str, Any]) -> list[Row]:
        return [r for r in self.results if all(r[name] == value for name, value in key.items())]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Write a table, a string a line, and an empty one."""
    cells = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(map(str, row)) + " |" for row in cells), ""]


def save_picture(figure: Figure, path: Path) -> None:
    """Write a picture as SVG, the same bytes for the same figures."""
    with rc_context({"svg.hashsalt": "featcache"}):
        replace_file(path, partial(figure.savefig, format="svg", metadata={"Date": None}))
