"""Everything about a run that is decided before its first row: identity, place, space."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from featcache.backbones.batchnorm import batch_norm_statistics, require_batch_norm
from featcache.backbones.describe import BackboneInfo, describe_backbone
from featcache.backbones.families import family_of
from featcache.backbones.load import LoadedBackbone, load_backbone
from featcache.config import ExtractSpec
from featcache.core.backbone_kinds import backbone_slug
from featcache.core.device import pick_device, pick_precision
from featcache.core.identity import IDENTITY_FORMAT
from featcache.core.options import AUTO
from featcache.core.paths import expanded
from featcache.core.plain_torch import plain_torch
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.core.views import Views
from featcache.errors import UsageError
from featcache.extraction.opening import identified, known_rows
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.images.batches import image_shape
from featcache.images.rules import ImageRules
from featcache.images.splits import ArrayImages, Dataset
from featcache.images.stat_index import KnownFiles
from featcache.store import (
    FILE_VERSION,
    Identity,
    SplitPlan,
    SplitRows,
    cache_path,
    encode_id,
    partial_path,
    require_space,
)

DTYPES_IN_FILE = {"float32": "<f4", "float16": "<f2", "uint8": "|u1"}
# All that decides adapted statistics beside the dataset and the backbone; part of the identity. The
# batch is the notebook's.
ADAPT_BATCH_SIZE = 64
ADAPT_SEED = 0
N_REFERENCE = 2
_ADAPTATION = {"mode": "adapted", "batch_size": ADAPT_BATCH_SIZE, "seed": ADAPT_SEED}


@dataclass(frozen=True)
class Whole:
    """What a part of a cache has from the whole, whatever its own images are.

    Attributes:
        id_nbytes: Width of the ids in the file, by split; a digest of rows counts it.
        has_heic: Whether libheif decodes some of the images: the numeric class then says which.
    """

    id_nbytes: Mapping[str, int]
    has_heic: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """One run of `extract`, decided before its first row; a `Job` carries it out.

    Attributes:
        spec: What was asked for.
        dataset: The images, limited as asked.
        preprocess: Image to input.
        backbone: The backbone with its weights; its module is None where no network runs.
        info: What the backbone costs.
        device: "cpu" or "cuda:N".
        precision: "fp32", "tf32", "bf16", "fp16", or "exact" where no network runs.
        store_dtype: "float32", "float16", or "uint8" where no network runs.
        row_shape: Shape of one row, or of one view of it.
        identity: What the fingerprint is the hash of.
        path: Where the cache will be.
        choices: What was chosen automatically, with the reason.
        whole: The whole of which this is a part; None if it is a whole itself.
    """

    spec: ExtractSpec
    dataset: Dataset
    preprocess: Preprocess
    backbone: LoadedBackbone
    info: BackboneInfo
    device: str
    precision: str
    store_dtype: str
    row_shape: tuple[int, ...]
    identity: Identity
    path: Path
    choices: Mapping[str, str]
    whole: Whole | None = None

    @property
    def has_heic(self) -> bool:
        """Whether libheif decodes some of the images, or of those of the whole."""
        return self.dataset.has_heic if self.whole is None else self.whole.has_heic

    @property
    def has_backbone(self) -> bool:
        """Whether there is a network to run."""
        return self.backbone.module is not None

    @property
    def n_rows(self) -> int:
        """Rows of all splits."""
        return sum(len(split) for split in self.dataset.splits.values())

    @property
    def n_images(self) -> int:
        """What runs through the backbone: each view of each image."""
        return _n_images(self.dataset, self.views)

    @property
    def row_nbytes(self) -> int:
        """Bytes of the features of one row, of all its views."""
        return self.views.n * _row_nbytes(self.row_shape, self.store_dtype)

    @property
    def views(self) -> Views:
        """The views of its images."""
        return self.spec.drawn_views

    @property
    def are_images_prepared(self) -> bool:
        """Whether images come resized and cropped: several views of each are made by PIL."""
        return self.views.n > 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the images that a batch comes with."""
        if self.are_images_prepared:
            return (*self.preprocess.out_size, 3)
        return image_shape(next(iter(self.dataset.splits.values())), self.preprocess)

    def rows(self) -> dict[str, SplitRows]:
        """What is known of the rows, which the file holds from the start."""
        return known_rows(self.dataset)

    def splits(self, version: int = FILE_VERSION) -> dict[str, SplitPlan]:
        """Describe the splits of a file of this version; the identity leaves no choice."""
        return {
            name: SplitPlan(
                n_rows=len(split),
                feature_shape=self.views.shape_of(name, self.row_shape),
                feature_dtype=DTYPES_IN_FILE[self.store_dtype],
                id_nbytes=max(len(encode_id(i)) for i in split.ids)
                if self.whole is None
                else self.whole.id_nbytes[name],
                has_reasons=not isinstance(split.images, ArrayImages),
                has_labels=split.labels is not None,
                has_image_sha256=version > 1,
            )
            for name, split in self.dataset.splits.items()
        }

    def statistics(self) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
        """Name the backbone's statistics in the file, with their shapes; None if it is frozen."""
        if self.spec.bn != "adapted":
            return None
        assert self.backbone.module is not None, "only a network has BatchNorm"
        tensors = batch_norm_statistics(self.backbone.module).items()
        return tuple((name, tuple(tensor.shape)) for name, tensor in tensors)

    def reference(self) -> tuple[int, int] | None:
        """Give the shape of the reference rows in the file; None where no network runs."""
        return (N_REFERENCE, self.row_shape[0]) if self.has_backbone else None


