"""Any layer of a backbone as its features: found on the meta device, taken by a hook, pooled."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcache.errors import UnknownNameError, UsageError

_BATCHES = (2, 3)  # two of them tell which axis is the batch
_MOST_PREFIX = 16  # class, distillation and register tokens
NONE = "none"


class Layer(NamedTuple):
    """What a part of a backbone gives.

    Attributes:
        name: Of the module, as in `named_modules`.
        shape: Of its output without the batch; empty where it is refused.
        pools: What --pool may be, the usual one first; empty where it is refused.
        places: The axes that grow with the image, of the output with its batch.
        n_prefix: Tokens that are no patches, in front of them; None where it has no tokens.
        refusal: Why it cannot be asked for; empty if it can.
    """

    name: str
    shape: tuple[int, ...] = ()
    pools: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    n_prefix: int | None = None
    refusal: str = ""


def find_layers(build: Callable[[int], nn.Module], image_size: int) -> dict[str, Layer]:
    """Look at every part of a backbone, by name.

    Channels and places cannot be told from one shape. So the backbone sees images of two sizes:
    what grows are places.

    Args:
        build: Of a size in pixels: the backbone on the meta device; it may refuse other sizes than
            `image_size`.
        image_size: Side of the images that will come.
    """
    network = build(image_size)
    first, second = (_outputs(network, n, image_size) for n in _BATCHES)
    try:
        larger = _outputs(build(2 * image_size), _BATCHES[0], 2 * image_size)
    except Exception:  # whatever a network says of a size that nobody asked for
        larger = {}
    return {n: _layer(n, first[n], second[n], larger.get(n)) for n in first}


def find_layer(layers: Mapping[str, Layer], name: str, pool: str, *, backbone: str) -> Layer:
    """Look up a layer and check that it can be pooled so.

    Returns:
        The layer, with the one pool that is meant.

    Raises:
        UnknownNameError: If the backbone has no such part, with the nearest three.
        UsageError: If its output is no batch of tensors, or cannot be pooled so.
    """
    listing = f"featcache backbones {shlex.quote(backbone)} --layers"
    if name not in layers:
        raise UnknownNameError(f"layer of {backbone}", name, layers, listing=listing)
    layer = layers[name]
    if layer.refusal:
        raise UsageError(
            f"--layer {name} of {backbone} cannot be taken: it {layer.refusal}. Nothing was "
            f"started. Take another part: {listing}"
        )
    wanted = layer.pools[0] if pool == "default" else pool
    if wanted not in layer.pools:
        shape = " x ".join(map(str, layer.shape))
        raise UsageError(
            f"--pool {wanted} does not fit --layer {name} of {backbone}, which gives {shape}: it "
            f"takes {', '.join(layer.pools)}. Nothing was started."
        )
    return layer._replace(pools=(wanted,))


class LayerFeatures(nn.Module):
    """(B, 3, H, W) -> (B, D): the pooled output of one part of a backbone."""

    def __init__(self, network: nn.Module, layer: Layer) -> None:
        """Put the hook in place.

        Args:
            network: The backbone.
            layer: From `find_layer`, with one pool.
        """
        super().__init__()
        self.network = network
        self.tap = Tap(network.get_submodule(layer.name))
        self.layer = layer

    def forward(self, batch: Tensor) -> Tensor:
        """Run the backbone, and pool what its part gave."""
        self.network(batch)
        return _pooled(self.tap.taken(), self.layer)


class Tap(nn.Module):
    """Keeps what a module gives, until it is taken.

    It keeps a copy: an in-place ReLU behind the module would change the tensor itself.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.kept: Tensor | None = None
        self.hook: RemovableHandle = module.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Copy an output."""
        self.kept = output.clone()

    def taken(self) -> Tensor:
        """Hand over what was kept.

        Raises:
            RuntimeError: If the module did not run: an engine replaced it.
        """
        kept, self.kept = self.kept, None
        if kept is None:
            raise RuntimeError("the part of the backbone whose output is taken did not run")
        return kept


class TokenFeatures(nn.Module):
    """(B, 3, H, W) -> (B, D): the tokens of a model of timm's, pooled here.

    To change the model's own `global_pool` would rename norms, and leave them untrained. The norm
    that a model has behind its pooling is applied to each pooled token.
    """

    def __init__(self, network: nn.Module, pool: str) -> None:
        """Take "cls", "mean" or "cls+mean" of a network's tokens."""
        super().__init__()
        self.network = network
        self.pool = pool

    def forward(self, batch: Tensor) -> Tensor:
        """Pool what `forward_features` gives."""
        network: Any = self.network
        tokens = network.forward_features(batch)
        norm = getattr(network, "fc_norm", None) or nn.Identity()
        n_prefix = int(network.num_prefix_tokens)
        parts = [norm(part) for part in _of_tokens(tokens, self.pool, n_prefix)]
        return torch.cat(parts, dim=1)


