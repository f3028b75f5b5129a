"""A trained head on disk: head.safetensors, which holds its own description, and head.json."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from featcache.config import HeadSpec, TrainSpec
from featcache.core.identity import canonical_json, differing_fields, tensors_digest
from featcache.core.paths import expanded, native, portable
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    StorageError,
    UnsafeFileError,
    clipped,
)
from featcache.store import Cache, replace_file
from featcache.version import __version__

# Heads are read without torch, which takes seconds to import.
if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD_FILE = "head.safetensors"
DESCRIPTION_FILE = "head.json"
FORMAT = 1
_KEY = "featcache"
_DIGEST = "sha256"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head with everything that says what it is for.

    Attributes:
        path: Its file; None before it is saved.
        spec: Shape and regularisation.
        train: How it was trained.
        n_features: D.
        class_names: K names; output k is class_names[k].
        split: Which rows trained and validated: names and numbers of rows.
        dataset: Name of the dataset.
        cache_path: Where the cache was.
        cache_fingerprint: Its fingerprint.
        cache_identity: What that is the hash of.
        n_epochs: Epochs that its weights have seen.
        is_finished: Whether training ended as planned; a stopped run can be resumed.
        arrays: Names and weights, as of the Sequential that `module` builds.
        versions: What made it.
    """

    path: Path | None
    spec: HeadSpec
    train: TrainSpec
    n_features: int
    class_names: tuple[str, ...]
    split: Mapping[str, Any]
    dataset: str
    cache_path: Path
    cache_fingerprint: str
    cache_identity: Mapping[str, Any]
    n_epochs: int
    is_finished: bool
    arrays: Mapping[str, npt.NDArray[Any]]
    versions: Mapping[str, str]

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights as tensors, by name."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    @property
    def backbone(self) -> str:
        """The backbone of its cache."""
        return str(self.cache_identity["backbone"])

    def module(self) -> nn.Sequential:
        """Build the head with its weights, in evaluation mode: (B, D) -> (B, K) logits."""
        from featcache.heads.mlp import build_head

        module = build_head(
            self.spec, n_features=self.n_features, n_classes=len(self.class_names), seed=0
        )
        module.load_state_dict(self.state)
        return module.eval()

    def require_fit(self, cache: Cache) -> None:
        """Refuse a cache that holds other features than the head was trained on.

        Raises:
            MismatchError: Naming the fields that differ.
        """
        if cache.fingerprint != self.cache_fingerprint:
            differing = differing_fields(cache.identity, self.cache_identity)
            raise MismatchError(
                f"The head {self.path} was trained on other features than {cache.path} holds: "
                f"{'; '.join(differing)}. Nothing was evaluated. Give the cache it was trained on "
                f"({self.cache_path}), or train a head on this one."
            )


def save_head(folder: Path, head: TrainedHead) -> Path:
    """Write a head into an existing folder: each file is there whole, or as it was before.

    `head.safetensors` alone is enough to load it; `head.json` repeats its description for people.

    Returns:
        The path of head.safetensors.

    Raises:
        StorageError: If the folder cannot be written.
    """
    description = _describe(head)
    arrays = {name: np.ascontiguousarray(array) for name, array in head.arrays.items()}
    signed = {**description, _DIGEST: _digest(description, arrays)}
    # One key: safetensors writes several in an order of chance.
    content = safetensors.numpy.save(arrays, metadata={_KEY: canonical_json(signed)})
    replace_file(folder / HEAD_FILE, content)
    layers = [str(layer) for layer in head.module()]
    readable = json.dumps({**description, "layers": layers}, indent=2) + "\n"
    replace_file(folder / DESCRIPTION_FILE, readable.encode())
    return folder / HEAD_FILE


def load_head(path: str | os.PathLike[str]) -> TrainedHead:
    """Read a head; nothing in the file is run.

    Args:
        path: A run's folder, or its head.safetensors.

    Raises:
        CacheMissingError: If there is no such file.
        CorruptError: If it is not a head that featcache saved, or is damaged.
        MismatchError: If another version saved it.
        UnsafeFileError: If it is a pickle or no regular file.
    """
    path = expanded(path)
    if path.is_dir():
        path = path / HEAD_FILE
    _require_plain_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as err:
        raise _not_safetensors(path, err) from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err}.") from err
    if _KEY not in metadata:
        raise CorruptError(
            f"{path} is a safetensors file, but not of a featcache head. Nothing was loaded. "
            f"Give a run's folder, or a head.safetensors that featcache train-head wrote."
        )
    try:
        description = json.loads(metadata[_KEY])
        signature = description.pop(_DIGEST, None)
        head = _parse(path, description, arrays)
        if signature != _digest(description, arrays):
            raise ValueError("its SHA-256 differs")
        _require_weights(head)
    except (
        FeatcacheError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        OverflowError,
    ) as err:
        if isinstance(err, MismatchError):
            raise
        raise CorruptError(
            f"{path} describes a head that it does not hold ({clipped(str(err))}). Nothing was "
            f"loaded. Remove the folder, and train it again."
        ) from err
    return head


