"""A run with all that is known of it: its head, its training, its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.core.reporting import NoteCallback, silent
from featcache.core.stopping import stop_if_asked
from featcache.errors import FeatcacheError
from featcache.evaluation.evaluate import evaluation_of
from featcache.heads.head_file import load_head
from featcache.heads.own_cache import own_cache
from featcache.heads.predictions import outputs_of
from featcache.heads.run_files import HeadRun, read_run
from featcache.heads.runs import RESULT_FILE
from featcache.heads.trained_head import TrainedHead
from featcache.insight.report.drawn import Drawn
from featcache.insight.report.kept_evaluation import KeptEvaluation, kept_evaluation
from featcache.store import Cache

_USUAL = ("test", "val")


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """A run with all that is known of it.

    Attributes:
        path: Its folder.
        head: Its head.
        trained: How the training went; None if it was stopped.
        cache: The cache that it was trained on; None if that is gone.
        evaluation: What its head says of a split; None if that cannot be had.
        problem: Why it cannot; empty if it is there.
    """

    path: Path
    head: TrainedHead
    trained: HeadRun | None
    cache: Cache | None
    evaluation: KeptEvaluation | None
    problem: str


def judged(
    run: Path,
    *,
    split: str | None,
    drawn: Drawn,
    device: str,
    cache_dir: str,
    on_note: NoteCallback,
    sound: list[Path],
) -> JudgedRun:
    """Read a run, and evaluate its head if that was not done.

    Args:
        run: Its folder.
        split: The split; None is "test", or "val" where there is no test split.
        drawn: How intervals are drawn; kept ones that were drawn otherwise are drawn anew.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache_dir: Folder of all caches.
        on_note: Told of an evaluation.
        sound: Caches that were verified; to those that are verified here are added.

    Raises:
        CorruptError: If the run is damaged.
    """
    stop_if_asked()
    head = load_head(run)
    trained = read_run(run) if (run / RESULT_FILE).exists() else None
    cache = _cache_of(head, cache_dir)
    problem = ""
    asked = _splits(cache) if split is None else (split,)
    evaluation = _kept(run, head, asked, drawn)
    if evaluation is None:
        on_note(f"evaluating {run}")
        try:
            outputs = outputs_of(
                run,
                split=asked[0],
                cache=None,
                device=device,
                cache_dir=Path(cache_dir),
                on_note=silent,
                sound=sound,
            )
            sound.append(outputs.cache.path)
            made = evaluation_of(outputs, drawn.spec)
            evaluation = kept_evaluation(run, head, made.split, drawn)
        except FeatcacheError as err:
            evaluation = _kept(run, head, asked, Drawn())
            problem = "" if evaluation else str(err)
            on_note(f"its intervals stay as eval drew them: {err}" if evaluation else problem)
    if evaluation is None and not problem:
        problem = f"The files of the evaluation in {run} cannot be read. Run featcache eval again."
    return JudgedRun(run, head, trained, cache, evaluation, problem)


def _kept(
    run: Path, head: TrainedHead, splits: Sequence[str], drawn: Drawn
) -> KeptEvaluation | None:
    """Read what is kept of the first split that has it."""
    found = (kept_evaluation(run, head, split, drawn) for split in splits)
    return next((one for one in found if one is not None), None)


def untested(run: Path, *, cache_dir: str) -> JudgedRun:
    """Read a run whose head is not to be evaluated.

    Args:
        run: Its folder.
        cache_dir: Folder of all caches.

    Raises:
        CorruptError: If the run is damaged.
    """
    head = load_head(run)
    trained = read_run(run) if (run / RESULT_FILE).exists() else None
    problem = "it was not tested, as another setting was chosen by its validation."
    return JudgedRun(run, head, trained, _cache_of(head, cache_dir), None, problem)


def _cache_of(head: TrainedHead, cache_dir: str) -> Cache | None:
    try:
        return own_cache(head, cache_dir)
    except FeatcacheError:  # it is damaged, and whoever needs it says so
        return None


def _splits(cache: Cache | None) -> Sequence[str]:
    """Name the split that is judged; without the cache, those that may have been."""
    if cache is None:
        return _USUAL
    return ("test",) if "test" in cache and cache["test"].valid.any() else ("val",)
