"""What cross-validation finds, and the file that keeps it; read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from featcache.core.from_file import from_file
from featcache.evaluation.metrics import LOSSES, SHARES, MeanEstimate
from featcache.store import replace_file


@dataclass(frozen=True)
class FoldFigures:
    """The head of one fold.

    Attributes:
        n_train: Images that trained it.
        n_val: Images by which its training was watched.
        n_test: Images that it is tested on.
        n_epochs: Epochs that were trained; 0 for a solver.
        kept_epoch: The epoch whose weights were tested, from 1; 0 for a solver.
        acc: Share of the tested images that are right.
        balanced_acc: Recall on them, averaged over the classes that they have.
        loss: Mean cross-entropy of them; None of a head whose scores are no probabilities.
        setting: What its solver chose on its own rows: "C 0.01", "k 20", "alpha 3.2"; else empty.
    """

    n_train: int
    n_val: int
    n_test: int
    n_epochs: int
    kept_epoch: int
    acc: float
    balanced_acc: float
    loss: float | None
    setting: str = ""


@dataclass(frozen=True)
class CrossValidation:
    """How good heads of one setting are, by folds.

    Attributes:
        outcome: "computed" or "reused".
        folds: The head of each fold.
        acc: Mean accuracy over the folds, with its interval.
        balanced_acc: The same of the balanced accuracy; None where all classes have about as many
            images.
        loss: The same of the loss; None of heads whose scores are no probabilities.
        seconds: Wall time of all folds.
        file: Where this is kept, as JSON.
    """

    outcome: str
    folds: tuple[FoldFigures, ...]
    acc: MeanEstimate
    balanced_acc: MeanEstimate | None
    loss: MeanEstimate | None
    seconds: float
    file: Path


def folds_file(run: Path, n_folds: int) -> Path:
    """Name the file in which the folds of a run's setting are kept, beside the run."""
    return run.with_name(f"{run.name}-folds-{n_folds}.json")


def kept_folds(run: Path, n_folds: int | None) -> CrossValidation | None:
    """Read what is kept of a run's setting; None if there is nothing that can be used, or asked."""
    if n_folds is None:
        return None
    file = folds_file(run, n_folds)
    try:
        said = json.loads(file.read_bytes())
        folds = tuple(from_file(FoldFigures, fold) for fold in said["folds"])
        seconds, is_shown = float(said["seconds"]), said["balanced_acc"] is not None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if len(folds) != n_folds:
        return None
    return summed_up(folds, file, seconds, has_balanced=is_shown, outcome="reused")


def summed_up(
    folds: Sequence[FoldFigures],
    file: Path,
    seconds: float,
    *,
    has_balanced: bool,
    outcome: str = "computed",
) -> CrossValidation:
    """Sum up folds.

    Args:
        folds: Their heads.
        file: Where they are kept.
        seconds: Wall time of all.
        has_balanced: Whether the balanced accuracy is another figure than the accuracy.
        outcome: "computed" or "reused".
    """
    balanced = MeanEstimate.of([fold.balanced_acc for fold in folds], SHARES)
    losses = [fold.loss for fold in folds if fold.loss is not None]
    return CrossValidation(
        outcome=outcome,
        folds=tuple(folds),
        acc=MeanEstimate.of([fold.acc for fold in folds], SHARES),
        balanced_acc=balanced if has_balanced else None,
        loss=MeanEstimate.of(losses, LOSSES) if len(losses) == len(folds) else None,
        seconds=seconds,
        file=file,
    )


def folds_remarks(found: CrossValidation | None) -> Iterator[str]:
    """Say where intervals are of so few folds that they say little."""
    if found is not None and found.acc.is_of_few:
        yield (
            f"The intervals are of {len(found.folds)} folds: of so few they are wide. --folds 5 or "
            f"more says more."
        )


def write_folds(found: CrossValidation) -> None:
    """Write the figures into their file."""
    said = asdict(found)
    del said["outcome"], said["file"]
    found.file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(found.file, (json.dumps(said, indent=2) + "\n").encode())
