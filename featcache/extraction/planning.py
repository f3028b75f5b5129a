"""Decide everything about a run before its first row: choices, identity, place, space."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from featcache.backbones.batchnorm import require_batch_norm
from featcache.backbones.describe import describe_backbone
from featcache.backbones.families import family_of
from featcache.backbones.load import load_backbone
from featcache.config import TOLD_OF_HEADERS, ExtractSpec
from featcache.core.device import pick_device, pick_precision
from featcache.core.identity import FORMAT_VERSION, fingerprint
from featcache.core.paths import expanded
from featcache.core.plain_torch import plain_torch
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import Choice, NoteCallback
from featcache.errors import UsageError
from featcache.extraction.job import ADAPTATION, Progress, ProgressCallback
from featcache.extraction.plan import STORE_DTYPES, Plan
from featcache.images.batches import image_shape
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset
from featcache.store import (
    cache_path,
    partial_path,
    require_space,
)


@plain_torch()
def make_plan(
    spec: ExtractSpec,
    dataset: Dataset,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
    dataset_sha256: str | None = None,
    at: Path | None = None,
) -> Plan:
    """Decide a run; the cheap refusals come first.

    Args:
        spec: What was asked for.
        dataset: Its images, limited as asked.
        on_progress: Called while the dataset is read for its digest.
        on_note: Told each choice.
        dataset_sha256: The digest of its images, if it was computed before.
        at: Where the cache is, which is to be repaired in place; None finds its place.

    Raises:
        UsageError: For names and sizes that do not exist.
        DiskFullError: If the disk cannot hold the cache.
        WeightsError: If the weights cannot be had or do not fit.
    """
    family = family_of(spec.backbone)
    choices: dict[str, str] = {}
    device = _told("device", pick_device(spec.device), choices, on_note)
    precision = "exact"
    if family.runs_network:
        chosen = pick_precision(spec.precision, device)
        precision = _told("precision", chosen, choices, on_note)
    info = describe_backbone(spec.backbone, spec.image_size)
    preprocess = Preprocess.notebook(spec.image_size)
    if spec.preprocess == "weights":
        preprocess = family.preprocess(spec.backbone, spec.weights, spec.image_size)
    row_shape, store_dtype = _row(spec, dataset, preprocess, n_features=info.n_features)
    folder = expanded(spec.cache_dir) / dataset.slug
    n_rows = sum(len(split) for split in dataset.splits.values())
    nbytes = n_rows * np.dtype(STORE_DTYPES[store_dtype]).itemsize * math.prod(row_shape)
    of_this_backbone = folder.glob(f"{spec.backbone}-*.h5*")
    # One of that size may be our own, which only the identity tells.
    if at is None and not any(p.is_file() and p.stat().st_size >= nbytes for p in of_this_backbone):
        require_space(folder, nbytes=nbytes)
    if dataset_sha256 is None:
        dataset_sha256, dataset = dataset.identified(
            on_progress=lambda i, n: on_progress(Progress("digest", "", i, n))
        )
        _tell_headers(dataset, spec, on_note)
    on_progress(Progress("weights", "", 0, 0))
    backbone = load_backbone(
        spec.backbone,
        weights=spec.weights,
        seed=spec.seed,
        image_size=spec.image_size,
        check_file=at is not None,  # elsewhere where there is no cache yet, and rows are computed
    )
    if backbone.module is not None and spec.bn == "adapted":
        require_batch_norm(backbone.module, backbone=spec.backbone)
    if family.runs_network:
        around = f" ({backbone.note})" if backbone.note else ""
        on_note(f"weights: {backbone.weights}{around}")
    identity = {
        "format": FORMAT_VERSION,
        "backbone": spec.backbone,
        "layer": backbone.layer,
        "weights_sha256": backbone.weights_sha256,
        "bn": ADAPTATION if spec.bn == "adapted" else spec.bn,
        "preprocess": asdict(preprocess),
        "precision": precision,
        "store_dtype": store_dtype,
        "dataset_sha256": dataset_sha256,
        **ImageRules(spec.max_pixels, spec.exif_orientation).identity(),
    }
    path = at or cache_path(folder, spec.backbone, fingerprint(identity))
    if at is None and not path.is_file() and not partial_path(path).is_file():
        require_space(folder, nbytes=nbytes)
    return Plan(
        spec=spec,
        dataset=dataset,
        preprocess=preprocess,
        backbone=backbone,
        nbytes_per_image=info.activation_bytes_per_image,
        gflop=info.gflop,
        device=device,
        precision=precision,
        store_dtype=store_dtype,
        row_shape=row_shape,
        identity=identity,
        path=path,
        choices=choices,
    )


def _tell_headers(dataset: Dataset, spec: ExtractSpec, on_note: NoteCallback) -> None:
    n_clipped, n_turned = (dataset.told.get(name, 0) for name in TOLD_OF_HEADERS)
    if n_clipped:
        on_note(
            f"{n_clipped} images are grey with more than 8 bits a channel: as in torchvision's "
            f"loader, values beyond 255 become white. Convert them to 8 bits for other rows."
        )
    if n_turned and spec.exif_orientation == "apply":
        on_note(f"{n_turned} images are turned upright as EXIF says")
    elif n_turned:
        on_note(
            f"{n_turned} images are not upright by their EXIF orientation, which torchvision's "
            f"loader ignores; --exif-orientation apply turns them"
        )


def _told(name: str, choice: Choice[str], choices: dict[str, str], on_note: NoteCallback) -> str:
    choices[name] = f"{choice.value} ({choice.why})"
    on_note(f"{name} {choice.value}: {choice.why}")
    return choice.value


def _row(
    spec: ExtractSpec, dataset: Dataset, preprocess: Preprocess, *, n_features: int
) -> tuple[tuple[int, ...], str]:
    """Shape and storage type of one row."""
    if family_of(spec.backbone).runs_network:
        return (n_features,), spec.store_dtype
    shapes = {image_shape(split, preprocess) for split in dataset.splits.values()}
    if len(shapes) > 1:
        raise UsageError(f"The splits of {dataset.name} have images of several sizes: {shapes}.")
    return shapes.pop(), "uint8"
