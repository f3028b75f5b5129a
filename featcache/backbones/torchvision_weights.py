"""torchvision's published weights: their names, files and transforms."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featcache.core.backbone_names import published_weights
from featcache.core.network import silence_limit_s
from featcache.core.preprocess import Preprocess
from featcache.core.stopping import breakable, working
from featcache.errors import (
    DISK_FULL,
    DiskFullError,
    StorageError,
    WeightsError,
    WeightsUnavailableError,
)

_CHUNK_NBYTES = 1 << 20


@dataclass(frozen=True)
class Pretrained:
    """One entry of torchvision's list of weights.

    Attributes:
        backbone: The model it belongs to.
        name: As in "IMAGENET1K_V2".
        url: Where torchvision publishes the file; its name ends in the digest's first digits.
        min_size: Least side of an image in pixels; for a vision transformer the only one.
        preprocess: The transform that was used to evaluate it.
    """

    backbone: str
    name: str
    url: str
    min_size: int
    preprocess: Preprocess

    @property
    def file(self) -> Path:
        """Where torch.hub keeps the file, there or not (moved by TORCH_HOME)."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[-1]

    @property
    def digest_start(self) -> str:
        """First hex digits of the file's SHA-256, from its name."""
        return self.file.stem.rsplit("-", 1)[-1]

    def require_intact(self, sha256: bytes | None = None) -> None:
        """Compare the file, which is on this machine, with the published digest.

        Args:
            sha256: Its digest, if that is known; None reads the file.

        Raises:
            WeightsError: If its bytes are not the published ones.
        """
        file = self.file
        if sha256 is None:
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").digest()
        found = sha256.hex()
        if not found.startswith(self.digest_start):
            raise WeightsError(
                f"{file} is damaged: its SHA-256 should begin with {self.digest_start}, but is "
                f"{found[:12]}... Nothing was loaded. Delete this file and run the same command "
                f"again."
            )


def list_pretrained(backbone: str) -> list[Pretrained]:
    """List torchvision's weights of one model, its DEFAULT first."""
    from torchvision import models

    published = models.get_model_weights(backbone)
    default_first = sorted(published, key=lambda w: w is not published.DEFAULT)
    return [_from_torchvision(backbone, w) for w in default_first]


def find_pretrained(backbone: str, weights: str) -> Pretrained | None:
    """Look up "DEFAULT", "IMAGENET1K_V1" or "ResNet50_Weights.IMAGENET1K_V1".

    Returns:
        None if `weights` is "random" or a path.

    Raises:
        UnknownNameError: If the model has no weights of that name.
    """
    name = published_weights(backbone, weights)
    if name is None:
        return None
    known = list_pretrained(backbone)
    return next((entry for entry in known if entry.name == name), known[0])


def fetch_pretrained(entry: Pretrained) -> Path:
    """Return the file of published weights, downloaded first where it is not here yet.

    Raises:
        WeightsUnavailableError: If it is not on this machine and cannot be downloaded.
        WeightsError: If what was downloaded is not what was published.
        StorageError: If the folder cannot be written, or is full (DiskFullError).
    """
    file = entry.file
    if not file.exists():
        _download(entry, file)
    return file


def weights_preprocess(backbone: str, weights: str, image_size: int) -> Preprocess:
    """Describe the transform that belongs to weights, scaled to another image size.

    A path and "random" have no transform of their own and take that of the model's DEFAULT.

    Args:
        backbone: A torchvision classification model.
        weights: As in `load_backbone`.
        image_size: The crop in pixels; the resize before it keeps its ratio to the crop.

    Raises:
        UnknownNameError: If the model has no weights of that name.

    Example:
        >>> weights_preprocess("vgg16", "DEFAULT", 112).resize
        128
    """
    entry = find_pretrained(backbone, weights)
    own = (entry or list_pretrained(backbone)[0]).preprocess
    assert isinstance(own.resize, int), "torchvision resizes the shorter side"
    assert own.crop is not None, "and crops"
    return Preprocess(
        resize=round(image_size * own.resize / own.crop),
        crop=image_size,
        interpolation=own.interpolation,
        mean=own.mean,
        std=own.std,
    )


def _from_torchvision(backbone: str, weights: Any) -> Pretrained:
    transform = weights.transforms()
    own = Preprocess(
        resize=int(transform.resize_size[0]),
        crop=int(transform.crop_size[0]),
        interpolation=str(transform.interpolation.value),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
    min_size = int(weights.meta["min_size"][0])
    return Pretrained(backbone, str(weights.name), str(weights.url), min_size, own)


def _download(entry: Pretrained, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with working(), breakable():
            _fetch(entry, file)
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as err:
        raise WeightsUnavailableError(
            f"Weights {entry.name} of {entry.backbone} are not on this machine, and {entry.url} "
            f"cannot be reached ({err}). Nothing was kept. Download {file.name} elsewhere and "
            f"place it in {file.parent}, or go on with --weights PATH or --weights random."
        ) from err
    except OSError as err:
        kind = DiskFullError if err.errno in DISK_FULL else StorageError
        raise kind(
            f"Weights {entry.name} of {entry.backbone} could not be written to {file}: {err}. "
            f"Nothing was kept. Make room or set TORCH_HOME to a folder on another disk."
        ) from err


def _fetch(entry: Pretrained, file: Path) -> None:
    """Write what the server sends, once its digest is right.

    Not by torch.hub, which waits for ever on a server that went silent, unless the timeout of every
    socket of the process is changed.
    """
    digest = hashlib.sha256()
    partial = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        opened = urllib.request.urlopen(entry.url, timeout=silence_limit_s())
        with opened as sent, partial.open("wb") as to:
            while chunk := sent.read(_CHUNK_NBYTES):
                digest.update(chunk)
                to.write(chunk)
        if not digest.hexdigest().startswith(entry.digest_start):
            raise WeightsError(
                f"What {entry.url} sent is not {entry.name} of {entry.backbone}: its SHA-256 "
                f"should begin with {entry.digest_start}, but is {digest.hexdigest()[:12]}... "
                f"Nothing was kept. Run the same command again, or give --weights PATH."
            )
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
