"""A trained head in a Python program: paths, PIL images or arrays in, classes out."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from featcache.backbones.own import Backbone
from featcache.config import ExtractSpec, RunSpec
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.deployment.heads_together import HeadsTogether, ready_heads
from featcache.deployment.path_images import PathImages, expanded_images, split_of
from featcache.errors import DatasetError, UsageError
from featcache.images.decode import reason_of
from featcache.images.given_images import rgb_pixels
from featcache.images.rules import ImageRules
from featcache.images.splits import UNLABELLED, ArrayImages, Split, UnreadableImageError

if TYPE_CHECKING:
    from torch import nn

    from featcache.deployment.pipeline import Pipeline

_EXPECTED = (
    "Give paths, PIL images, uint8 arrays (H, W, 3), tensors (3, H, W), a list of these, or a "
    "uint8 array (N, H, W, 3)."
)


@dataclass(frozen=True, eq=False)
class PredictedImages:
    """What a head says of some images.

    Attributes:
        ids: N names: paths as they were given, or numbers from "0".
        classes: The most probable class of each; None if it could not be read.
        probabilities: (N, K) float64, by the order of `class_names`; NaN if it could not be read.
        reasons: Why not, by row.
        class_names: K names.
    """

    ids: tuple[str, ...]
    classes: tuple[str | None, ...]
    probabilities: npt.NDArray[np.float64]
    reasons: Mapping[int, str]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Predictor:
    """A head with its backbone, ready for images; several threads may ask it.

    Attributes:
        run: Folder of the head.
        head: The head.
        class_names: K names.
        batch_size: Images in one forward pass.
    """

    def __init__(self, heads: HeadsTogether, pipeline: Pipeline) -> None:
        """Take what `load_predictor` has made ready."""
        [(self.run, self.head)] = heads.by_run
        self.class_names = self.head.class_names
        self.batch_size = pipeline.batch_size
        self._rules = heads.backbone.rules
        self._pipeline = pipeline
        self._turn = threading.Lock()

    def predict(self, images: Any) -> PredictedImages:
        """Say which class each image is of.

        All probabilities are held at once; `featcache.predict` takes any number of files.

        Args:
            images: A path, a folder, a PIL image, a uint8 array (H, W, 3), a tensor (3, H, W), or a
                list of these; or a uint8 array (N, H, W, 3).

        Raises:
            UsageError: If it is something else.
            DatasetError: If none of the paths is there, or a folder holds no image.
            DeviceError: If the device fails or has no memory left.
        """
        split = _split(images, self._rules)
        is_of_files = isinstance(split.images, PathImages)
        with self._turn:
            self._pipeline.settle_engine(len(split))
            n_workers = self._pipeline.n_workers if is_of_files else 0
            batches = list(self._pipeline.answers(split, n_workers=n_workers))
        parts = [batch.probabilities[0] for batch in batches]
        probabilities = np.concatenate(parts or [np.zeros((0, len(self.class_names)))])
        reasons = {b.span.start + i: reason for b in batches for i, reason in b.reasons.items()}
        best = np.where(np.isnan(probabilities), -1, probabilities).argmax(1).tolist()
        classes = tuple(None if i in reasons else self.class_names[k] for i, k in enumerate(best))
        return PredictedImages(tuple(split.ids), classes, probabilities, reasons, self.class_names)


@starting(*ANY_START)
def load_predictor(
    run: str | os.PathLike[str] | None = None,
    *,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str = ExtractSpec.device,
    batch_size: int | None = ExtractSpec.batch_size,
    n_workers: int | None = ExtractSpec.n_workers,
    compile: str = ExtractSpec.compile,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_note: NoteCallback | None = None,
) -> Predictor:
    """Load a head with its backbone, which is compared with the one that made its features.

    Args:
        run: Folder of a run, or part of its name; None is the run that `evaluate` takes.
        backbone: The backbone of the head, where it must not choose: own code, a folder, the hub.
        weights: What fills it; None takes what filled it then.
        device: "auto", "cpu", "cuda" or "cuda:N".
        batch_size: Images in one forward pass, to which fewer are padded; None is as `extract`
            chooses, 1 is quickest where images come one at a time.
        n_workers: Processes that decode files; 0 decodes in this one, None chooses.
        compile: As in `extract`; "auto" tries engines at the first call with many images.
        cache_dir: Folder of all caches.
        runs_dir: Folder of all runs.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such run.
        MismatchError: If the backbone is not the one of the head.
        WeightsError: If its weights are gone.

    Example:
        >>> predictor = load_predictor("vgg16-none")  # doctest: +SKIP
        >>> predictor.predict("photo.jpg").classes  # doctest: +SKIP
        ('cat',)
    """
    heads, pipeline = ready_heads(
        () if run is None else (os.fspath(run),),
        backbone=backbone,
        weights=weights,
        device=device,
        batch_size=batch_size,
        n_workers=n_workers,
        compile=compile,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        on_note=on_note or silent,
    )
    return Predictor(heads, pipeline)


@dataclass(frozen=True, eq=False)
class _HeldImages:
    """Images and paths in a list, decoded in this process."""

    items: Sequence[Any]
    rules: ImageRules
    expected: bytes = b""
    has_heic: bool = False

    def __len__(self) -> int:
        return len(self.items)

    def path_of(self, row: int) -> str:
        """Name an image, for messages."""
        return f"image {row}"

    def decode(self, row: int) -> Image.Image:
        """Bring an image to RGB, as its file would be."""
        item = self.items[row]
        if isinstance(item, str | os.PathLike):
            return PathImages(rules=self.rules, root="", paths=(os.fspath(item),)).decode(0)
        try:
            if isinstance(item, Image.Image) and self.rules.exif_orientation == "apply":
                item = ImageOps.exif_transpose(item)
            pixels = rgb_pixels(item, what=self.path_of(row), kept="Nothing was predicted.")
            return Image.fromarray(pixels)
        except OSError as err:  # PIL reads a file when its pixels are asked for
            if isinstance(err, DatasetError):
                raise
            raise UnreadableImageError(reason_of(err)) from err


def _split(images: Any, rules: ImageRules) -> Split:
    """Make a split of what was given.

    Raises:
        UsageError: If it is not what `Predictor.predict` takes.
        DatasetError: If no path is there.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        if images.dtype != np.uint8 or images.shape[3] != 3:
            raise _unknown(f"an array of {images.dtype} of shape {images.shape}")
        ids = tuple(map(str, range(len(images))))
        return Split(UNLABELLED, ArrayImages(np.ascontiguousarray(images)), None, ids)
    items = list(images) if isinstance(images, list | tuple) else [images]
    if items and all(isinstance(item, str | os.PathLike) for item in items):
        return split_of(expanded_images(items, []), rules)
    for i, item in enumerate(items):
        is_path = isinstance(item, str | os.PathLike)
        if not (is_path or isinstance(item, Image.Image | np.ndarray) or hasattr(item, "detach")):
            raise _unknown(f"image {i} is {type(item).__name__}")
    ids = tuple(os.fspath(x) if isinstance(x, str | Path) else str(i) for i, x in enumerate(items))
    held: Any = _HeldImages(items, rules)
    return Split(UNLABELLED, held, None, ids)


def _unknown(got: str) -> UsageError:
    return UsageError(f"These are no images: {got}. Nothing was predicted. {_EXPECTED}")
