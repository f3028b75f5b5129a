"""Two heads on the same images: the difference of their accuracies, and whether it is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.config import EvaluateSpec, ExtractSpec, RunSpec
from featcache.core.arguments import place
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import MismatchError
from featcache.evaluation.evaluate import Evaluation, evaluation_of
from featcache.evaluation.metrics import Estimate, bootstrap, mcnemar_p
from featcache.heads.predictions import Outputs, outputs_of
from featcache.heads.runs import find_run


@dataclass(frozen=True)
class Comparison:
    """Two heads on the same images.

    Attributes:
        first: Folder of the first head.
        second: Folder of the second head.
        split: The split.
        n_images: Its images.
        acc_difference: Accuracy of the first less that of the second, by paired bootstrap.
        n_only_first: Images that only the first gets right.
        n_only_second: Images that only the second gets right.
        p_value: McNemar's exact test, two-sided.
        evaluations: Each head's own figures, written beside it as `evaluate` does.
    """

    first: Path
    second: Path
    split: str
    n_images: int
    acc_difference: Estimate
    n_only_first: int
    n_only_second: int
    p_value: float
    evaluations: Sequence[Evaluation]


@starting(*ANY_START)
def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    split: str | None = EvaluateSpec.split,
    draws: int = EvaluateSpec.draws,
    seed: int = EvaluateSpec.seed,
    tta: bool = EvaluateSpec.tta,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_note: NoteCallback | None = None,
) -> Comparison:
    """Compare two heads on the same images of a split; their backbones may differ.

    Args:
        first: Folder of a run, or part of its name.
        second: Folder of another.
        split: "test", "val" or "train"; None is "test", or "val" where there is no test split.
        draws: Bootstrap samples of the difference.
        seed: Seeds them.
        tta: Give each head all views of each image, and take the mean of its answers.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache_dir: Folder of all caches.
        runs_dir: Folder of all runs.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        MismatchError: If they were not given the same images.
    """
    note = on_note or silent
    asked = EvaluateSpec(split=split, draws=draws, seed=seed, tta=tta)
    outputs: list[Outputs] = []
    for run in (first, second):
        one = outputs_of(
            find_run(run, runs_dir=runs_dir),
            split=asked.split,
            cache=None,
            device=device,
            cache_dir=place("--cache-dir", cache_dir),
            on_note=note,
            tta=asked.tta,
            sound=[other.cache.path for other in outputs],
        )
        outputs.append(one)
    a, b = outputs
    _require_same_rows(a, b)
    evaluations = tuple(evaluation_of(one, asked) for one in outputs)
    for evaluation in evaluations:
        for remark in evaluation.remarks:
            note(f"{evaluation.run.name}: {remark}")
    right_a, right_b = a.labels == a.predictions, b.labels == b.predictions
    gained = right_a.astype(np.int64) - right_b
    n_only_first, n_only_second = int((gained > 0).sum()), int((gained < 0).sum())
    return Comparison(
        first=a.run,
        second=b.run,
        split=a.split,
        n_images=len(gained),
        acc_difference=bootstrap(
            lambda rows: float(gained[rows].mean()),
            len(gained),
            n_draws=asked.draws,
            seed=asked.seed,
        ),
        n_only_first=n_only_first,
        n_only_second=n_only_second,
        p_value=mcnemar_p(n_only_first, n_only_second),
        evaluations=evaluations,
    )


def _require_same_rows(a: Outputs, b: Outputs) -> None:
    same = a.split == b.split and list(a.ids) == list(b.ids) and np.array_equal(a.labels, b.labels)
    same = same and a.cache.identity.get("dataset_sha256") == b.cache.identity.get("dataset_sha256")
    if not same:
        raise MismatchError(
            f"{a.run} and {b.run} cannot be compared: split {a.split!r} of the one and {b.split!r} "
            f"of the other hold different images ({len(a.labels)} and {len(b.labels)}). Nothing "
            f"was compared. Give two heads of one dataset, and of one --split-seed for train and "
            f"val."
        )
