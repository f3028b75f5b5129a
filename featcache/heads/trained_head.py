"""A trained head, with everything that says what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from featcache.config import HeadSpec, SolverSpec, TrainSpec
from featcache.core.identity import differing_fields
from featcache.errors import MismatchError, UsageError
from featcache.heads.backbone_record import BackboneRecord
from featcache.store import Cache
from featcache.version import __version__

# Heads are read without torch, which takes seconds to import.
if TYPE_CHECKING:
    from torch import Tensor, nn

VIEWS = "views"
"""What an identity says of views; features of the plain ones do not depend on it."""


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head with everything that says what it is for.

    Attributes:
        path: Its file; None before it is saved.
        spec: Shape and regularisation; a linear head of another solver has no hidden layers.
        train: How an MLP was trained; of another solver, which rows trained and validated.
        n_features: D.
        class_names: K names; output k is class_names[k].
        split: Which rows trained and validated: names and numbers of rows.
        dataset: Name of the dataset.
        cache_path: Where the cache was.
        cache_fingerprint: Its fingerprint.
        cache_identity: What that is the hash of.
        n_epochs: Epochs that its weights have seen; 0 of another solver than mlp.
        is_finished: Whether training ended as planned; a stopped run can be resumed.
        arrays: Names and weights, as of the Sequential that `module` builds.
        versions: What made it.
        solver: How it was found, and how features are treated before its first layer.
        found: What the solver found beside the weights: "C", "converged", "n_iterations",
            "refitted", "k", "alpha", "shrinkage", "temperature". A temperature of None says that
            nothing was there to fit one on.
        record: What is kept of its backbone, for new images; None of heads of 0.1.
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
    solver: SolverSpec = field(default_factory=SolverSpec)
    found: Mapping[str, Any] = field(default_factory=dict)
    record: BackboneRecord | None = None

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights as tensors, by name."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    @property
    def backbone(self) -> str:
        """The backbone of its cache."""
        return str(self.cache_identity["backbone"])

    @property
    def has_layers(self) -> bool:
        """Whether it is layers; a kNN head asks the rows of its cache instead."""
        return self.solver.solver != "knn"

    @property
    def is_calibrated(self) -> bool:
        """Whether its probabilities mean anything: without validation rows, scores' do not."""
        return self.found.get("temperature", 1.0) is not None

    @property
    def is_refitted(self) -> bool:
        """Whether its validation rows trained it as well, after what they had chosen."""
        return bool(self.found.get("refitted", False))

    def module(self) -> nn.Sequential:
        """Build the head with its weights, in evaluation mode: (B, D) -> (B, K) logits.

        The softmax of the logits is the head's probability. Before the layers of `spec`, of which
        the last is an `nn.Linear`, stands the treatment of the features, if they have one.

        Raises:
            UsageError: If it is a kNN head.
        """
        from featcache.heads.mlp import build_head

        if not self.has_layers:
            raise UsageError(
                f"The head {self.path} has no layers: its answers are votes of the rows of "
                f"{self.cache_path}. Train one that has, with another --solver than knn."
            )
        module = build_head(
            self.spec,
            n_features=self.n_features,
            n_classes=len(self.class_names),
            seed=0,
            features=self.solver.treatment,
        )
        module.load_state_dict(self.state)
        return module.eval()

    def treatment(self) -> nn.Sequential:
        """Build what is done to features before the votes of a kNN head: (B, D) -> (B, D)."""
        from torch import nn

        from featcache.heads.treatment import treatment_layers

        module = nn.Sequential(*treatment_layers(self.solver.treatment, self.n_features))
        module.load_state_dict(self.state)
        return module.eval()

    def require_fit(self, cache: Cache) -> None:
        """Refuse a cache that holds other features than the head was trained on.

        It may have more views of each image, or fewer: the plain one is the same.

        Raises:
            MismatchError: Naming the fields that differ.
        """
        found, wanted = dict(cache.identity), dict(self.cache_identity)
        for said in (found, wanted):
            said.pop(VIEWS, None)
        if differing := differing_fields(found, wanted):
            raise MismatchError(
                f"The head {self.path} was trained on other features than {cache.path} holds: "
                f"{'; '.join(differing)}. Nothing was evaluated. Give the cache it was trained on "
                f"({self.cache_path}), or train a head on this one."
            )


def versions(device: str, *, lightning: bool = True) -> dict[str, str]:
    """Name what decides the last digits of a head: versions, device, the precision of its sums.

    Args:
        device: Where it was trained; a CPU is not named.
        lightning: Whether Lightning trained it.
    """
    import torch

    kind = device.partition(":")[0]
    return {
        **({} if kind == "cpu" else {"device": kind}),
        "precision": "fp32",
        "featcache": __version__,
        "torch": torch.__version__,
        **({"pytorch_lightning": version("pytorch_lightning")} if lightning else {}),
    }
