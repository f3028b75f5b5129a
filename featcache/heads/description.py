"""What a head says of itself in its file, written and read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import HeadSpec, SolverSpec, TrainSpec
from featcache.core.paths import native, portable
from featcache.errors import MismatchError, clipped
from featcache.heads.backbone_record import BackboneRecord, is_of_the_backbone
from featcache.heads.trained_head import TrainedHead

FORMAT = 1
_OF_ANY_SOLVER = ("val_fraction", "split_seed")  # what of a training is not Adam's


def describe(head: TrainedHead) -> dict[str, Any]:
    """Write what a head says of itself; an MLP on raw features says nothing of solvers."""
    solver, train = head.solver.identity, head.train.to_json()
    if not head.solver.is_mlp:
        train = {name: train[name] for name in _OF_ANY_SOLVER}
    return {
        "format": FORMAT,
        "head": asdict(head.spec),
        **({"solver": solver} if solver else {}),
        **({"found": dict(head.found)} if head.found else {}),
        "train": train,
        "n_features": head.n_features,
        "class_names": list(head.class_names),
        "split": dict(head.split),
        "dataset": head.dataset,
        "cache": {
            "path": portable(str(head.cache_path)),
            "fingerprint": head.cache_fingerprint,
            "identity": dict(head.cache_identity),
        },
        **({"backbone": head.record.describe()} if head.record else {}),
        "n_epochs": head.n_epochs,
        "is_finished": head.is_finished,
        "versions": dict(head.versions),
    }


def parse(
    path: Path, description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> TrainedHead:
    """Read what a head says of itself.

    Raises:
        MismatchError: If another version wrote it.
        FeatcacheError: If it says what it cannot; so do LookupError, TypeError and ValueError.
    """
    if description["format"] != FORMAT:
        raise MismatchError(
            f"{path} is a head of format {clipped(str(description['format']))}, and this featcache "
            f"reads format {FORMAT}. Nothing was loaded. Use the featcache that wrote it "
            f"({clipped(str(description['versions'].get('featcache')))}), or train it again."
        )
    record = None
    if "backbone" in description:
        record = BackboneRecord.of_head(description["backbone"], arrays)
        arrays = {name: a for name, a in arrays.items() if not is_of_the_backbone(name)}
    shape: dict[str, Any] = dict(description["head"])
    for name in ("hidden", "dropout"):
        shape[name] = tuple(shape[name])
    said = description["cache"]
    for text in (description["dataset"], said["path"], said["fingerprint"]):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} where text was expected")
    _require_mapping("versions", description["versions"])
    _require_mapping("an identity", said["identity"])
    return TrainedHead(
        path=path,
        spec=HeadSpec(**shape),
        train=TrainSpec(**description["train"]),
        n_features=int(description["n_features"]),
        class_names=tuple(description["class_names"]),
        split=description["split"],
        dataset=description["dataset"],
        cache_path=Path(native(said["path"])),
        cache_fingerprint=said["fingerprint"],
        cache_identity=said["identity"],
        n_epochs=int(description["n_epochs"]),
        is_finished=bool(description["is_finished"]),
        arrays=arrays,
        versions=description["versions"],
        solver=SolverSpec.from_identity(description.get("solver", {})),
        found=found_from_json(description.get("found", {})),
        record=record,
    )


def require_weights(head: TrainedHead) -> None:
    """Compare the weights with the description, before memory is taken for what that promises.

    Raises:
        ValueError: If they are not those of its layers.
    """
    found = {name: array.shape for name, array in head.arrays.items()}
    if _shapes(head) != found or any(array.dtype != np.float32 for array in head.arrays.values()):
        raise ValueError(f"the shapes of its tensors ({len(found)}) are not those of its layers")


def _shapes(head: TrainedHead) -> dict[str, tuple[int, ...]]:
    """List the tensors of its layers with their shapes."""
    wanted: dict[str, tuple[int, ...]] = {}
    if head.solver.features == "standard":
        wanted |= {"0.mean": (head.n_features,), "0.scale": (head.n_features,)}
    if not head.has_layers:
        return wanted
    first = 0 if head.solver.features == "raw" else 1
    widths = (head.n_features, *head.spec.hidden, len(head.class_names))
    layers_between = 3 if head.spec.dropout else 2  # ReLU, and Dropout
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        wanted[f"{first + layers_between * i}.weight"] = (n_out, n_in)
        wanted[f"{first + layers_between * i}.bias"] = (n_out,)
    return wanted


def found_from_json(said: Any) -> dict[str, Any]:
    """Take what a solver found: numbers by name.

    Raises:
        ValueError: Naming what is none.
    """
    if not isinstance(said, dict):
        raise ValueError(f"{said!r} where what a solver found should be")
    for value in said.values():
        if not (value is None or isinstance(value, bool | int | float)):
            raise ValueError(f"{value!r} where a number was expected")
    return dict(said)


def _require_mapping(what: str, said: Any) -> None:
    if not isinstance(said, dict):
        raise TypeError(f"{said!r} where {what} should be")
