"""The solvers of heads on a real cache: beside scikit-learn, and beside one another.

    python -m tests.benchmarks.solvers OUT_STEM CACHE [--limit 10000] [--rounds 1] [--newton]
    python -m tests.benchmarks.solvers OUT_STEM CACHE --all [--seeds 5] [--runs-dir runs]

The first takes evenly spaced training rows, standardises them, and holds logistic regression
against scikit-learn's: the time of 13 values of C, in turn, both until no part of the gradient is
above 1e-6, and probabilities on the test rows at four values of C, both fitted further. With
--newton scikit-learn's other solver, newton-cg, is a third witness there; --rounds 0 times nothing.
The second trains a head by each solver with `train_head`; an MLP with several seeds.

Each finished fit is a line on stderr, with the seconds since the start. OUT_STEM.json and
OUT_STEM.md are written after each, so a program that is stopped keeps what it has measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import cross_entropy

import featcache
from featcache.config import SOLVERS
from featcache.config.solver_specs import DECADES, MOST_STEPS
from featcache.evaluation.metrics import Spread
from featcache.features.trainable import labels_of
from featcache.training.solvers.linear import LinearFit
from featcache.training.solvers.logistic import MOST_STEPS_EXACT, TOLERANCE, fit_logistic
from featcache.training.solvers.rows import SolverRows, fitted_treatment
from featcache.training.solvers.solver_run import SolverProgress
from tests.benchmarks.measure import machine
from tests.benchmarks.resultfile import markdown_table

COMPARED = (1e-3, 1e-1, 1.0, 10.0)
# Of digits, scikit-learn's probabilities at C 10 are still 2e-4 from the minimum's at 1e-8.
_FURTHER, _MOST_STEPS_FURTHER = 1e-10, 10_000
_EVERY_STEPS = 50


class Report:
    """What was measured so far, on disk after each line.

    Attributes:
        facts: Figures by name.
        tables: Rows of each table.
    """

    def __init__(self, stem: Path, cache: str) -> None:
        """Begin it; OUT_STEM's folder is made."""
        self._stem, self._started = stem, time.perf_counter()
        self.facts: dict[str, Any] = {"machine": machine("cpu"), "cache": cache}
        self.tables: dict[str, list[Mapping[str, Any]]] = {}
        stem.parent.mkdir(parents=True, exist_ok=True)

    def tell(self, line: str) -> None:
        """Say it at once, with the seconds since the start."""
        print(f"{time.perf_counter() - self._started:7.1f} s  {line}", file=sys.stderr, flush=True)

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Take a row, say it, and write both files."""
        self.tables.setdefault(table, []).append(row)
        self.tell(f"{table}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
        self.save()

    def save(self) -> None:
        """Write both files."""
        written = json.dumps({**self.facts, **self.tables}, indent=2, default=str)
        self._stem.with_suffix(".json").write_text(written + "\n")
        self._stem.with_suffix(".md").write_text(self.markdown + "\n")

    @property
    def markdown(self) -> str:
        """The tables, and the figures below them."""
        told = ", ".join(f"{name} {value}" for name, value in self.facts["machine"].items())
        lines = [f"Machine: {told}.", ""]
        for rows in self.tables.values():
            lines += markdown_table([*rows[0]], [[*row.values()] for row in rows])
        others = {n: value for n, value in self.facts.items() if n not in ("machine", "cache")}
        return "\n".join(lines + [f"{name}: {value}" for name, value in others.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("cache")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--newton", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    options = parser.parse_args()
    report = Report(options.stem, options.cache)
    if options.all:
        every_solver(options, report)
    else:
        beside_scikit_learn(options, report)
    print(report.markdown)


def beside_scikit_learn(options: argparse.Namespace, report: Report) -> None:
    data = rows_of(options.cache, options.limit)
    shape = tuple(data["train"].shape)
    report.facts |= {"rows, features": shape, "threads": torch.get_num_threads()}
    report.tell(f"{shape[0]} training rows of {shape[1]} features")
    for value in COMPARED:
        report.add("differences", difference(data, value, report, newton=options.newton))
    timed(data, options.rounds, report)


def rows_of(cache: str, limit: int) -> dict[str, Any]:
    """Standardise evenly spaced training rows, and all test rows by their statistics."""
    opened = featcache.open_cache(cache)
    some = np.linspace(0, len(opened["train"]) - 1, min(limit, len(opened["train"]))).astype(int)
    splits = {"train": some, "test": np.arange(len(opened["test"]))}
    found: dict[str, Any] = {"n_classes": len(opened.class_names)}
    for split, index in splits.items():
        kept = opened[split].features[:][index].reshape(len(index), -1)
        features, labels = torch.from_numpy(kept).float(), labels_of(opened, split)[index]
        if split == "train":
            rows = SolverRows.of_arrays(features, torch.from_numpy(labels))
            treatment = fitted_treatment(rows, "standard")
        with torch.no_grad():
            found[split] = treatment(features)
        found[f"{split}_labels"] = torch.from_numpy(labels)
    return found


def timed(data: dict[str, Any], rounds: int, report: Report) -> None:
    """Time 13 values of C in turn: side by side, and one after the other by scikit-learn."""
    own: list[float] = []
    theirs: list[float] = []
    for i in range(1, rounds + 1):
        seconds, fits = side_by_side(data, report)
        own.append(seconds)
        row = {"of": "featcache, 13 values", "round": i, "s": f"{seconds:.2f}"}
        most = max(fit.found["n_iterations"] for fit in fits)
        report.add("rounds", row | {"steps": most, "steps here": most})
        theirs.append(0.0)
        for value, fit in zip(DECADES, fits, strict=True):
            seconds, n_steps = of_scikit_learn(data, value)
            theirs[-1] += seconds
            row = {"of": f"scikit-learn, C {value:g}", "round": i, "s": f"{seconds:.2f}"}
            report.add("rounds", row | {"steps": n_steps, "steps here": fit.found["n_iterations"]})
        ratios = [other / one for one, other in zip(own, theirs, strict=True)]
        report.facts |= {
            "seconds of 13 values, each round": [round(s, 2) for s in own],
            "seconds of scikit-learn, each round": [round(s, 2) for s in theirs],
            "times faster, median (range)": f"{statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), n {len(ratios)}",
        }
        report.save()
        report.tell(f"times faster: {ratios[-1]:.2f}")


def side_by_side(data: dict[str, Any], report: Report) -> tuple[float, list[LinearFit]]:
    rows = SolverRows.of_arrays(data["train"], data["train_labels"])
    on_step = steps_told(report, "13 values side by side")
    started = time.perf_counter()
    fits = fit_logistic(rows, DECADES, n_classes=data["n_classes"], on_step=on_step)
    return time.perf_counter() - started, fits


def of_scikit_learn(data: dict[str, Any], value: float) -> tuple[float, int]:
    started = time.perf_counter()
    _, n_steps = scikit_learn(data, value, tolerance=TOLERANCE, max_steps=MOST_STEPS)
    return time.perf_counter() - started, n_steps


def difference(
    data: dict[str, Any], value: float, report: Report, *, newton: bool
) -> dict[str, Any]:
    """Compare probabilities of the test rows, both fitted further than to choose by."""
    rows = SolverRows.of_arrays(data["train"], data["train_labels"])
    on_step = steps_told(report, f"C {value:g}")
    started = time.perf_counter()
    [fit] = fit_logistic(
        rows,
        [value],
        n_classes=data["n_classes"],
        exact=True,
        max_steps=MOST_STEPS_EXACT,
        on_step=on_step,
    )
    middle = time.perf_counter()
    report.tell(f"C {value:g}: {middle - started:.1f} s; now scikit-learn")
    other, n_steps = scikit_learn(data, value, tolerance=_FURTHER, max_steps=_MOST_STEPS_FURTHER)
    ended = time.perf_counter()
    own = fit.log_probabilities(data["test"]).exp().numpy()
    theirs, labels = other.predict_proba(data["test"].double().numpy()), data["test_labels"].numpy()
    found = {
        "C": f"{value:g}",
        "largest difference of a probability": f"{np.abs(own - theirs).max():.1e}",
        "accuracy": f"{(own.argmax(1) == labels).mean():.4f}",
        "accuracy of scikit-learn": f"{(theirs.argmax(1) == labels).mean():.4f}",
        "steps": fit.found["n_iterations"],
        "steps of scikit-learn": n_steps,
        "s": f"{middle - started:.1f}",
        "s of scikit-learn": f"{ended - middle:.1f}",
        "gradient": f"{gradient(data, value, fit.weight, fit.bias):.1e}",
        "gradient of scikit-learn": f"{gradient_of(other, data, value):.1e}",
    }
    if newton:
        report.tell(f"C {value:g}: now newton-cg")
        third, _ = scikit_learn(
            data, value, tolerance=_FURTHER, max_steps=_MOST_STEPS_FURTHER, solver="newton-cg"
        )
        its = third.predict_proba(data["test"].double().numpy())
        found["largest difference from newton-cg"] = f"{np.abs(own - its).max():.1e}"
        found["gradient of newton-cg"] = f"{gradient_of(third, data, value):.1e}"
    return found


def gradient_of(model: LogisticRegression, data: dict[str, Any], value: float) -> float:
    return gradient(data, value, torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_))


def gradient(data: dict[str, Any], value: float, weight: Tensor, bias: Tensor) -> float:
    """Find the largest part of the gradient of the mean loss plus |W|^2 / (2 C N), in float64."""
    weight, bias = (tensor.double().clone().requires_grad_() for tensor in (weight, bias))
    loss = cross_entropy(data["train"].double() @ weight.T + bias, data["train_labels"])
    (loss + weight.square().sum() / (2 * value * len(data["train"]))).backward()
    return max(
        float(tensor.grad.abs().max()) for tensor in (weight, bias) if tensor.grad is not None
    )


def scikit_learn(
    data: dict[str, Any],
    C: float,  # noqa: N803
    *,
    tolerance: float,
    max_steps: int,
    solver: str = "lbfgs",
) -> tuple[LogisticRegression, int]:
    model = LogisticRegression(C=C, tol=tolerance, max_iter=max_steps, solver=solver)
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data["train"].double().numpy(), data["train_labels"].numpy())
    return model, int(model.n_iter_[0])


def steps_told(report: Report, what: str) -> Callable[[int, int, int], None]:
    """Say every 50th step here."""

    def tell(n_steps: int, max_steps: int, n_left: int) -> None:
        if n_steps % _EVERY_STEPS == 0:
            report.tell(f"{what}: step {n_steps}, {n_left} not done")

    return tell


def solving_told(report: Report) -> Callable[[SolverProgress], None]:
    return lambda so_far: steps_told(report, so_far.solver)(
        so_far.n_done, so_far.max_steps, so_far.n_left
    )


def every_solver(options: argparse.Namespace, report: Report) -> None:
    """Train a head by each solver, an MLP with several seeds."""
    for solver in options.solvers.split(","):
        report.tell(f"{solver} begins")
        seeds = {"seeds": options.seeds} if solver == "mlp" else {}
        result = featcache.train_head(
            options.cache,
            solver=solver,
            runs_dir=options.runs_dir,
            on_progress=None if solver == "mlp" else solving_told(report),
            on_note=report.tell,
            **seeds,
        )
        runs = result.runs

        def spread(name: str, runs: Any = runs) -> str:
            figures = [v for run in runs if (v := getattr(run, name)) is not None]
            return str(Spread.of(figures)) if figures else "-"

        head = featcache.load_head(runs[0].path)
        row = {
            "solver": solver,
            "features": head.solver.features,
            "test_acc": spread("test_acc"),
            "test_loss": spread("test_loss"),
            "val_acc": spread("val_acc"),
            "val_loss": spread("val_loss"),
            "seconds a head": f"{statistics.median(run.seconds for run in runs):.1f}",
            "found": ", ".join(f"{name} {value}" for name, value in runs[0].found.items()),
            "remarks": " ".join(result.remarks),
        }
        report.add("heads", row)


if __name__ == "__main__":
    main()
