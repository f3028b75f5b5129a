"""What stands in the folder of a run: the head, its curves, its figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.config import HeadSpec, SolverSpec, TrainSpec
from featcache.core.from_file import from_file
from featcache.core.paths import resolved
from featcache.errors import CorruptError
from featcache.heads.backbone_record import BackboneRecord
from featcache.heads.description import found_from_json
from featcache.heads.head_file import load_head
from featcache.heads.history import History, history_from_json
from featcache.heads.runs import METRICS_FILE, RESULT_FILE
from featcache.heads.trained_head import TrainedHead, versions
from featcache.store import Cache, locked, replace_file

# Runs are read without torch, which takes seconds to import.
if TYPE_CHECKING:
    import torch

    from featcache.features.datamodule import FeatureDataModule

_NOT_IN_FILE = ("path", "outcome")


@dataclass(frozen=True)
class HeadRun:
    """One trained head.

    Attributes:
        path: Its folder.
        outcome: "trained", "resumed" or "reused".
        seed: Its seed.
        n_epochs: Epochs that were trained.
        kept_epoch: The epoch whose weights are kept, from 1: the last or the best, as `select`
            says.
        best_epoch: The epoch with the lowest val_loss, from 1.
        stopped_early: Whether early stopping ended it.
        val_loss: Mean cross-entropy over the validation rows, of the selected weights; of a head
            that was fitted to them in the end, before that. None without such rows.
        val_acc: Share of them that are right.
        test_loss: The same over the split "test"; None if the cache has none, or if a sweep trained
            it and another setting was better, or if scores have no temperature.
        test_acc: Share of them that are right.
        seconds: Wall time of the epochs; in a sweep, its share of it.
        history: A row for each epoch: epoch, train_loss, val_loss, val_acc, step.
        solver: How the head was found; all but "mlp" have no epochs.
        found: What the solver found beside the weights, as `TrainedHead.found`.
    """

    path: Path
    outcome: str
    seed: int
    n_epochs: int
    kept_epoch: int
    best_epoch: int
    stopped_early: bool
    val_loss: float | None
    val_acc: float | None
    test_loss: float | None
    test_acc: float | None
    seconds: float
    history: History
    solver: str = "mlp"
    found: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give what result.json holds, in its order."""
        figures = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in _NOT_IN_FILE
        }
        if self.solver == "mlp":  # as it was before there were others
            del figures["solver"], figures["found"]
        return {**figures, "history": [row.to_json() for row in self.history]}

    @classmethod
    def from_json(cls, path: Path, said: Any, *, kept_epoch: int) -> HeadRun:
        """Read what result.json says of the run in a folder.

        Args:
            path: The folder.
            said: Its content; 0.1 wrote it without the kept epoch.
            kept_epoch: What the head says of that.

        Raises:
            ValueError: Naming what is wrong.
        """
        history = history_from_json(said.get("history") if isinstance(said, Mapping) else None)
        known: dict[str, Any] = {"path": path, "outcome": "reused", "kept_epoch": kept_epoch}
        known["found"] = found_from_json(said.get("found", {}))
        return from_file(cls, said, history=history, **known)


def read_run(path: Path) -> HeadRun:
    """Read the figures of a finished run.

    Raises:
        CorruptError: If they or the head cannot be read.
    """
    kept_epoch = load_head(path).n_epochs
    try:
        said = json.loads((path / RESULT_FILE).read_text())
        return HeadRun.from_json(path, said, kept_epoch=kept_epoch)
    except (OSError, ValueError) as err:
        raise CorruptError(
            f"{path / RESULT_FILE} cannot be read ({err}). Nothing was changed. Remove the folder "
            f"{path} and train again."
        ) from err


def reusable_run(path: Path, cache: Cache) -> HeadRun | None:
    """Read the run of this path, if it is there and there is nothing left to do for it.

    Raises:
        CorruptError: If it is there, but cannot be read.
    """
    run = read_run(path) if path.exists() else None
    # A sweep leaves all but its best untested.
    is_done = run is not None and not (run.test_acc is None and has_test_rows(cache))
    return run if is_done else None


