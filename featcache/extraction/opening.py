"""The images of an extraction, opened and hashed; all of it without torch."""

from __future__ import annotations

from featcache.backbones.families import check_backbone_options, family_of
from featcache.config import TOLD_OF_HEADERS, ExtractSpec
from featcache.core.arguments import option_name
from featcache.core.backbone_names import backbone_name
from featcache.core.reporting import NoteCallback
from featcache.core.tolerances import TF32_ON_CPU
from featcache.errors import UsageError, counted
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.images.datasets import load_dataset
from featcache.images.rules import ImageRules
from featcache.images.splits import Dataset, Identified
from featcache.images.stat_index import KnownFiles
from featcache.store import SplitRows


def check_names(spec: ExtractSpec) -> None:
    """Refuse names that do not exist, and options that "pixels" has no use for.

    Raises:
        UsageError: Naming the option.
        FeatcacheError: Those of `BackboneFamily.check_weights`.
    """
    backbone_name(spec.backbone)
    check_backbone_options(spec.backbone, spec.weights, spec.image_size)
    if not family_of(spec.backbone).runs_network:
        _refuse_options_of_networks(spec)
    if (spec.precision, spec.device) == ("tf32", "cpu"):
        raise UsageError(TF32_ON_CPU)


def _refuse_options_of_networks(spec: ExtractSpec) -> None:
    """Refuse the options that "pixels" has no use for, since it runs no network."""
    names = ("layer", "pool", "bn", "preprocess", "precision", "store_dtype", "compile", "views")
    for name in names:
        value = getattr(spec, name)
        if value not in (getattr(ExtractSpec, name), "notebook"):
            raise UsageError(
                f"{option_name(name)} {value} needs a backbone, but the backbone 'pixels' "
                f"stores the images as they are. Nothing was started. Leave the option out."
            )


def rules_of(spec: ExtractSpec) -> ImageRules:
    """Give the rules by which its image files are read."""
    return ImageRules(spec.max_pixels, spec.exif_orientation)


def open_images(
    spec: ExtractSpec, *, on_note: NoteCallback, given: Dataset | None = None
) -> Dataset:
    """Refuse names that do not exist, then open the images.

    Raises:
        UsageError: As `check_names` raises it, or for a dataset that does not exist.
        DatasetError: If the dataset is not there.
    """
    check_names(spec)
    on_note(f"opening {spec.dataset}")
    dataset = load_dataset(given or spec.dataset, data_dir=spec.data_dir).following(rules_of(spec))
    dataset = dataset.limited(spec.limit)
    _tell_views(dataset, spec, on_note)
    for sentence in (*dataset.notes, dataset.summary):
        on_note(sentence)
    return dataset


def known_rows(dataset: Dataset) -> dict[str, SplitRows]:
    """Give what is known of the rows of a dataset that was hashed, before they are computed."""
    return {
        name: SplitRows(split.labels, split.ids, split.image_sha256())
        for name, split in dataset.splits.items()
    }


def _tell_views(dataset: Dataset, spec: ExtractSpec, on_note: NoteCallback) -> None:
    """Say how many views there will be; refuse views of a split that is not there."""
    views = spec.drawn_views
    if views.n == 1:
        return
    if not any(views.n_of(name) > 1 for name in dataset.splits):
        raise UsageError(
            f"--views {views.n} is of the split 'train', but {dataset.name} has only "
            f"{', '.join(dataset.splits)}. Nothing was started. --views-of all is of every split."
        )
    on_note(f"{views.told}, the first of them plain; each runs through the backbone")


def identified(
    dataset: Dataset,
    spec: ExtractSpec,
    known: KnownFiles | None,
    *,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> Identified:
    """Hash the images, and tell what their headers say."""
    try:
        found = dataset.identified(
            on_progress=lambda i, n: on_progress(Progress("digest", "", i, n)), known=known
        )
    finally:
        if known is not None:
            known.save()
    _tell_headers(found.dataset, spec, on_note)
    return found


def _tell_headers(dataset: Dataset, spec: ExtractSpec, on_note: NoteCallback) -> None:
    n_clipped, n_turned = (dataset.told.get(name, 0) for name in TOLD_OF_HEADERS)
    if n_clipped:
        on_note(
            f"grey images with more than 8 bits a channel: {n_clipped}. As in torchvision's "
            f"loader, values beyond 255 become white. To avoid this, convert them to 8 bits."
        )
    if n_turned and spec.exif_orientation == "apply":
        on_note(f"{counted(n_turned, 'image')} turned upright as EXIF says")
    elif n_turned:
        on_note(
            f"{counted(n_turned, 'image')} not upright by EXIF orientation, which torchvision's "
            f"loader ignores; --exif-orientation apply turns them"
        )