def token_features(network: nn.Module, pool: str, *, backbone: str) -> nn.Module:
    """Pool the tokens of one of timm's models otherwise than it does itself.

    Raises:
        UsageError: If it has no tokens, or no class token.
    """
    has_tokens = hasattr(network, "num_prefix_tokens") and hasattr(network, "forward_features")
    has_class = getattr(network, "cls_token", None) is not None
    if pool not in ("cls", "mean", "cls+mean") or not has_tokens:
        raise UsageError(
            f"--pool {pool} does not fit {backbone}, whose output has no tokens to pool. Nothing "
            f"was started. Leave it out, or take a part of the backbone with --layer."
        )
    if "cls" in pool and not has_class:
        raise UsageError(
            f"--pool {pool} needs a class token, but {backbone} has none. Nothing was started. Use "
            f"--pool mean, or leave it out."
        )
    return TokenFeatures(network, pool)


def _pooled(output: Tensor, layer: Layer) -> Tensor:
    [pool] = layer.pools
    if pool == NONE:
        return output
    if pool == "flatten":
        return output.flatten(1)
    if layer.n_prefix is not None:
        return torch.cat(_of_tokens(output, pool, layer.n_prefix), dim=1)
    return output.amax(layer.places) if pool == "max" else output.mean(layer.places)


def _of_tokens(tokens: Tensor, pool: str, n_prefix: int) -> list[Tensor]:
    """Take the class token, the mean of the patches, or both."""
    takes = {"cls": lambda: tokens[:, 0], "mean": lambda: tokens[:, n_prefix:].mean(1)}
    return [takes[word]() for word in pool.split("+")]


class _Output(NamedTuple):
    n_calls: int
    value: Any


def _outputs(network: nn.Module, n: int, image_size: int) -> dict[str, _Output]:
    """Run empty images through a backbone, and keep what each part gave."""
    found: dict[str, _Output] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        found[name] = _Output(found[name].n_calls + 1 if name in found else 1, output)

    parts = [(name, part) for name, part in network.named_modules() if name]
    hooks = [part.register_forward_hook(functools.partial(keep, name)) for name, part in parts]
    try:
        with torch.no_grad():
            network(torch.empty(n, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found.get(name, _Output(0, None)) for name, _ in parts}


def _layer(name: str, first: _Output, second: _Output, larger: _Output | None) -> Layer:
    output, other = first.value, second.value
    if not first.n_calls:
        return Layer(name, refusal="is not run for features")
    if first.n_calls > 1:
        return Layer(name, refusal=f"is run {first.n_calls} times an image: name what holds it")
    if not isinstance(output, Tensor):
        return Layer(name, refusal=f"gives a {type(output).__name__}, not one tensor")
    shape = tuple(output.shape[1:])
    is_batch = output.shape[:1] + other.shape[:1] == _BATCHES and other.shape[1:] == shape
    if not is_batch or not shape or not output.is_floating_point():
        return Layer(name, refusal=f"gives {tuple(output.shape)} for 2 images: no row for each")
    if len(shape) == 1:
        return Layer(name, shape, (NONE,))
    grown = larger.value if larger is not None and larger.n_calls == 1 else None
    if not isinstance(grown, Tensor) or grown.dim() != output.dim():
        return Layer(name, shape, ("flatten",))
    places = tuple(i for i in range(1, output.dim()) if grown.shape[i] != output.shape[i])
    if places == (1,) and len(shape) == 2:
        return _tokens(name, shape, grown.shape[1])
    if len(places) != len(shape) - 1:
        return Layer(name, shape, ("flatten",))
    return Layer(name, shape, ("avg", "max", "flatten"), places)


def _tokens(name: str, shape: tuple[int, ...], n_larger: int) -> Layer:
    """Tell patches from other tokens: images of twice the side have four times the patches."""
    n_patches, rest = divmod(n_larger - shape[0], 3)
    n_prefix = shape[0] - n_patches
    if rest or not 0 <= n_prefix <= _MOST_PREFIX:
        return Layer(name, shape, ("flatten",))
    pools = ("mean", "cls", "cls+mean", "flatten") if n_prefix else ("mean", "flatten")
    return Layer(name, shape, pools, (1,), n_prefix)
