"""Heads that answer together: those of one cache, whose backbone runs once for all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featcache.backbones.own import Backbone, given_backbone
from featcache.config import ExtractSpec
from featcache.core.arguments import device_name, place
from featcache.core.identity import differing_fields
from featcache.core.reporting import NoteCallback
from featcache.deployment.backbone import RebuiltBackbone, build_named
from featcache.deployment.named_backbone import name_backbone
from featcache.errors import MismatchError
from featcache.heads.head_file import load_head
from featcache.heads.own_cache import neighbours_cache
from featcache.heads.runs import find_run, newest_run
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache

if TYPE_CHECKING:
    from torch import nn

    from featcache.deployment.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class HeadsTogether:
    """Heads with the backbone that made the features of all of them.

    Attributes:
        by_run: Folder of each run, and its head.
        backbone: Built again and compared.
        device: Where it is to run: "cpu" or "cuda:N".
        caches: For each head the cache whose rows it asks; None of those that have layers.
    """

    by_run: Sequence[tuple[Path, TrainedHead]]
    backbone: RebuiltBackbone
    device: str
    caches: Sequence[Cache | None]


def ready_heads(
    runs: Sequence[str],
    *,
    backbone: str | Backbone | nn.Module | None,
    weights: str | os.PathLike[str] | None,
    device: str,
    batch_size: int | None,
    n_workers: int | None,
    compile: str,
    cache_dir: str | os.PathLike[str],
    runs_dir: str | os.PathLike[str],
    on_note: NoteCallback,
) -> tuple[HeadsTogether, Pipeline]:
    """Find the heads, build their backbone, and put all of it on the device.

    What can be refused without torch is. Arguments are those of `featcache.predict`, but for:

    Args:
        runs: Folders of runs, or parts of their names; empty is the run that `evaluate` takes.

    Raises:
        FeatcacheError: Those of `featcache.predict`.
    """
    asked = ExtractSpec(
        device=device_name(device), batch_size=batch_size, n_workers=n_workers, compile=compile
    )
    heads = _opened(
        runs,
        backbone=backbone,
        weights=weights,
        device=asked.device,
        cache_dir=place("--cache-dir", cache_dir),
        runs_dir=runs_dir,
        on_note=on_note,
    )
    from featcache.deployment.image_features import ImageFeatures
    from featcache.deployment.pipeline import Pipeline

    features = ImageFeatures(
        heads.backbone,
        device=heads.device,
        batch_size=asked.batch_size,
        n_workers=asked.n_workers,
        compile=asked.compile,
        on_note=on_note,
    )
    return heads, Pipeline(features, [head for _, head in heads.by_run], heads.caches)


def _opened(
    runs: Sequence[str],
    *,
    backbone: str | Backbone | nn.Module | None,
    weights: str | os.PathLike[str] | None,
    device: str,
    cache_dir: Path,
    runs_dir: str | os.PathLike[str],
    on_note: NoteCallback,
) -> HeadsTogether:
    """Find the heads, and build their backbone."""
    if runs:
        folders = [find_run(name, runs_dir=runs_dir) for name in runs]
        on_note(f"predicting by {' and '.join(map(str, folders))}")
    else:
        taken = newest_run(runs_dir)
        folders = [taken.value]
        on_note(f"predicting by {taken.told}")
    by_run = [(folder, load_head(folder)) for folder in folders]
    (_, first), *others = by_run
    for folder, head in by_run:
        if not head.is_finished:
            on_note(f"{folder} was stopped: the head is that of epoch {head.n_epochs}")
        if not head.is_calibrated:
            on_note(f"{folder}: its probabilities rank classes, and were fitted on no images")
    for folder, head in others:
        _require_one_cache(first, folder, head)
    caches = [neighbours_cache(head, cache_dir) for _, head in by_run]
    with nullcontext(None) if backbone is None else given_backbone(backbone) as name:
        named = name_backbone(first, backbone=name, weights=weights, cache_dir=cache_dir)
        from featcache.core.device import pick_device

        chosen = pick_device(device)
        on_note(f"device {chosen.told}")
        rebuilt = build_named(named, device=chosen.value, on_note=on_note)
    return HeadsTogether(by_run, rebuilt, chosen.value, caches)


def _require_one_cache(first: TrainedHead, folder: Path, head: TrainedHead) -> None:
    """Refuse heads of other features than the first one's, which need another pass.

    Raises:
        MismatchError: Naming the fields that differ.
    """
    if head.cache_fingerprint == first.cache_fingerprint:
        return
    differing = differing_fields(head.cache_identity, first.cache_identity)
    raise MismatchError(
        f"{folder} was trained on another cache than {first.path}: {'; '.join(differing)}. "
        f"Nothing was started. Several --run must be of one cache; predict with each alone."
    )
