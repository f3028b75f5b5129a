"""What an exported file says of itself: the same words in its metadata, its sidecar, its card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import PIL
from torch import nn

from featcache.backbones.family import LIBRARIES
from featcache.config.export_specs import ANY
from featcache.core.backbone_kinds import told_name
from featcache.core.backbone_names import RANDOM
from featcache.core.paths import native
from featcache.deployment.backbone import RebuiltBackbone
from featcache.deployment.exports.network import Network
from featcache.deployment.exports.plan import ExportPlan
from featcache.deployment.exports.snippets import pillow_code
from featcache.deployment.exports.traced import BATCH, INPUT, OUTPUT
from featcache.heads.head_file import HEAD_FILE, read_description
from featcache.heads.trained_head import TrainedHead
from featcache.images.datasets import dataset_slug
from featcache.version import __version__

EXPORT_VERSION = 1
_TREATED = {
    "raw": "as they are",
    "standard": "standardised (in its first layer)",
    "l2": "scaled to length 1",
}
_OF_THE_HEAD = (
    *("format", "head", "solver", "found", "train", "n_features", "class_names", "split"),
    *("n_epochs", "is_finished", "versions"),
)


def about_of(plan: ExportPlan, backbone: RebuiltBackbone, network: Network) -> dict[str, Any]:
    """Describe a file before it is written.

    No path of this machine is in it: a file travels.

    Args:
        plan: What is written.
        backbone: The backbone.
        network: All of it.
    """
    head, named, spec = plan.head, plan.named, plan.spec
    said = read_description(plan.run / HEAD_FILE)
    dataset = dataset_slug(native(head.dataset))
    is_turned = backbone.rules.exif_orientation == "apply"
    sides = ("height", "width") if spec.input == ANY else network.in_size
    loaded = backbone.loaded
    build = {name: named.options[name] for name in ("layer", "pool")}
    return {
        "export": EXPORT_VERSION,
        "format": spec.format,
        "input": spec.input,
        "takes": {"name": INPUT, "dtype": "uint8", "shape": [BATCH, *sides, 3]},
        "gives": {"name": OUTPUT, "dtype": "float32", "shape": [BATCH, len(head.class_names)]},
        "class_names": list(head.class_names),
        "preprocess": asdict(backbone.preprocess),
        "pillow": pillow_code(backbone.preprocess, input=spec.input, is_turned=is_turned),
        "backbone": {
            "name": told_name(loaded.told.get("backbone", loaded.name)),
            "build": {
                "name": told_name(named.name),
                **build,
                "image_size": backbone.preprocess.out_size[0],
            },
            "layer": loaded.layer,
            "weights": loaded.weights,
            "weights_sha256": loaded.weights_sha256,
        },
        "licence": _licence(backbone),
        "dataset": dataset,
        "split_told": _split_told(head),
        "head": {
            **{name: said[name] for name in _OF_THE_HEAD if name in said},
            **_solver(head),
            "dataset": dataset,
            "cache": {
                "path": "",
                "fingerprint": head.cache_fingerprint,
                "identity": dict(head.cache_identity),
            },
        },
        "head_told": _head_told(network.head, head),
        "is_calibrated": head.is_calibrated,
        "limits": head_limits(head, backbone.store_dtype),
        "fingerprints": {"cache": head.cache_fingerprint, "head": said["sha256"]},
        "versions": _versions(loaded.told),
    }


def head_limits(head: TrainedHead, store_dtype: str) -> list[str]:
    """Say what is unusual of a head and of the features that it was trained on.

    Args:
        head: The head.
        store_dtype: As its cache kept them.
    """
    limits = []
    if not head.is_finished:
        limits.append(f"The training was stopped: the head is that of epoch {head.n_epochs}.")
    if store_dtype == "float16":
        limits.append(
            "The head was trained on features rounded to float16, and the file rounds none: its "
            "probabilities may differ a little from those of `featcache eval` and `predict`."
        )
    return limits


def _solver(head: TrainedHead) -> dict[str, Any]:
    """Say that a file's head takes raw features where its first layer standardises them."""
    if head.solver.treatment != "standard":
        return {}
    return {"solver": {**head.solver.identity, "features": "raw"}}


def _licence(backbone: RebuiltBackbone) -> str:
    """Name the licence of the weights, as far as anybody told it."""
    if backbone.module is None or backbone.loaded.weights.startswith(RANDOM):
        return "none: no published weights are in it"
    told = backbone.loaded.told.get("licence") or backbone.record.provenance.get("licence")
    return str(told or "unknown")


def _head_told(module: nn.Module, head: TrainedHead) -> str:
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    widths = [linear[0].in_features, *(layer.out_features for layer in linear)]
    shape = " -> ".join(map(str, widths))
    told = f"{head.solver.solver}, {shape}; features {_TREATED[head.solver.treatment]}"
    if head.solver.is_mlp:
        train = head.train
        told += f"; reg {head.spec.reg}, lr {train.lr:g}, {head.n_epochs} epochs, seed {train.seed}"
    found = ", ".join(f"{name} {value}" for name, value in head.found.items() if value is not None)
    return f"{told}; {found}" if found else told


def _split_told(head: TrainedHead) -> str:
    """Say which images trained it, and which it was watched by."""
    rows = head.split
    train, val = rows["train"], rows["val"]
    of_train = f"{train['n_rows']} images"
    if not val["n_rows"]:
        return (
            f"{of_train} of the split {train['split']!r} trained the head, and none validated it."
        )
    counts = f"{of_train} trained the head, {val['n_rows']} validated it"
    if head.is_refitted:
        counts += " and then, once they had chosen, trained it too"
    if val["split"] != train["split"]:
        return f"{counts}: those of the splits {train['split']!r} and {val['split']!r}."
    share = head.train.val_fraction
    told = "a fifth" if share is None else f"a share of {share:g}"
    return (
        f"{counts}: {told} of the split {train['split']!r}, chosen by chance with the seed "
        f"{head.train.split_seed}."
    )


def _versions(told: Mapping[str, str]) -> dict[str, str]:
    return {
        "featcache": __version__,
        **{name: version(name) for name in ("torch", "torchvision")},
        **{name: told[name] for name in LIBRARIES if name in told},
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }
