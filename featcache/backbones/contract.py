"""The contract of a user's own network, checked before anything is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from featcache.core.random_state import seeded
from featcache.core.tensor_files import state_digest, whole_state
from featcache.errors import UsageError, clipped

_N_IMAGES = 3
_TOLERANCE = 1e-3  # of the largest feature: other batch sizes take other kernels
# How torch says that a tensor stayed behind when a module was moved.
_LEFT_BEHIND = ("expected device meta", "same device", "not on the expected device")


def check_contract(module: nn.Module, *, name: str, image_size: int) -> None:
    """Refuse a module whose rows would not be a function of each image alone.

    Args:
        module: (B, 3, s, s) float32 -> (B, D), on the CPU.
        name: Names it in messages.
        image_size: s.

    Raises:
        UsageError: Naming what it does otherwise.
    """
    with seeded(0):
        images = torch.randn(_N_IMAGES, 3, image_size, image_size)
    before = _digests(module)
    rows = _rows(module, images, name)
    moved = [n for n, digest in _digests(module).items() if before.get(n) != digest]
    if moved:
        raise _refused(
            name,
            f"a forward pass changes {', '.join(moved[:3])}",
            "Call module.eval() before you return it: BatchNorm in training mode counts images.",
        )
    if not rows.isfinite().all():
        raise _refused(name, "it gives NaN or infinite features", "Check its weights and input.")
    largest = float(rows.abs().max())
    again = float((_rows(module, images, name) - rows).abs().max())
    if again > _TOLERANCE * largest:
        raise _refused(
            name,
            f"it gives other features of the same images each time (by {again:.2g})",
            "Call module.eval(): dropout is random in training mode.",
        )
    alone = float((_rows(module, images[:1], name) - rows[:1]).abs().max())
    if alone > _TOLERANCE * largest:
        raise _refused(
            name,
            f"an image alone gives other features than among {_N_IMAGES} (by {alone:.2g})",
            "A row must depend on its own image only.",
        )
    _check_that_it_moves(module, name, image_size)


def frozen_copy(module: nn.Module, *, name: str) -> nn.Module:
    """Copy a module, without gradients.

    Raises:
        UsageError: If Python cannot copy it.
    """
    return _copied(module, {}, name).requires_grad_(requires_grad=False)


def _copied(module: nn.Module, shared: dict[int, Any], name: str) -> nn.Module:
    """Copy a module, with other tensors in the place of some."""
    try:
        return copy.deepcopy(module, shared)
    except Exception as err:  # whatever its parts say
        raise _refused(
            name,
            f"it cannot be copied ({type(err).__name__}: {clipped(str(err))})",
            "copy.deepcopy(module) must work.",
        ) from err


def _rows(module: nn.Module, images: Tensor, name: str) -> Tensor:
    """Run a module, and refuse what is no row of numbers for each image."""
    try:
        with torch.no_grad():
            out = module(images.clone())
    except Exception as err:  # whatever the user's code raises
        raise _refused(
            name,
            f"it fails on {tuple(images.shape)} ({type(err).__name__}: {clipped(str(err))})",
            "It must take (B, 3, s, s) float32; --image-size says s.",
        ) from err
    if not isinstance(out, Tensor):
        raise _refused(name, f"it gives a {type(out).__name__}", "Return one tensor (B, D).")
    if out.dim() != 2 or len(out) != len(images) or not out.is_floating_point():
        got = f"{tuple(out.shape)} {str(out.dtype).removeprefix('torch.')}"
        raise _refused(
            name, f"it gives {got} for {len(images)} images", "Return one float tensor (B, D)."
        )
    return out.float()


def _check_that_it_moves(module: nn.Module, name: str, image_size: int) -> None:
    """Refuse tensors that `.to(device)` would leave behind."""
    loose = next(_loose_tensors(module), None)
    if loose is not None:
        raise _refused(
            name,
            f"{loose} is a tensor that .to(device) does not move",
            "Register it: self.register_buffer(name, tensor).",
        )
    moved = _copied(module, {id(t): _on_meta(t) for t in _tensors(module)}, name)
    try:
        with torch.no_grad():
            moved(torch.empty(1, 3, image_size, image_size, device="meta"))
    except Exception as err:  # other complaints are of the meta device itself
        if any(text in str(err) for text in _LEFT_BEHIND):
            raise _refused(
                name,
                f"it uses a tensor that .to(device) does not move ({clipped(str(err))})",
                "Register it: self.register_buffer(name, tensor).",
            ) from err


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _on_meta(tensor: Tensor) -> Tensor:
    moved = tensor.detach().to("meta")
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def _loose_tensors(module: nn.Module) -> Iterator[str]:
    """Name tensors in attributes that are neither parameters nor buffers."""
    for place, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute[:1] != "_" and any(isinstance(v, Tensor) for v in _values(value)):
                yield f"{place}.{attribute}" if place else attribute


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _digests(module: nn.Module) -> dict[str, str]:
    return {name: state_digest({name: tensor}) for name, tensor in whole_state(module).items()}


def _refused(name: str, what: str, way_out: str) -> UsageError:
    return UsageError(
        f"The backbone {name} was refused: {what}. Nothing was computed. {way_out} The contract is "
        f"in docs/guides/your-own-backbone.md."
    )
