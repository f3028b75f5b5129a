"""The solvers of heads on a real cache: beside scikit-learn, and beside one another.

    python -m tests.benchmarks.solvers OUT_STEM CACHE [--limit 10000] [--rounds 3]
    python -m tests.benchmarks.solvers OUT_STEM CACHE --all [--seeds 5] [--runs-dir runs]

The first takes evenly spaced training rows, standardises them, and holds logistic regression
against scikit-learn's: probabilities on the test rows at four values of C, both fitted as far as
float64 goes, and the time of 13 values of C, in turn, both until no part of the gradient is above
1e-6. The second trains a head by each solver with `train_head`; an MLP with several seeds. Both
write OUT_STEM.json and OUT_STEM.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import featcache
from featcache.config import SOLVERS
from featcache.config.solver_specs import DECADES, MOST_STEPS
from featcache.evaluation.metrics import Spread
from featcache.features.trainable import labels_of
from featcache.training.solvers.logistic import TOLERANCE, fit_logistic
from featcache.training.solvers.rows import SolverRows, fitted_treatment
from tests.benchmarks.measure import machine
from tests.benchmarks.resultfile import markdown_table

COMPARED = (1e-3, 1e-1, 1.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("cache")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    options = parser.parse_args()
    options.stem.parent.mkdir(parents=True, exist_ok=True)
    facts = machine("cpu")
    if options.all:
        rows = every_solver(options)
        lines = markdown_table([*rows[0]], [row.values() for row in rows])
        report: dict[str, Any] = {"machine": facts, "cache": options.cache, "heads": rows}
    else:
        data = rows_of(options.cache, options.limit)
        differences = [difference(data, C) for C in COMPARED]
        times = timed(data, options.rounds)
        report = {"machine": facts, "cache": options.cache, **times, "differences": differences}
        lines = markdown_table([*differences[0]], [row.values() for row in differences])
        lines += [f"{name}: {value}" for name, value in times.items()]
    options.stem.with_suffix(".json").write_text(json.dumps(report, indent=2, default=str) + "\n")
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    options.stem.with_suffix(".md").write_text("\n".join([f"Machine: {told}.", "", *lines]) + "\n")
    print("\n".join(lines))


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


def difference(data: dict[str, Any], C: float) -> dict[str, Any]:  # noqa: N803
    """Compare probabilities of the test rows, both fitted as far as float64 goes."""
    rows = SolverRows.of_arrays(data["train"], data["train_labels"])
    [fit] = fit_logistic(rows, [C], n_classes=data["n_classes"], exact=True)
    own = fit.log_probabilities(data["test"]).exp().numpy()
    other, n_steps = scikit_learn(data, C, tolerance=1e-10, max_steps=20_000)
    theirs, labels = other.predict_proba(data["test"].double().numpy()), data["test_labels"].numpy()
    return {
        "C": f"{C:g}",
        "largest difference of a probability": f"{np.abs(own - theirs).max():.1e}",
        "accuracy": f"{(own.argmax(1) == labels).mean():.4f}",
        "accuracy of scikit-learn": f"{(theirs.argmax(1) == labels).mean():.4f}",
        "steps": fit.found["n_iterations"],
        "steps of scikit-learn": n_steps,
    }


def scikit_learn(
    data: dict[str, Any],
    C: float,  # noqa: N803
    *,
    tolerance: float,
    max_steps: int,
) -> tuple[LogisticRegression, int]:
    model = LogisticRegression(C=C, tol=tolerance, max_iter=max_steps)
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data["train"].double().numpy(), data["train_labels"].numpy())
    return model, int(model.n_iter_[0])


def timed(data: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Time 13 values of C in turn: side by side, and one after the other by scikit-learn."""
    rows = SolverRows.of_arrays(data["train"], data["train_labels"])
    own: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        fits = fit_logistic(rows, DECADES, n_classes=data["n_classes"])
        own.append(time.perf_counter() - started)
        started = time.perf_counter()
        steps = [
            scikit_learn(data, C, tolerance=TOLERANCE, max_steps=MOST_STEPS)[1] for C in DECADES
        ]
        theirs.append(time.perf_counter() - started)
    ratios = [other / one for one, other in zip(own, theirs, strict=True)]
    return {
        "rows, features": tuple(data["train"].shape),
        "seconds of 13 values, each round": [round(s, 2) for s in own],
        "seconds of scikit-learn, each round": [round(s, 2) for s in theirs],
        "times faster, median (range)": f"{statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}), n {rounds}",
        "steps": [fit.found["n_iterations"] for fit in fits],
        "steps of scikit-learn": steps,
        "threads": torch.get_num_threads(),
    }


def every_solver(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a head by each solver, an MLP with several seeds."""
    found = []
    for solver in options.solvers.split(","):
        seeds = {"seeds": options.seeds} if solver == "mlp" else {}
        result = featcache.train_head(
            options.cache,
            solver=solver,
            runs_dir=options.runs_dir,
            on_note=lambda told: print(told, flush=True),
            **seeds,
        )
        runs = result.runs

        def spread(name: str, runs: Any = runs) -> str:
            figures = [v for run in runs if (v := getattr(run, name)) is not None]
            return str(Spread.of(figures)) if figures else "-"

        head = featcache.load_head(runs[0].path)
        found.append(
            {
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
        )
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    main()
