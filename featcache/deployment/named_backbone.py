"""Which backbone a head needs, by name and weights; known before torch is imported."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.backbones.families import family_of
from featcache.backbones.family import WEIGHTS_FILE
from featcache.config import IMPORTED, ExtractSpec
from featcache.core.arguments import text
from featcache.core.backbone_kinds import (
    TIMM,
    backbone_slug,
    is_own,
    is_timm,
    timm_name,
    written_name,
)
from featcache.core.backbone_names import DEFAULT, PIXELS, RANDOM, backbone_name, weights_names
from featcache.core.paths import file_and_part, native, places_of
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    MismatchError,
    UsageError,
    WeightsError,
    clipped,
)
from featcache.heads.backbone_record import BackboneRecord
from featcache.heads.own_cache import own_cache
from featcache.heads.trained_head import TrainedHead
from featcache.store import Identity, Provenance, made_with

_NEEDED = ("layer", "weights_sha256", "bn", "preprocess", "precision", "store_dtype")


@dataclass(frozen=True, eq=False)
class NamedBackbone:
    """The backbone of a head, as it is to be built.

    Attributes:
        head: The head's file, for messages.
        name: Of the backbone, as --backbone takes it.
        options: What `load_backbone` takes beside: weights, seed, layer, pool.
        identity: That of the head's cache.
        record: What is known of it beside.
    """

    head: str
    name: str
    options: dict[str, Any]
    identity: Identity
    record: BackboneRecord

    @property
    def told(self) -> str:
        """Name it with its weights, for messages."""
        weights = self.options["weights"]
        return self.name if self.name == PIXELS else f"{self.name} with the weights {weights}"


def name_backbone(
    head: TrainedHead,
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
) -> NamedBackbone:
    """Say which backbone made the features of a head, and what fills it.

    Args:
        head: The head.
        backbone: Its name, where the head cannot say it: code of one's own, a folder of timm's.
        weights: What fills it; None takes what filled it then.
        cache_dir: Folder of all caches. The head's own cache is asked where the head is older.

    Raises:
        UsageError: If the backbone has to be named, or its features were imported.
        CorruptError: If the head does not say what a backbone needs.
        MismatchError: If another backbone is named than the head's.
        CacheMissingError: If the head lacks what only its cache has, and that is gone.
        WeightsError: If the file of the weights is not found.
    """
    identity = _identity_of(head)
    record = _record_of(head, identity, cache_dir)
    made = made_with(identity, record.provenance)
    name = _name_of(head, identity, record, backbone)
    options = {
        n: made.get(n, getattr(ExtractSpec, n)) for n in ("weights", "seed", "layer", "pool")
    }
    if name == PIXELS:
        options["weights"] = DEFAULT
    elif weights is not None:
        options["weights"] = text("--weights", weights)
    elif _is_of_file(identity.backbone, options["weights"]):
        options["weights"] = _found_file(head, record, options["weights"])
    family_of(name).check_weights(name, options["weights"])
    return NamedBackbone(str(head.path), name, options, identity, record)


def _identity_of(head: TrainedHead) -> Identity:
    """Read the identity of a head's cache, which may be a stranger's text."""
    try:
        identity = Identity.from_json(head.cache_identity)
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptError(
            f"{head.path} does not say what its features are ({clipped(str(err))}). Nothing was "
            f"started. Train it again."
        ) from err
    if identity.backbone == IMPORTED:
        raise UsageError(
            f"{head.path} was trained on features that were imported: featcache does not know the "
            f"network that made them, so it cannot make those of new images. Nothing was started. "
            f"Import the features of the new images, and use featcache eval."
        )
    missing = [name for name in _NEEDED if name not in identity]
    if missing:
        raise CorruptError(
            f"{head.path} does not say how its features are made: {', '.join(missing)} is missing. "
            f"Nothing was started. Extract the cache again, and train the head on it."
        )
    return identity


def _record_of(
    head: TrainedHead, identity: Identity, cache_dir: str | os.PathLike[str]
) -> BackboneRecord:
    """Take what the head keeps of its backbone; of an older head, what its cache does."""
    if head.record is not None:
        return head.record
    cache = own_cache(head, cache_dir)
    if cache is not None:
        return BackboneRecord.of_cache(cache)
    if identity.bn != ExtractSpec.bn:
        raise CacheMissingError(
            f"{head.path} is of a featcache that kept the adapted BatchNorm statistics of the "
            f"backbone in the cache alone, and the cache is neither at "
            f"{clipped(str(head.cache_path))} nor in {os.fspath(cache_dir)}. Nothing was started. "
            f"Say where it is with --cache-dir, or extract it and train the head again."
        )
    return BackboneRecord(Provenance({"dataset": head.dataset}))


def _name_of(
    head: TrainedHead, identity: Identity, record: BackboneRecord, asked: str | None
) -> str:
    """Settle the name, and refuse another backbone than the head's."""
    if asked is not None:
        name = backbone_name(text("--backbone", asked))
        if backbone_slug(name) != identity.backbone and not is_own(name):
            raise MismatchError(
                f"{head.path} was trained on features of {identity.backbone}, but --backbone is "
                f"{name}. Nothing was started. Leave the option out, or name that backbone."
            )
        return name
    name = record.provenance.backbone or identity.backbone
    library = identity.get("library")
    if library == "own" or is_own(name):
        # Code is run because the user names it, never because a file does.
        raise UsageError(
            f"{head.path} was trained on features of {name!r}, which is its maker's own code. "
            f"Nothing was run. If you trust it, name it: --backbone PACKAGE.MODULE:FUNCTION, or in "
            f"Python backbone=module."
        )
    if library == "timm" and not is_timm(name):
        kind, _, rest = name.partition("-")  # the slug of its files
        if kind != "timm":
            raise _unnamed(head, name, "timm:hf-hub:ORG/NAME or timm:local-dir:PATH")
        return backbone_name(f"{TIMM}{rest}")
    if is_timm(name) and timm_name(name).kind == "local-dir":
        raise _unnamed(head, name, "timm:local-dir:PATH")
    if is_timm(name) and timm_name(name).kind == "hf-hub":
        # What is downloaded, the user names, never a file: it may be a stranger's.
        raise UsageError(
            f"{head.path} was trained on features of {name!r}, which anybody may have put on the "
            f"hub. Nothing was downloaded. If you trust it, name it: --backbone "
            f"{shlex.quote(written_name(name))}"
        )
    return backbone_name(name)


def _unnamed(head: TrainedHead, name: str, wanted: str) -> UsageError:
    return UsageError(
        f"{head.path} was trained on features of {name!r}, and does not know where that model is. "
        f"Nothing was started. Say it with --backbone {wanted}."
    )


def _is_of_file(backbone: str, weights: str) -> bool:
    """Tell whether a file filled the backbone: its name is no name of published weights."""
    return weights not in (DEFAULT, RANDOM, *weights_names(backbone))


def _found_file(head: TrainedHead, record: BackboneRecord, label: str) -> str:
    """Find the file that filled the backbone, as it was typed then or by its name.

    Raises:
        WeightsError: If it is at none of the places.
    """
    typed = native(str(record.provenance.get(WEIGHTS_FILE, label)))
    names = dict.fromkeys([typed, label])
    for name in names:
        file, _ = file_and_part(name)
        for place in places_of(Path(file).expanduser(), named_in=head.cache_path):
            if place.is_file():
                return f"{place}{name.removeprefix(file)}"
    raise WeightsError(
        f"The backbone of {head.path} was filled from the file {typed!r}, which is neither there "
        f"nor beside its cache nor in the working directory. Nothing was started. Say where it is "
        f"with --weights FILE."
    )
