"""The answers of trained heads for new images, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featcache.backbones.own import Backbone
from featcache.config import ExtractSpec, PredictSpec, RunSpec
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.core.stopping import stop_if_asked, working
from featcache.deployment.heads_together import HeadsTogether, ready_heads
from featcache.deployment.path_images import ImagePath, expanded_images, portions, split_of
from featcache.errors import InterruptedRunError, UsageError
from featcache.extraction.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from torch import nn

    from featcache.deployment.pipeline import AnsweredBatch, Pipeline

_Probabilities = npt.NDArray[np.float64]
_IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImagePrediction:
    """What one head says of one image.

    Attributes:
        image: Its path, as it was given.
        run: Folder of the head.
        classes: The most probable classes, the first one first; none if it could not be read.
        probabilities: Theirs.
        reason: Why it could not be read; empty if it could.
    """

    image: str
    run: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    reason: str = ""


@starting(*ANY_START)
def predict(
    images: ImagePath | Iterable[ImagePath | Sequence[str]],
    *,
    run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    top: int = PredictSpec.top,
    below: float | None = PredictSpec.below,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = ExtractSpec.device,
    batch_size: int | None = ExtractSpec.batch_size,
    n_workers: int | None = ExtractSpec.n_workers,
    compile: str = ExtractSpec.compile,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> Predictions:
    """Say what trained heads make of new images, in flat memory however many they are.

    The backbone is built again, and compared with the one that made the heads' features, before
    this returns. Images are read while the answers are taken.

    Args:
        images: A path or several, of image files or of folders, whose images are taken; or an
            iterator of paths of image files, which is read as it goes. A list in it is answered
            before the next item is asked for.
        run: A run, or several of one cache, by folder or part of the name; None is the run that
            `evaluate` takes.
        top: Tell this many of the most probable classes.
        below: Tell only images of which the highest probability of a head is below this, and those
            that cannot be read.
        backbone: The backbone of the heads, where they cannot say it: code of one's own, a folder.
        weights: What fills it; None takes what filled it then.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images in one forward pass; None is as `extract` chooses.
        n_workers: Processes that decode files; None chooses.
        compile: As in `extract`.
        cache_dir: Folder of all caches.
        runs_dir: Folder of all runs.
        on_progress: Called after each batch.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        For each image, in order, one for each run. An image that cannot be read has a reason.

    Raises:
        CacheMissingError: If there is no such run.
        MismatchError: If the backbone is not the one of the heads, or they are of several caches.
        WeightsError: If its weights are gone.
        DatasetError: If none of the images is there, or a folder holds none.
        InterruptedRunError: At Ctrl-C, while answers are taken; those that were taken are good.
    """
    runs = (run,) if isinstance(run, str | os.PathLike) else tuple(run or ())
    spec = PredictSpec(run=tuple(os.fspath(one) for one in runs), top=top, below=below)
    note = on_note or silent
    images, n_total = _counted_images(images, note)
    heads, pipeline = ready_heads(
        spec.run,
        backbone=backbone,
        weights=weights,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        compile=compile,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        on_note=note,
    )
    return Predictions(
        heads, pipeline, spec, images, n_total=n_total, on_progress=on_progress or silent
    )


def _counted_images(
    images: ImagePath | Iterable[ImagePath | Sequence[str]], on_note: NoteCallback
) -> tuple[Iterable[ImagePath | Sequence[str]], int]:
    """Settle which images are meant, and how many they are; 0 where only time tells."""
    if isinstance(images, str | os.PathLike):
        images = [images]
    if not isinstance(images, Sequence):
        return images, 0
    named = [one for one in images if isinstance(one, str | os.PathLike)]
    if len(named) < len(images):
        raise UsageError(
            f"{type(images[0]).__name__} is no path of an image. Nothing was started. Give paths; "
            f"featcache.load_predictor takes images and arrays."
        )
    notes: list[str] = []
    paths = expanded_images(named, notes)
    for sentence in notes:
        on_note(sentence)
    return paths, len(paths)


class Predictions(Iterator[ImagePrediction]):
    """The answers for images, computed as they are asked for; how far that is.

    Attributes:
        runs: Folders of the heads.
        n_shown: How many classes each answer names.
        n_images: Images that were looked at so far.
        n_unreadable: Those of them that could not be read.
    """

    def __init__(
        self,
        heads: HeadsTogether,
        pipeline: Pipeline,
        spec: PredictSpec,
        images: Iterable[ImagePath | Sequence[str]],
        *,
        n_total: int,
        on_progress: ProgressCallback,
    ) -> None:
        self.runs = tuple(folder for folder, _ in heads.by_run)
        self.n_shown = min(spec.top, len(heads.by_run[0][1].class_names))
        self.n_images = self.n_unreadable = 0
        self._heads, self._pipeline, self._spec = heads, pipeline, spec
        self._n_total, self._on_progress = n_total, on_progress
        self._answers = self._of(images)

    def __next__(self) -> ImagePrediction:
        return next(self._answers)

    def close(self) -> None:
        """End the processes that decode images, where not all answers are taken."""
        self._answers.close()

    def _of(
        self, images: Iterable[ImagePath | Sequence[str]]
    ) -> Generator[ImagePrediction, None, None]:
        try:
            with working():
                yield from self._by_portions(images)
        except KeyboardInterrupt as err:
            of = f" of {self._n_total}" if self._n_total else ""
            raise InterruptedRunError(
                f"Stopped. {self.n_images}{of} images were answered, and what was written of them "
                f"is whole. The same command starts again."
            ) from err

    def _by_portions(
        self, images: Iterable[ImagePath | Sequence[str]]
    ) -> Iterator[ImagePrediction]:
        started = time.perf_counter()
        for paths in portions(images):
            stop_if_asked()
            split = split_of(paths, self._heads.backbone.rules)
            if not self.n_images:
                self._pipeline.settle_engine(self._n_total or len(paths))
                started = time.perf_counter()
            for batch in self._pipeline.answers(split, n_workers=self._pipeline.n_workers):
                self.n_images += batch.span.stop - batch.span.start
                self.n_unreadable += len(batch.reasons)
                yield from self._told(batch, paths)
                self._on_progress(self._progress(time.perf_counter() - started))

    def _told(self, batch: AnsweredBatch, paths: Sequence[str]) -> Iterator[ImagePrediction]:
        """Give the rows of a batch that are asked for."""
        span, spec = batch.span, self._spec
        ranked = [_most_probable(found, spec.top) for found in batch.probabilities]
        for i in range(span.stop - span.start):
            image, reason = paths[span.start + i], batch.reasons.get(i, "")
            highest = [float(found[i, order[i, 0]]) for found, order in ranked]
            if not reason and spec.below is not None and min(highest) >= spec.below:
                continue
            for (run, head), (found, order) in zip(self._heads.by_run, ranked, strict=True):
                best = () if reason else tuple(order[i].tolist())
                names = tuple(head.class_names[k] for k in best)
                yield ImagePrediction(image, run, names, tuple(found[i, best].tolist()), reason)

    def _progress(self, seconds: float) -> Progress:
        rate = self.n_images / max(1e-9, seconds)
        left_s = max(0, self._n_total - self.n_images) / rate
        return Progress("predict", "", self.n_images, self._n_total, rate, left_s)


def _most_probable(probabilities: _Probabilities, top: int) -> tuple[_Probabilities, _IntArray]:
    """Rank the classes of each row; of two alike, the lower number comes first."""
    return probabilities, np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
