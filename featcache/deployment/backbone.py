"""The backbone that made features, built again and held against what was kept of it."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featcache.backbones.family import LoadedBackbone
from featcache.backbones.own import Backbone, given_backbone
from featcache.config import ExtractSpec
from featcache.core.identity import differing_fields
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import Choice, NoteCallback, silent
from featcache.core.tolerances import REFERENCE_TOLERANCE
from featcache.deployment.named_backbone import NamedBackbone, name_backbone
from featcache.errors import MismatchError
from featcache.heads.backbone_record import BackboneRecord, sampled
from featcache.heads.trained_head import TrainedHead
from featcache.images.rules import ImageRules
from featcache.store import Identity

# Which backbone is named is settled before torch is imported, which takes seconds.
if TYPE_CHECKING:
    from torch import nn

_OF_THE_BACKBONE = ("layer", "weights_sha256", "library", "architecture", "pool")


@dataclass(frozen=True, eq=False)
class RebuiltBackbone:
    """The backbone of a head or a cache: the function that made its features.

    Attributes:
        named: What the head or the cache says of it.
        loaded: The module on the CPU, frozen, with its adapted statistics if it has some; its
            weights, licence and name. The module is None for "pixels".
        activation_nbytes: Memory that one image needs in it.
        is_compared: Whether its reference rows were compared; else none were kept.
    """

    named: NamedBackbone
    loaded: LoadedBackbone
    activation_nbytes: int
    is_compared: bool

    @property
    def identity(self) -> Identity:
        """That of the cache of its features."""
        return self.named.identity

    @property
    def record(self) -> BackboneRecord:
        """What was kept of it: where its weights are from, versions then, reference rows."""
        return self.named.record

    @property
    def module(self) -> nn.Module | None:
        """(B, 3, s, s) float32 -> (B, D); None for "pixels"."""
        return self.loaded.module

    @property
    def preprocess(self) -> Preprocess:
        """How an RGB image becomes its input."""
        return self.identity.preprocess

    @property
    def rules(self) -> ImageRules:
        """How image files are read."""
        return ImageRules.of(self.identity)

    @property
    def precision(self) -> str:
        """In which its features were computed: "fp32", "tf32", "bf16", "fp16", or "exact"."""
        return str(self.identity["precision"])

    @property
    def store_dtype(self) -> str:
        """To which its features were rounded: "float32", "float16", or "uint8" for pixels."""
        return str(self.identity["store_dtype"])


def rebuild_backbone(
    head: TrainedHead,
    *,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    device: str = "cpu",
    on_note: NoteCallback = silent,
) -> RebuiltBackbone:
    """Build the backbone of a head, and see that it is the one that made its features.

    Compared are its weights, by their digest, and its features of two images that never change.

    Args:
        head: The head.
        backbone: Its name, or the network itself, where the head cannot say it: code of one's own
            has to be named again, and so has a folder of timm's.
        weights: What fills it; None takes what filled it then.
        cache_dir: Folder of all caches, where the head's own may be.
        device: Where it is compared: "cpu" or "cuda:N".
        on_note: Told which backbone it is.

    Raises:
        MismatchError: If it is another backbone, or computes something else now.
        WeightsError: If its weights are gone, damaged or do not fit.
        UsageError: If the backbone has to be named.
        CacheMissingError: If the head lacks what only its cache has, and that is gone.
    """
    with nullcontext(None) if backbone is None else given_backbone(backbone) as name:
        named = name_backbone(head, backbone=name, weights=weights, cache_dir=cache_dir)
        return build_named(named, device=device, on_note=on_note)


def build_named(
    named: NamedBackbone, *, device: str = "cpu", on_note: NoteCallback = silent
) -> RebuiltBackbone:
    """Build and check a backbone that is named; raises as `rebuild_backbone` does."""
    from featcache.backbones.describe import describe_backbone
    from featcache.backbones.load import load_backbone

    on_note(f"backbone {named.told}")
    size = named.identity.preprocess.out_size[0]
    taken = {name: named.options[name] for name in ("layer", "pool")}
    nbytes = describe_backbone(named.name, size, **taken).activation_bytes_per_image
    loaded = load_backbone(named.name, **named.options, image_size=size, check_file=False)
    _require_same(named, loaded)
    is_compared = False
    if loaded.module is not None:
        is_compared = _has_same_rows(named, loaded, device=device)
        if not is_compared:
            on_note(
                "the weights are those of the features; nothing was kept by which the backbone's "
                "code could be compared too"
            )
    return RebuiltBackbone(named, loaded, nbytes, is_compared)


def precision_on(device: str, precision: str) -> Choice[str]:
    """Choose in which precision the backbone runs: that of its features, where the device has it.

    Raises:
        UsageError: If a GPU lacks it.
    """
    from featcache.core.device import pick_precision

    if precision == "exact":
        return Choice(precision, "no network runs")
    if device == "cpu" and precision == "tf32":
        return Choice("fp32", "a CPU has no TF32, in which the features were computed")
    return Choice(pick_precision(precision, device).value, "that of the features")


def _require_same(named: NamedBackbone, loaded: LoadedBackbone) -> None:
    """Refuse a backbone that is built or filled otherwise than the one of the features."""
    found = {"layer": loaded.layer, "weights_sha256": loaded.weights_sha256, **loaded.identity}
    wanted = {name: named.identity[name] for name in _OF_THE_BACKBONE if name in named.identity}
    differing = differing_fields(found, wanted)
    if not differing:
        return
    from featcache.extraction.reference_rows import other_versions

    loaded.require_published()  # which says to delete a damaged file
    then = named.record.provenance
    others = other_versions(then, _versions_now(loaded)) if "torch" in then else ""
    raise MismatchError(
        f"{named.told} is not the backbone that made the features of {named.owner}: "
        f"{'; '.join(differing)}. {others}{' ' * bool(others)}Nothing was computed. Say where "
        f"the right weights are with --weights FILE, or which backbone it is with --backbone."
    )


def _has_same_rows(named: NamedBackbone, loaded: LoadedBackbone, *, device: str) -> bool:
    """Compare the reference rows, with the adapted statistics in place; False if none were kept."""
    import torch

    from featcache.backbones.batchnorm import load_batch_norm_statistics
    from featcache.backbones.runner import BackboneRunner
    from featcache.core.plain_torch import plain_torch
    from featcache.extraction.reference_rows import (
        reference_rows,
        rows_difference,
        versions_told,
    )

    assert loaded.module is not None, "pixels have no rows"
    with plain_torch():
        if named.record.statistics:
            statistics = {n: torch.tensor(a) for n, a in named.record.statistics.items()}
            load_batch_norm_statistics(loaded.module, statistics)
        stored = named.record.reference
        if stored is None:
            return False
        asked = str(named.identity["precision"])
        runner = BackboneRunner(
            loaded.module,
            preprocess=named.identity.preprocess,
            device=device,
            precision=precision_on(device, asked).value,
            batch_size=len(stored),
        )
        difference = rows_difference(stored, sampled(reference_rows(runner)))
        loaded.module.to("cpu")
    tolerance = REFERENCE_TOLERANCE[asked]
    versions = versions_told(named.record.provenance, _versions_now(loaded))
    if difference > tolerance:
        raise MismatchError(
            f"{named.told} has the weights that made the features of {named.owner}, but computes "
            f"something else now: its reference rows differ by {difference:.2g} of their largest "
            f"feature, expected at most {tolerance:g}. {versions} Nothing was computed. Go back "
            f"to what made them, or extract and train again."
        )
    return True


def _versions_now(loaded: LoadedBackbone) -> dict[str, str]:
    from featcache.extraction.job import library_versions

    return {**loaded.told, **library_versions()}
