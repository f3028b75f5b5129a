"""timm's models without their classifier: built, filled, and what decides their output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featcache.backbones.batchnorm import has_batch_norm
from featcache.backbones.family import WEIGHTS_FILE, BackboneInfo, LoadedBackbone
from featcache.backbones.measure import cost
from featcache.backbones.state_dict import fill_backbone, read_state_dicts
from featcache.backbones.timm_licences import licence_notes
from featcache.backbones.timm_transforms import published_size
from featcache.backbones.timm_weights import TimmModel, fetch_weights, find_model, weights_here
from featcache.core.backbone_kinds import PRE_LOGITS, told_name
from featcache.core.backbone_names import DEFAULT, RANDOM
from featcache.core.process_wide import errors_alone
from featcache.core.random_state import seeded
from featcache.core.tensor_files import state_digest, whole_state
from featcache.errors import UsageError, WeightsError, clipped

_CLASSIFIERS = ("head.", "head_dist.", "fc.", "classifier.")
# timm tells there what it adapts; what matters of it is checked here.
_quiet = errors_alone("timm")


def build_network(model: TimmModel, *, image_size: int, meta: bool = False) -> nn.Module:
    """Build a model without its classifier: (B, 3, H, W) -> (B, D), in evaluation mode.

    It is `timm.create_model(name, num_classes=0)`: what enters the classifier, after the model's
    own pooling and norm.

    Args:
        model: From `find_model`.
        image_size: A model of one fixed size is built for it.
        meta: Without memory for the weights, on the meta device.

    Raises:
        UsageError: If the model does not exist for `image_size`, or takes other arguments than its
            configuration names.
    """
    if meta:
        with torch.device("meta"):
            return build_network(model, image_size=image_size)
    from timm import create_model

    try:
        with _quiet():
            network = create_model(
                model.architecture,
                pretrained_cfg=_without_source(model),
                num_classes=0,
                **_arguments(model, image_size),
            )
    except Exception as err:  # whatever a constructor says of its arguments
        raise _misfit(model, image_size, err) from err
    built: nn.Module = network.eval().requires_grad_(False)
    return built


def describe_timm(name: str, image_size: int) -> BackboneInfo:
    """Measure a model on the meta device.

    Raises:
        UsageError: If it does not take this image size.
    """
    model = find_model(name)
    network = build_network(model, image_size=image_size, meta=True)
    try:
        measured = cost(network, image_size)
    except (RuntimeError, AssertionError, ValueError) as err:
        raise _misfit(model, image_size, err) from err
    label = model.published.tag or DEFAULT
    return BackboneInfo(
        name=name,
        image_size=image_size,
        **measured._asdict(),
        weights=(label,),
        weights_on_disk=(label,) if weights_here(model) else (),
    )


def load_timm(name: str, *, weights: str, seed: int, image_size: int) -> LoadedBackbone:
    """Build a frozen model with its weights, on the CPU; `load_backbone` says how."""
    model = find_model(name)
    note, typed = "", {}
    if weights.lower() == RANDOM:
        with seeded(seed):
            network = build_network(model, image_size=image_size)
        label = f"random (seed {seed})"
    elif weights.upper() == DEFAULT:
        network, note = _published(model, image_size)
        label = DEFAULT
    else:
        network = build_network(model, image_size=image_size)
        note = fill_backbone(network, weights, name=name, ignored=_CLASSIFIERS)
        label, typed = Path(weights).name, {WEIGHTS_FILE: weights}
    is_published = label == DEFAULT
    pooling = own_pooling(network)
    return LoadedBackbone(
        name=name,
        module=network,
        n_features=describe_timm(name, image_size).n_features,
        layer=PRE_LOGITS,
        weights=label,
        weights_sha256=state_digest(whole_state(network)),
        has_batchnorm=has_batch_norm(network),
        note=note,
        identity={
            "library": "timm",
            "architecture": {
                "name": model.architecture,
                "arguments": _json(_arguments(model, image_size)),
            },
            "pool": pooling,
        },
        told={
            "backbone": told_name(name),
            "timm": version("timm"),
            **typed,
            **({"hub": model.hub_id} if is_published and model.hub_id else {}),
            **({"revision": model.revision} if is_published and model.revision else {}),
            **({"licence": model.published.license or "unknown"} if is_published else {}),
        },
        notes=(f"pooling: {pooling}", *(licence_notes(model) if is_published else ())),
    )


def own_pooling(network: nn.Module) -> str:
    """Name the pooling that a model does itself; of tokens by the words of --pool."""
    pooling = getattr(network, "global_pool", None)
    if not isinstance(pooling, str):
        pooling = getattr(getattr(network, "head", network), "global_pool", pooling)
        pooling = getattr(pooling, "pool_type", pooling)
    has_tokens = hasattr(network, "num_prefix_tokens")
    words = {"token": "cls", "avg": "mean"} if has_tokens else {}
    return words.get(pooling, pooling) if isinstance(pooling, str) and pooling else "its own"


def _published(model: TimmModel, image_size: int) -> tuple[nn.Module, str]:
    """Fill a model with its published weights, strictly, and take the classifier off afterwards.

    timm itself loads weights into a model without classifier loosely: what is missing would stay
    random without a word.

    Returns:
        The model, and where its weights are from, for people.
    """
    from timm import create_model

    file = fetch_weights(model)
    if file.suffix.lower() != ".safetensors":
        read_state_dicts(file)  # refuses what would run code
    arguments = _arguments(model, image_size)
    try:
        with _quiet():
            whole = create_model(
                model.architecture,
                pretrained=True,
                pretrained_cfg={**_without_source(model), "file": str(file)},
                **arguments,
            )
    except Exception as err:  # whatever a reader or a model says of the file
        raise WeightsError(
            f"{file} does not fill {model.name} ({type(err).__name__}: {_line(err)}). "
            f"Nothing was loaded. Copy or download the file again, or give --weights PATH."
        ) from err
    network = build_network(model, image_size=image_size)
    filled, wanted = whole.state_dict(), network.state_dict()
    lacking = [n for n, t in wanted.items() if n not in filled or filled[n].shape != t.shape]
    if lacking:
        raise WeightsError(
            f"{file} does not fill {model.name}: {', '.join(lacking[:5])} are missing. Nothing was "
            f"loaded."
        )
    # Buffers outside the state dict are the constructor's, in both.
    network.load_state_dict({name: filled[name] for name in wanted}, assign=True)
    network.requires_grad_(requires_grad=False)
    bad = [n for n, t in wanted.items() if t.is_floating_point() and not filled[n].isfinite().all()]
    if bad:
        raise WeightsError(
            f"{file} holds NaN or infinite numbers in {', '.join(bad[:5])}. Nothing was loaded."
        )
    at = f" at {model.revision[:12]}" if model.revision else ""
    return network, f"{file.name} of {model.hub_id}{at}" if model.hub_id else file.name


def _arguments(model: TimmModel, image_size: int) -> dict[str, Any]:
    """Give the constructor's arguments: those of a configuration, and the size where it is fixed.

    A vision transformer for another size is another function, with other position embeddings.
    """
    arguments = dict(model.arguments)
    published = model.published
    is_fixed = published.fixed_input_size and not arguments.get("dynamic_img_size")
    if is_fixed and image_size != published.input_size[-1]:
        arguments["img_size"] = image_size
    return arguments


def _without_source(model: TimmModel) -> dict[str, Any]:
    """Timm's entry of the weights without the places that they could be loaded from."""
    places = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict")
    said = model.published.to_dict()
    return {k: v for k, v in said.items() if k not in places} | {"custom_load": False}


def _json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write arguments as an identity keeps them: lists and mappings as text."""
    return {
        name: value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
        for name, value in arguments.items()
    }


def _line(err: Exception) -> str:
    return clipped(" ".join(str(err).split())) or type(err).__name__


def _misfit(model: TimmModel, image_size: int, err: Exception) -> UsageError:
    made_for = published_size(model.name, model.data)
    return UsageError(
        f"The backbone {model.name} cannot be built for images of {image_size} px ({_line(err)}). "
        f"It is made for {made_for} px. Nothing was started. Use --image-size {made_for}."
    )
