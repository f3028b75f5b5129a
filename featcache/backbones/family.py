"""What a family of backbones is: backbones that are named, built and filled in one way.

To add a family:

1. Write a class with the methods of `BackboneFamily` in a file of this folder, and add it to
   `FAMILIES` in backbones/families.py.
2. Make its names known to those who may not import a backbone: `backbone_name` in
   core/backbone_names.py checks a name, and `backbone_names` lists those that can be listed.
3. If its names are spelled differently from torchvision's, add how they are recognised and written,
   and what their files are called, to core/backbone_kinds.py.
4. If it is of a library of its own, name that in `LIBRARIES` below, and tell its version.
5. Read the places that treat a single family differently, and add the new one if it needs it.
   Most call `is_timm` or `is_own`: store/extract_command.py (the command that makes a cache again),
   extraction/repair.py, deployment/named_backbone.py and deployment/exports/tensors_file.py (a name
   that a file alone cannot give), notebook/classifiers.py, notebook/end_to_end.py and
   notebook/parity.py (parity), and featcache_cli/commands/backbones.py (`featcache backbones`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from featcache.core.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.torchvision_weights import Pretrained
    from featcache.images.stat_index import KnownFiles

LIBRARIES = ("timm",)
"""Libraries of single families; `LoadedBackbone.told` says their versions under these names."""

WEIGHTS_FILE = "weights_file"
"""Under which name `LoadedBackbone.told` says the file of the weights, as it was typed."""


@dataclass(frozen=True)
class BackboneInfo:
    """What a backbone is and costs at one image size, known without its weights.

    Attributes:
        name: As in `backbone_names`.
        image_size: Side of the square that enters the backbone, in pixels.
        n_features: Numbers per image that leave the backbone.
        n_params: Parameters of the backbone, without the classifier.
        gflop: Work per image, 1 MAC = 2 FLOP: convolutions, linear layers, attention products.
        activation_bytes_per_image: Largest input plus output of one layer, in float32.
        weights: Its published weights, DEFAULT first.
        weights_on_disk: Those whose file is on this machine.
    """

    name: str
    image_size: int
    n_features: int
    n_params: int
    gflop: float
    activation_bytes_per_image: int
    weights: tuple[str, ...]
    weights_on_disk: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone that is ready to run, and where its weights come from.

    Attributes:
        name: As in `backbone_names`.
        module: (B, 3, H, W) -> (B, D), in evaluation mode, without gradients; None for "pixels".
        n_features: D; for "pixels" the 3 * H * W numbers that the head sees.
        layer: Which layer's output the features are.
        weights: For people: "IMAGENET1K_V1", "random (seed 0)", or a file's name.
        note: What stood around the weights in their file, and was left out; mostly empty.
        weights_sha256: `state_digest` of the backbone, without classifier and auxiliary heads.
        has_batchnorm: Whether `adapt_batch_norm` has something to adapt.
        published: torchvision's published weights that it has; None for others.
        identity: Fields of a cache's identity beside those that every backbone has.
        told: What provenance keeps of it beside `weights`: the full name, versions, licence, the
            file of the weights.
        notes: Sentences for people.
    """

    name: str
    module: nn.Module | None
    n_features: int
    layer: str
    weights: str
    weights_sha256: str
    has_batchnorm: bool
    note: str = ""
    published: Pretrained | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def require_published(self, known: KnownFiles | None = None) -> None:
        """Compare the file of published weights with its digest, where `load_backbone` did not.

        Args:
            known: Knows the digest of a file that has not changed; None reads the file.

        Raises:
            WeightsError: If its bytes are not the published ones.
        """
        if self.published is not None:
            sha256 = None if known is None else known.sha256_of(self.published.file)
            self.published.require_intact(sha256)


class BackboneFamily(Protocol):
    """Backbones that are named, built and filled in one way.

    Names and options are looked at before torch is imported, which takes seconds. So a family's
    module imports torch inside the methods that need it. Names are those that it owns in every
    method, weights are as they were typed.

    Attributes:
        runs_network: Whether its backbones run a network; without one the images themselves are
            stored, and the options of a network are refused.
        usual_preprocess: What --preprocess auto stands for: "notebook" or "weights".
        is_known_by_files: Whether name, options, the file of weights and the library's version
            decide its features, so that a cache of it is found again without building it.
    """

    runs_network: bool
    usual_preprocess: str
    is_known_by_files: bool

    def owns(self, name: str) -> bool:
        """Tell whether a name is one of its own; no torch."""
        ...

    def names(self) -> Sequence[str]:
        """List the backbones that `featcache backbones` lists; no torch."""
        ...

    def check_weights(self, name: str, weights: str) -> None:
        """Refuse weights that a backbone does not have, and a path without a file; no torch.

        Raises:
            UnknownNameError: If the backbone has no weights of that name.
            UsageError: If it takes no weights at all.
            WeightsError: If there is no file at the path, or it is empty.
            UnsafeFileError: If something else than a file is there.
        """
        ...

    def check_size(self, name: str, weights: str, image_size: int | None) -> None:
        """Refuse an image size that is known not to fit, None being the usual one; no torch.

        Raises:
            UsageError: With a size that the backbone takes.
        """
        ...

    def usual_size(self, name: str) -> int:
        """Give the side of images that --image-size auto stands for, in pixels."""
        ...

    def describe(self, name: str, image_size: int) -> BackboneInfo:
        """Say what a backbone is and costs, without allocating or fetching its weights.

        Raises:
            UsageError: If the backbone does not take this image size.
        """
        ...

    def blank(self, name: str, image_size: int) -> nn.Module:
        """Build the network on the meta device, for any size that its kind takes.

        Raises:
            UsageError: If there is no network, or none for this size.
        """
        ...

    def build(
        self, name: str, *, weights: str, seed: int, image_size: int, check_file: bool
    ) -> LoadedBackbone:
        """Build a frozen backbone with its weights, on the CPU; `load_backbone` says how."""
        ...

    def weights(self, name: str) -> Sequence[Pretrained]:
        """List the published weights of a backbone, the default ones first."""
        ...

    def preprocess(self, name: str, weights: str, image_size: int) -> Preprocess:
        """Describe the transform that belongs to weights, scaled to another image size.

        Raises:
            UsageError: If the backbone has no weights.
            UnknownNameError: If it has none of that name.
        """
        ...