def run_of(folder: Path, train: TrainSpec, history: History, *, seconds: float) -> HeadRun:
    """Sum up a training; the test comes later."""
    best = min(history, key=lambda row: row["val_loss"])
    selected = best if train.select == "best" else history[-1]
    return HeadRun(
        path=folder,
        outcome="trained",
        seed=train.seed,
        n_epochs=len(history),
        kept_epoch=int(selected["epoch"]),
        best_epoch=int(best["epoch"]),
        stopped_early=len(history) < train.max_epochs,
        val_loss=selected["val_loss"],
        val_acc=selected["val_acc"],
        test_loss=None,
        test_acc=None,
        seconds=seconds,
        history=tuple(history),
    )


def head_of(
    cache: Cache,
    head: HeadSpec,
    train: TrainSpec,
    state: Mapping[str, torch.Tensor],
    *,
    rows: Mapping[str, tuple[str, int]],
    n_epochs: int,
    device: str,
    is_finished: bool = True,
    solver: SolverSpec | None = None,
    found: Mapping[str, Any] | None = None,
    record: BackboneRecord | None = None,
) -> TrainedHead:
    """Describe a head, to be saved.

    Args:
        cache: What it was trained on.
        head: Its shape and regularisation.
        train: Its training.
        state: Its weights.
        rows: "train" and "val": the split, and how many of its rows.
        n_epochs: Epochs that the weights have seen.
        device: Where it was trained.
        is_finished: Whether training ended as planned.
        solver: How it was found; None is an MLP on raw features.
        found: What the solver found beside the weights.
        record: What the cache says of its backbone, read before a long training: the file may be
            gone at its end. None reads it now.
    """
    from featcache.features.rows import n_inputs

    solver = solver or SolverSpec()
    return TrainedHead(
        path=None,
        spec=head,
        train=train,
        n_features=n_inputs(cache),
        class_names=cache.class_names,
        split={name: {"split": split, "n_rows": n} for name, (split, n) in rows.items()},
        dataset=cache.provenance.dataset,
        cache_path=resolved(cache.path),
        cache_fingerprint=cache.fingerprint,
        cache_identity=cache.identity.to_json(),
        n_epochs=n_epochs,
        is_finished=is_finished,
        arrays={name: tensor.detach().cpu().numpy() for name, tensor in state.items()},
        versions=versions(device, lightning=solver.is_mlp),
        solver=solver,
        found=found or {},
        record=record or BackboneRecord.of_cache(cache),
    )


def write_metrics(folder: Path, history: History) -> None:
    """Write metrics.csv as Lightning's CSVLogger does."""
    text = io.StringIO(newline="")
    names = ["epoch", "step", *sorted(history[0].keys() - {"epoch", "step"})]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    whole = ({name: int(row[name]) for name in ("epoch", "step")} for row in history)
    writer.writerows({**row, **numbers} for row, numbers in zip(history, whole, strict=True))
    replace_file(folder / METRICS_FILE, text.getvalue().encode())


def write_figures(folder: Path, run: HeadRun) -> None:
    """Write result.json."""
    replace_file(folder / RESULT_FILE, (json.dumps(run.to_json(), indent=2) + "\n").encode())


def has_test_rows(cache: Cache) -> bool:
    """Tell whether there is anything to test on."""
    return "test" in cache.splits and bool(cache["test"].valid.any())


def tested(run: HeadRun, batches: FeatureDataModule, *, device: torch.device) -> HeadRun:
    """Test a run on the split "test", and enter the figures into its folder.

    Raises:
        LockedError: If another process writes there at this moment.
    """
    from featcache.heads.answering import answering_module
    from featcache.heads.figures import SumsOfBatches, figures_on_test

    head = load_head(run.path)
    module = answering_module(head, batches.cache, device=device)
    loss, acc = figures_on_test(module, batches, SumsOfBatches(), device=device)
    with locked(run.path, remove=True):
        test_loss = loss if head.is_calibrated else None
        run = replace(read_run(run.path), test_loss=test_loss, test_acc=acc)
        write_figures(run.path, run)
    return run
