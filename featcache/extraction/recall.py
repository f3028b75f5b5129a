"""The cache that the same command found or made last time, found again without importing torch.

Torch takes seconds to import and to load weights, only to compute the same identity again. So what
decides that identity is kept with it: the options, the versions, the GPUs that are seen, and the
digests of the images and of the file of weights. Where all of these are the same, so is the
identity. Files are known by their stat (`images.stat_index`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.families import family_of
from featcache.config import ExtractSpec
from featcache.core.backbone_names import RANDOM
from featcache.core.gpus_seen import gpus_seen
from featcache.core.identity import canonical_json
from featcache.core.paths import expanded, file_and_part, settled
from featcache.core.sealed_files import read_sealed, write_sealed
from featcache.errors import CorruptError, FeatcacheError
from featcache.extraction.expected_file import layout_sha256
from featcache.images.datasets import dataset_slug, path_in
from featcache.images.stat_index import KnownFiles
from featcache.store import Identity, cache_path, read_state
from featcache.version import __version__

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan

_KIND = b"featcache made 1\n"
_OF_NO_IDENTITY = (
    "batch_size",
    "cache_dir",
    "compile",
    "mix_numerics",
    "n_workers",
    "rehash",
    "skip_undecodable",
)


@dataclass(frozen=True)
class Recalled:
    """What a command came to.

    Attributes:
        images: Digest of its images.
        identity: Of its cache.
        layout_sha256: Of the file, beside the identity.
        weights: Path and SHA-256 of the file that filled the backbone; None if there was none.
        choices: What was chosen automatically, with the reason.
    """

    images: str
    identity: Mapping[str, Any]
    layout_sha256: str
    weights: tuple[str, str] | None
    choices: Mapping[str, str]

    def finds(self, spec: ExtractSpec, images: str, known: KnownFiles) -> Path | None:
        """Find the cache, if images and weights are the same and it is there and complete.

        Args:
            spec: What is asked for.
            images: Digest of the images now.
            known: Gives the digest of the file of weights now.
        """
        if images != self.images:
            return None
        if self.weights is not None:
            sha256 = known.sha256_of(self.weights[0])
            if sha256 is None or sha256.hex() != self.weights[1]:
                return None
        identity = Identity.from_json(self.identity)
        folder = expanded(spec.cache_dir) / dataset_slug(spec.dataset)
        path = cache_path(folder, spec.backbone, identity.fingerprint)
        try:
            state = read_state(path)
        except FeatcacheError:
            return None
        is_it = state.manifest.identity == identity and state.word == "complete"
        return path if is_it and layout_sha256(state.manifest) == self.layout_sha256 else None


def recall(spec: ExtractSpec, known: KnownFiles, *, is_given: bool) -> Recalled | None:
    """Find what the same command came to last time, with the same versions and hardware.

    Args:
        spec: What is asked for.
        known: Where it is kept.
        is_given: Whether its images were given as a `Dataset`, which need not be all of its name's.
    """
    file = _file(spec, known, is_given=is_given)
    if spec.rehash or file is None:
        return None
    try:
        content = read_sealed(file, _KIND)
        if content is None:
            return None
        found = json.loads(content)
        weights = found.pop("weights")
        return Recalled(weights=None if weights is None else tuple(weights), **found)
    except (CorruptError, OSError, ValueError, TypeError, KeyError):
        return None  # it is written again


def remember(plan: Plan, images: str, known: KnownFiles, *, is_given: bool) -> None:
    """Keep what a command came to, whose cache is complete; where that fails, nothing is kept."""
    file, weights = _file(plan.spec, known, is_given=is_given), _weights_file(plan)
    if file is None or not family_of(plan.spec.backbone).is_known_by_files:
        return
    filled = None
    if weights is not None:
        sha256 = known.sha256_of(weights)
        if sha256 is None or not known.is_settled(weights):
            return  # it may not be the file that was read
        filled = (os.path.abspath(weights), sha256.hex())  # noqa: PTH100 - keeps links
    try:
        layout = layout_sha256(read_state(plan.path).manifest)
        made = Recalled(images, plan.identity.to_json(), layout, filled, plan.choices)
        write_sealed(file, _KIND, canonical_json(asdict(made)).encode())
    except (FeatcacheError, ValueError):
        return


def _file(spec: ExtractSpec, known: KnownFiles, *, is_given: bool) -> Path | None:
    """Name the file of what a command came to, after all that decides it beside the files."""
    typed = path_in(spec.dataset)
    asked = {name: value for name, value in asdict(spec).items() if name not in _OF_NO_IDENTITY}
    where = {
        "dataset": spec.dataset if typed is None else [spec.dataset, str(settled(typed))],
        "data_dir": str(settled(spec.data_dir)),
        "weights": [spec.weights, str(settled(file_and_part(spec.weights)[0]))],
        "hub": _hub_folder(),
    }
    versions = {name: version(name) for name in ("torch", "torchvision")}
    decides = {**asked, **where, **versions, "featcache": __version__, "gpus": gpus_seen()}
    decides["is_given"] = is_given
    return known.file(canonical_json(decides), "made")


def _weights_file(plan: Plan) -> Path | None:
    """Find the file that filled a backbone; None if none did."""
    if plan.backbone.published is not None:
        return plan.backbone.published.file
    if plan.backbone.module is None or plan.spec.weights.lower() == RANDOM:
        return None
    return expanded(file_and_part(plan.spec.weights)[0])


def _hub_folder() -> str:
    """Name the folder of published weights, as torch.hub does; a program may have changed it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return str(torch.hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    return os.path.join(os.path.expanduser(home), "hub")  # noqa: PTH111, PTH118 - letter by letter