@plain_torch()
def make_plan(
    spec: ExtractSpec,
    dataset: Dataset,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
    dataset_sha256: str | None = None,
    known: KnownFiles | None = None,
    at: Path | None = None,
) -> Plan:
    """Decide a run; the cheap refusals come first.

    Args:
        spec: What was asked for.
        dataset: Its images, limited as asked.
        on_progress: Called while the dataset is read for its digest.
        on_note: Told each choice.
        dataset_sha256: The digest of its images, if it was computed before.
        known: Files that it knows are not read for that digest; None reads all.
        at: Where the cache is, which is to be repaired in place; None finds its place.

    Raises:
        UsageError: For names and sizes that do not exist.
        DiskFullError: If the disk cannot hold the cache.
        WeightsError: If the weights cannot be had or do not fit.
    """
    device, precision, choices = _choose_hardware(spec, on_note)
    family = family_of(spec.backbone)
    image_size = spec.image_size or family.usual_size(spec.backbone)
    info = describe_backbone(spec.backbone, image_size, layer=spec.layer, pool=spec.pool)
    preprocess = _preprocess(spec, image_size, on_note)
    slug = backbone_slug(spec.backbone)
    row_shape, store_dtype = _row(spec, dataset, preprocess, n_features=info.n_features)
    folder = expanded(spec.cache_dir) / dataset.slug
    nbytes = _n_images(dataset, spec.drawn_views) * _row_nbytes(row_shape, store_dtype)
    of_this_backbone = folder.glob(f"{glob.escape(slug)}-*.h5*")
    # A file that large may be this cache; only its identity tells. Check the space later then.
    if at is None and not any(p.is_file() and p.stat().st_size >= nbytes for p in of_this_backbone):
        require_space(folder, nbytes=nbytes)
    if dataset_sha256 is None:
        dataset_sha256, dataset = identified(
            dataset, spec, known, on_progress=on_progress, on_note=on_note
        )
    on_progress(Progress("weights", "", 0, 0))
    # `extract` compares the file of weights with its digest later, when it knows whether it must.
    backbone = _load(spec, image_size, on_note, check_file=at is not None)
    said = {
        "format": IDENTITY_FORMAT,
        "backbone": slug,
        "layer": backbone.layer,
        "weights_sha256": backbone.weights_sha256,
        "bn": _ADAPTATION if spec.bn == "adapted" else spec.bn,
        "preprocess": asdict(preprocess),
        "precision": precision,
        "store_dtype": store_dtype,
        "dataset_sha256": dataset_sha256,
        **ImageRules(spec.max_pixels, spec.exif_orientation).identity(),
        **spec.drawn_views.to_json(),
        **backbone.identity,
    }
    identity = Identity.from_json(said)
    path = at or cache_path(folder, slug, identity.fingerprint)
    if at is None and not path.is_file() and not partial_path(path).is_file():
        require_space(folder, nbytes=nbytes)
    return Plan(
        spec=spec,
        dataset=dataset,
        preprocess=preprocess,
        backbone=backbone,
        info=info,
        device=device,
        precision=precision,
        store_dtype=store_dtype,
        row_shape=row_shape,
        identity=identity,
        path=path,
        choices=choices,
    )


def _choose_hardware(spec: ExtractSpec, on_note: NoteCallback) -> tuple[str, str, dict[str, str]]:
    """Choose device and precision, and say why."""
    device = pick_device(spec.device)
    on_note(f"device {device.told}")
    choices = {"device": device.recorded}
    if not family_of(spec.backbone).runs_network:
        return device.value, "exact", choices
    precision = pick_precision(spec.precision, device.value)
    on_note(f"precision {precision.told}")
    choices["precision"] = precision.recorded
    return device.value, precision.value, choices


def _preprocess(spec: ExtractSpec, image_size: int, on_note: NoteCallback) -> Preprocess:
    """Settle how images are prepared; told where that is not the notebook's way."""
    family = family_of(spec.backbone)
    asked = family.usual_preprocess if spec.preprocess == AUTO else spec.preprocess
    if asked == "notebook":
        return Preprocess.notebook(image_size)
    preprocess = family.preprocess(spec.backbone, spec.weights, image_size)
    on_note(f"images prepared as for the weights: {preprocess.told}")
    return preprocess


def _load(
    spec: ExtractSpec, image_size: int, on_note: NoteCallback, *, check_file: bool
) -> LoadedBackbone:
    backbone = load_backbone(
        spec.backbone,
        weights=spec.weights,
        layer=spec.layer,
        pool=spec.pool,
        seed=spec.seed,
        image_size=image_size,
        check_file=check_file,
    )
    if backbone.module is None:
        return backbone
    if spec.bn == "adapted":
        require_batch_norm(backbone.module, backbone=spec.backbone)
    around = f" ({backbone.note})" if backbone.note else ""
    on_note(f"weights: {backbone.weights}{around}")
    for sentence in backbone.notes:
        on_note(sentence)
    return backbone


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


def _n_images(dataset: Dataset, views: Views) -> int:
    return sum(len(split) * views.n_of(name) for name, split in dataset.splits.items())


def _row_nbytes(row_shape: tuple[int, ...], store_dtype: str) -> int:
    return np.dtype(DTYPES_IN_FILE[store_dtype]).itemsize * math.prod(row_shape)
