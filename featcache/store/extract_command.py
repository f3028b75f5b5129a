"""The extract command that makes a cache, written for a shell: the one place that builds it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcache.config import IMPORTED, NOTEBOOK_SIZE, POOLS, ExtractSpec
from featcache.core.arguments import option_name
from featcache.core.backbone_kinds import PRE_LOGITS, is_timm
from featcache.core.backbone_names import PIXELS, RANDOM, weights_names
from featcache.core.dataset_names import PYTHON
from featcache.core.options import declared
from featcache.core.paths import native, settled
from featcache.core.preprocess import Preprocess
from featcache.core.store_urls import is_in_store
from featcache.store.identity import PART, Identity, Provenance, named_backbone

_RANDOM = re.compile(rf"{RANDOM} \(seed (\d+)\)")
_PART = re.compile(r"part-(\d+)-of-(\d+)-")
_ALWAYS = ("dataset", "backbone")
_OF_TOKENS = ("cls", "mean", "cls+mean")  # what --pool may be without --layer


def made_with(identity: Identity, provenance: Provenance) -> dict[str, Any]:
    """Give the options of `extract` that a cache was made with, as far as it says them.

    It does not know where a file of weights lies, only its name.
    """
    options: dict[str, Any] = {
        "dataset": native(provenance.dataset),
        "backbone": named_backbone(identity, provenance),
        "limit": provenance.limit,
        **_weights(identity.backbone, provenance.weights),
        **{name: identity[name] for name in ("max_pixels", "exif_orientation") if name in identity},
    }
    if "pool" in identity:
        options |= _taken(identity)
    if "preprocess" in identity:
        size = identity.preprocess.out_size[0]
        is_notebook = identity.preprocess == Preprocess.notebook(size)
        options["preprocess"] = "notebook" if is_notebook else "weights"
        if size != NOTEBOOK_SIZE or is_timm(provenance.backbone):
            options["image_size"] = size
        if is_notebook != is_timm(provenance.backbone):
            del options["preprocess"]  # the usual one
    if identity.backbone != PIXELS:  # which runs no network
        options |= {n: identity[n] for n in ("precision", "store_dtype") if n in identity}
        options |= {"bn": identity.bn} if "bn" in identity else {}
    if (views := identity.views).n > 1:
        options |= {"views": views.n, "augment": views.augment, "views_of": views.of}
        options["seed"] = views.seed
    return options


def extract_command(options: Mapping[str, Any]) -> str:
    """Write the command, quoted for a shell.

    Dataset and backbone are always named, other options where they are not at their defaults.

    Args:
        options: Values by the names of `ExtractSpec`.
    """
    defaults = {name: getattr(ExtractSpec, name) for name in declared(ExtractSpec)}
    words = ["featcache", "extract"]
    for name, default in defaults.items():
        value = options.get(name, default)
        is_default = (tuple(value) if isinstance(value, list) else value) == default  # of JSON
        if name == "cache_dir" and not is_in_store(value):
            is_default = settled(value) == settled(ExtractSpec.cache_dir)
        if name in _ALWAYS or not is_default:
            shown = ",".join(value) if isinstance(value, tuple | list) else str(value)
            words += [option_name(name)] if value is True else [option_name(name), shown]
    return shlex.join(words)


def command_of(path: Path, identity: Identity, provenance: Provenance, **other: Any) -> str:
    """Write the command that made a cache, or began it; in short if no `extract` command did.

    Args:
        path: Its file, in the folder of its dataset.
        identity: What it says of itself.
        provenance: Likewise.
        other: Options that are to stand there instead.
    """
    if identity.backbone == IMPORTED:
        return "featcache cache import"
    if provenance.dataset.startswith(PYTHON):
        return "the same call in Python"
    folder = path.parent.parent
    said = {**made_with(identity, provenance), "cache_dir": folder, **other}
    part = _PART.match(path.name) if PART in identity else None
    if part is None:
        return extract_command(said)
    said["cache_dir"] = folder.parent
    return f"{extract_command(said)} --share {int(part[1])}/{int(part[2])}"


def _taken(identity: Identity) -> dict[str, Any]:
    """Give the layer and the pool that were asked for, of those that say their pool."""
    layer, pool = str(identity["layer"]), str(identity["pool"])
    if layer == PRE_LOGITS:
        return {"pool": pool} if pool in _OF_TOKENS else {}
    return {"layer": layer, **({"pool": pool} if pool in POOLS else {})}


def _weights(backbone: str, label: str) -> dict[str, Any]:
    """Give the options that fill the backbone as a cache's label says it was."""
    random = _RANDOM.fullmatch(label)
    if random is not None:
        return {"weights": RANDOM, "seed": int(random[1])}
    is_default = label == "none" or label in weights_names(backbone)[:1]
    return {} if is_default else {"weights": native(label)}
