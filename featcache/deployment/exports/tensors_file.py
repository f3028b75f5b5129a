"""The tensors of the whole network in one safetensors file, and the network built of them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from featcache.backbones.load import load_backbone
from featcache.backbones.own import Backbone, given_backbone
from featcache.core.backbone_kinds import is_own, must_be_named
from featcache.core.backbone_names import DEFAULT, PIXELS, RANDOM
from featcache.core.identity import canonical_json
from featcache.core.paths import expanded
from featcache.core.plain_torch import plain_torch
from featcache.core.preprocess import Preprocess
from featcache.core.tensor_files import state_digest, whole_state
from featcache.deployment.exports.network import Network
from featcache.deployment.exports.targets import HUB_MODEL
from featcache.deployment.exports.traced import ABOUT
from featcache.errors import CacheMissingError, CorruptError, UsageError, clipped
from featcache.heads.description import parse, require_weights

_PARTS = ("backbone", "head")
_DIGEST = "sha256"


def tensors_bytes(network: Network, about: Mapping[str, Any]) -> bytes:
    """Write every tensor as `backbone.NAME` or `head.NAME`; the metadata say what they are."""
    tensors = {
        f"{part}.{name}": tensor.detach().clone().contiguous()
        for part in _PARTS
        for name, tensor in whole_state(getattr(network, part)).items()
    }
    signed = {**about, _DIGEST: _digest(about, tensors)}
    # One key: safetensors writes several in an order of chance.
    content: bytes = safetensors.torch.save(tensors, metadata={ABOUT: canonical_json(signed)})
    return content


@plain_torch()
def load_exported(
    path: str | os.PathLike[str], *, backbone: str | Backbone | nn.Module | None = None
) -> nn.Module:
    """Build the network of an exported safetensors file or hub folder again, on the CPU.

    Args:
        path: The file, or the folder with its `model.safetensors`.
        backbone: Code of one's own has to be named again, and so has a folder of timm's: a file
            never says what is run.

    Returns:
        (N, h, w, 3) uint8 images, an array or a tensor, as Pillow resized and cropped them, to
        (N, K) probabilities; in evaluation mode, without gradients.

    Raises:
        CacheMissingError: If there is no such file.
        CorruptError: If it is damaged, or no file that `featcache export` wrote.
        UsageError: If its backbone has to be named, or cannot be built here.
    """
    path = expanded(path)
    path = path / HUB_MODEL if path.is_dir() else path
    if not path.is_file():
        raise CacheMissingError(f"There is no file {path}. Write one with: featcache export")
    about, tensors = _read(path)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    arrays = {name: tensor.numpy() for name, tensor in parts["head"].items()}
    head = parse(path, about["head"], arrays)
    require_weights(head)
    module = _built(about["backbone"]["build"], backbone, path)
    _fill(module, parts["backbone"], path)
    network = Network(module, head.module(), Preprocess.from_json(about["preprocess"]))
    network.register_forward_pre_hook(_arrays_too)
    return network.eval().requires_grad_(False)


def _arrays_too(network: nn.Module, images: tuple[Any]) -> tuple[Tensor]:
    """Take numpy's arrays as well as tensors."""
    return (torch.as_tensor(images[0]),)


def _built(
    said: Mapping[str, Any], backbone: str | Backbone | nn.Module | None, path: Path
) -> nn.Module:
    """Build the backbone that a file describes; its tensors come later."""
    name = str(said["name"])
    with nullcontext(name) if backbone is None else given_backbone(backbone) as named:
        if backbone is None and must_be_named(named):
            raise UsageError(
                f"{path} has the backbone {name!r}, which is code or a folder of its maker's. "
                f"Nothing was run. If you trust it, name it: load_exported(path, backbone=...)."
            )
        weights = DEFAULT if is_own(named) or named == PIXELS else RANDOM
        options = {key: said[key] for key in ("layer", "pool", "image_size")}
        return load_backbone(named, weights=weights, **options).module or nn.Flatten()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file, and compare it with its digest."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop(_DIGEST) != _digest(about, tensors):
            raise ValueError("its SHA-256 differs")
    except (safetensors.SafetensorError, OSError, LookupError, ValueError, TypeError) as err:
        raise CorruptError(
            f"{path} is damaged, or no file that featcache export wrote ({clipped(str(err))}). "
            f"Nothing was loaded. Export it again."
        ) from err
    return about, tensors


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a module of the same names and shapes, buffers outside its state too."""
    own = whole_state(module)
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [
        name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise CorruptError(
            f"{path} does not fill the backbone that its description names: {len(wrong)} tensors "
            f"are missing, surplus or of another shape ({', '.join(wrong[:5])}). Nothing was "
            f"loaded. Another version of its library may build another network."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of the tensors by name, as 64 hex digits."""
    weights = state_digest(dict(sorted(tensors.items())))
    return hashlib.sha256(f"{canonical_json(about)}\n{weights}".encode()).hexdigest()
