"""`featcache runs`: the trained heads, with their figures."""

from __future__ import annotations

import csv as csv_format
import io
from typing import TYPE_CHECKING, Any

from featcache.config import RunSpec
from featcache.errors import UsageError
from featcache_cli.console import duration, note, plain, show_json, show_text
from featcache_cli.options import CsvOption, JsonOption, options_of, takes
from featcache_cli.tables import show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featcache.heads.run_list import RunSummary

_DAY_S = 86_400
_FOUND = ("C", "k", "alpha", "temperature", "shrinkage")


@takes(options_of(RunSpec, "runs_dir"))
def runs(
    *,
    runs_dir: str,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """List the trained heads, the newest last."""
    from featcache import describe_runs

    if json and csv:
        raise UsageError("--json and --csv both write to stdout. Give one of them.")
    found = describe_runs(runs_dir)
    if json:
        show_json({"runs": found})
        return
    if csv:
        show_text(_csv(found))
        return
    if not found:
        from featcache.heads.runs import train_command

        note(f"There are no runs in {runs_dir!r}. Train one with: {train_command(runs_dir)}")
        return
    show_table(
        ["age", "#test_acc", "#val_acc", "#epochs", "settings", "run"],
        (
            (
                _age(run.age_s),
                _figure(run, "test_acc"),
                _figure(run, "val_acc"),
                _epochs(run),
                _settings(run),
                run.path,
            )
            for run in found
        ),
    )
    for run in found:
        if run.problem:
            note(run.problem)


def _age(seconds: float) -> str:
    return f"{seconds / _DAY_S:.0f} days" if seconds >= 2 * _DAY_S else duration(max(0, seconds))


def _epochs(run: RunSummary) -> str:
    if run.state != "finished":
        return run.state
    if not run.n_epochs:
        return "-"
    kept = f" ({run.kept_epoch} kept)" if run.kept_epoch != run.n_epochs else ""
    return f"{run.n_epochs}{kept}"


def _figure(run: RunSummary, name: str) -> str:
    value = run.figures.get(name)
    return "-" if value is None else f"{value:.4f}"


def _settings(run: RunSummary) -> str:
    """Write what decides a head, short: "l2 1e-4 lr 1e-05 50,20 seed 0"."""
    if not run.settings:
        return "-"
    told = run.settings
    if "reg" not in told:
        found = [f"{name} {told[name]:.3g}" for name in _FOUND if told.get(name) is not None]
        return " ".join([told["solver"], told["features"], *found])
    values = [_cell(told[name]) for name in ("l1", "weight_decay", "dropout") if told[name]]
    shape = _cell(told["hidden"]) if told["hidden"] else "linear"
    loss = ["balanced"] if told["class_weight"] == "balanced" else []
    if told["label_smoothing"]:
        loss.append(f"smoothing {_cell(told['label_smoothing'])}")
    treated = [told["features"]] if "features" in told else []
    pace = [f"lr {_cell(told['lr'])}", shape, f"seed {told['seed']}"]
    return " ".join([told["reg"], *treated, *values, *loss, *pace])


def _csv(found: Sequence[RunSummary]) -> str:
    rows = [
        {
            "run": run.path,
            "state": run.state,
            "trained": run.trained,
            "dataset": run.dataset,
            "backbone": run.backbone,
            **run.settings,
            "epochs": run.n_epochs,
            "kept_epoch": run.kept_epoch,
            **run.figures,
        }
        for run in found
    ]
    # A damaged run has but some of the columns.
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row)
    text = io.StringIO(newline="")
    writer = csv_format.DictWriter(text, [*names], lineterminator="\n")
    if names:
        writer.writeheader()
    writer.writerows({name: plain(_cell(value)) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