def read_description(path: Path) -> dict[str, Any]:
    """Read what a head says of itself, without its weights; nothing is verified.

    Raises:
        CorruptError: If it says nothing.
        StorageError: If it cannot be read.
        UnsafeFileError: If it is no regular file.
    """
    _require_plain_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            description: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
    except (safetensors.SafetensorError, LookupError, ValueError) as err:
        raise CorruptError(f"{path} says nothing of a head ({clipped(str(err))}).") from err
    except OSError as err:
        raise StorageError(f"Cannot read {path}: {err}.") from err
    return description


def versions(device: str) -> dict[str, str]:
    """Name what decides the last digits of a head: versions, device, the precision of its sums.

    Args:
        device: Where it was trained; a CPU is not named.
    """
    import torch

    kind = device.partition(":")[0]
    return {
        **({} if kind == "cpu" else {"device": kind}),
        "precision": "fp32",
        "featcache": __version__,
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch_lightning"),
    }


def _require_plain_file(path: Path) -> None:
    if not path.exists():
        raise CacheMissingError(f"There is no head at {path}. Train one with: featcache train-head")
    if not path.is_file():
        raise UnsafeFileError(f"{path} is not a regular file, so it is not read.")


def _require_weights(head: TrainedHead) -> None:
    """Compare the weights with the description, before memory is taken for what that promises."""
    widths = (head.n_features, *head.spec.hidden, len(head.class_names))
    layers_between = 3 if head.spec.dropout else 2  # ReLU, and Dropout
    wanted: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        wanted[f"{layers_between * i}.weight"] = (n_out, n_in)
        wanted[f"{layers_between * i}.bias"] = (n_out,)
    found = {name: array.shape for name, array in head.arrays.items()}
    if wanted != found or any(array.dtype != np.float32 for array in head.arrays.values()):
        raise ValueError(f"the shapes of its tensors ({len(found)}) are not those of its layers")


def _not_safetensors(path: Path, err: Exception) -> FeatcacheError:
    """Say what a file is that the safetensors library does not read."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start[:2] in _PICKLES:
        return UnsafeFileError(
            f"{path} is a pickle or a zip archive, whatever its name says: reading it could run "
            f"code. Nothing was loaded. Heads are .safetensors files that featcache train-head "
            f"wrote."
        )
    return CorruptError(
        f"{path} is not a safetensors file, or is damaged: {err}. Nothing was loaded. Give a "
        f"run's folder, or a head.safetensors that featcache train-head wrote."
    )


def _describe(head: TrainedHead) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "head": asdict(head.spec),
        "train": head.train.to_json(),
        "n_features": head.n_features,
        "class_names": list(head.class_names),
        "split": dict(head.split),
        "dataset": head.dataset,
        "cache": {
            "path": portable(str(head.cache_path)),
            "fingerprint": head.cache_fingerprint,
            "identity": dict(head.cache_identity),
        },
        "n_epochs": head.n_epochs,
        "is_finished": head.is_finished,
        "versions": dict(head.versions),
    }


def _digest(description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 of a head's description and of its weights by name, as 64 hex digits."""
    weights = tensors_digest(
        (name, f"torch.{array.dtype}", array.shape, np.ascontiguousarray(array).data.cast("B"))
        for name, array in sorted(arrays.items())
    )
    return hashlib.sha256(f"{canonical_json(description)}\n{weights}".encode()).hexdigest()


def _parse(
    path: Path, description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> TrainedHead:
    if description["format"] != FORMAT:
        raise MismatchError(
            f"{path} is a head of format {clipped(str(description['format']))}, and this featcache "
            f"reads format {FORMAT}. Nothing was loaded. Use the featcache that wrote it "
            f"({clipped(str(description['versions'].get('featcache')))}), or train it again."
        )
    shape: dict[str, Any] = dict(description["head"])
    for name in ("hidden", "dropout"):
        shape[name] = tuple(shape[name])
    said = description["cache"]
    for text in (description["dataset"], said["path"], said["fingerprint"]):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} where text was expected")
    if not isinstance(description["versions"], dict):
        raise TypeError(f"{description['versions']!r} where versions were expected")
    if not isinstance(said["identity"], dict):
        raise TypeError(f"{said['identity']!r} where an identity was expected")
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
    )
