"""Which backbone made features, by name and weights; known before torch is imported."""

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
from featcache.store import Cache, Identity, Provenance, made_with, require_fields

_NEEDED = ("layer", "weights_sha256", "bn", "preprocess", "precision", "store_dtype")


@dataclass(frozen=True, eq=False)
class NamedBackbone:
    """The backbone that made the features of a head or a cache, as it is to be built.

    Attributes:
        owner: The file of the head or the cache, for messages.
        name: Of the backbone, as --backbone takes it.
        options: What `load_backbone` takes beside: weights, seed, layer, pool.
        identity: That of the cache.
        record: What is known of it beside.
    """

    owner: str
    name: str
    options: dict[str, Any]
    identity: Identity
    record: BackboneRecord

    @property
    def told(self) -> str:
        """Name it with its weights, for messages."""
        weights = self.options["weights"]
        return self.name if self.name == PIXELS else f"{self.name} with the weights {weights}"


@dataclass(frozen=True, eq=False)
class _Owner:
    """What has features: a head that was trained on them, or the cache that holds them.

    Attributes:
        path: Its file.
        has: How a sentence about its features begins.
        identity: That of the cache.
        record: What is known of the backbone beside.
        cache_path: Where the cache was.
    """

    path: str
    has: str
    identity: Identity
    record: BackboneRecord
    cache_path: Path


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
    has = f"{head.path} was trained on"
    owner = _Owner(str(head.path), has, identity, record, head.cache_path)
    return _named(owner, backbone, weights)


def name_backbone_of_cache(
    cache: Cache,
    *,
    backbone: str | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> NamedBackbone:
    """Say which backbone made the features of a cache, and what fills it.

    Args:
        cache: The cache.
        backbone: As of `name_backbone`.
        weights: Likewise.

    Raises:
        UsageError: If the backbone has to be named, or the features were imported.
        CorruptError: If the cache does not say what a backbone needs.
        MismatchError: If another backbone is named than the cache's.
        WeightsError: If the file of the weights is not found.
    """
    has, identity = f"{cache.path} holds", cache.identity
    _require_known(identity, has, "Name a row of the cache by its id.")
    require_fields(cache.path, identity, *_NEEDED)
    record = BackboneRecord.of_cache(cache)
    return _named(_Owner(str(cache.path), has, identity, record, cache.path), backbone, weights)


def _named(
    owner: _Owner, backbone: str | None, weights: str | os.PathLike[str] | None
) -> NamedBackbone:
    """Settle name and weights, and refuse those that do not go together."""
    identity, record = owner.identity, owner.record
    made = made_with(identity, record.provenance)
    name = _name_of(owner, backbone)
    options = {
        n: made.get(n, getattr(ExtractSpec, n)) for n in ("weights", "seed", "layer", "pool")
    }
    if name == PIXELS:
        options["weights"] = DEFAULT
    elif weights is not None:
        options["weights"] = text("--weights", weights)
    elif _is_of_file(identity.backbone, options["weights"]):
        options["weights"] = _found_file(owner, options["weights"])
    family_of(name).check_weights(name, options["weights"])
    return NamedBackbone(owner.path, name, options, identity, record)


def _identity_of(head: TrainedHead) -> Identity:
    """Read the identity of a head's cache, which may be a stranger's text."""
    try:
        identity = Identity.from_json(head.cache_identity)
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptError(
            f"{head.path} does not say what its features are ({clipped(str(err))}). Nothing was "
            f"started. Train it again."
        ) from err
    way_out = "Import the features of the new images, and use featcache eval."
    _require_known(identity, f"{head.path} was trained on", way_out)
    missing = [name for name in _NEEDED if name not in identity]
    if missing:
        raise CorruptError(
            f"{head.path} does not say how its features are made: {', '.join(missing)} is missing. "
            f"Nothing was started. Extract the cache again, and train the head on it."
        )
    return identity


def _require_known(identity: Identity, has: str, way_out: str) -> None:
    """Refuse features of a network that is not known."""
    if identity.backbone == IMPORTED:
        raise UsageError(
            f"{has} features that were imported: featcache does not know the network that made "
            f"them, so it cannot make those of new images. Nothing was started. {way_out}"
        )


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


def _name_of(owner: _Owner, asked: str | None) -> str:
    """Settle the name, and refuse another backbone than the one of the features."""
    identity = owner.identity
    if asked is not None:
        name = backbone_name(text("--backbone", asked))
        if backbone_slug(name) != identity.backbone and not is_own(name):
            raise MismatchError(
                f"{owner.has} features of {identity.backbone}, but --backbone is {name}. Nothing "
                f"was started. Leave the option out, or name that backbone."
            )
        return name
    name = owner.record.provenance.backbone or identity.backbone
    library = identity.get("library")
    if library == "own" or is_own(name):
        # Code is run because the user names it, never because a file does.
        raise UsageError(
            f"{owner.has} features of {name!r}, which is its maker's own code. Nothing was run. If "
            f"you trust it, name it: --backbone PACKAGE.MODULE:FUNCTION, or in Python "
            f"backbone=module."
        )
    if library == "timm" and not is_timm(name):
        kind, _, rest = name.partition("-")  # the slug of its files
        if kind != "timm":
            raise _unnamed(owner, name, "timm:hf-hub:ORG/NAME or timm:local-dir:PATH")
        return backbone_name(f"{TIMM}{rest}")
    if is_timm(name) and timm_name(name).kind == "local-dir":
        raise _unnamed(owner, name, "timm:local-dir:PATH")
    if is_timm(name) and timm_name(name).kind == "hf-hub":
        # What is downloaded, the user names, never a file: it may be a stranger's.
        raise UsageError(
            f"{owner.has} features of {name!r}, which anybody may have put on the hub. Nothing was "
            f"downloaded. If you trust it, name it: --backbone {shlex.quote(written_name(name))}"
        )
    return backbone_name(name)


def _unnamed(owner: _Owner, name: str, wanted: str) -> UsageError:
    return UsageError(
        f"{owner.has} features of {name!r}, and it is not known where that model is. Nothing was "
        f"started. Say it with --backbone {wanted}."
    )


def _is_of_file(backbone: str, weights: str) -> bool:
    """Tell whether a file filled the backbone: its name is no name of published weights."""
    return weights not in (DEFAULT, RANDOM, *weights_names(backbone))


def _found_file(owner: _Owner, label: str) -> str:
    """Find the file that filled the backbone, as it was typed then or by its name.

    Raises:
        WeightsError: If it is at none of the places.
    """
    typed = native(str(owner.record.provenance.get(WEIGHTS_FILE, label)))
    names = dict.fromkeys([typed, label])
    for name in names:
        file, _ = file_and_part(name)
        for place in places_of(Path(file).expanduser(), named_in=owner.cache_path):
            if place.is_file():
                return f"{place}{name.removeprefix(file)}"
    raise WeightsError(
        f"The backbone of {owner.path} was filled from the file {typed!r}, which is neither there "
        f"nor beside the cache nor in the working directory. Nothing was started. Say where it is "
        f"with --weights FILE."
    )
