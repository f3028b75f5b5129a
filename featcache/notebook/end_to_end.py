"""The other side of parity: the notebook's way, written apart from the fast path.

PIL transforms per image, a DataLoader, the whole model as torchvision or timm builds it with its
classifier replaced, plain Lightning with plain Adam. Nothing of pixels, forward, features or
headmodule is used; what is shared is the reading of image files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms
from torchvision.transforms.functional import hflip, resized_crop

from featcache.config import HeadSpec
from featcache.core.backbone_kinds import is_timm, timm_name
from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError
from featcache.images.augment import SplitViews
from featcache.images.splits import ArrayImages, Split
from featcache.notebook.classifiers import known_classifier


class ImageRows(Dataset[tuple[Tensor, int]]):
    """Rows of a split, each image through torchvision's PIL transforms when it is asked for."""

    def __init__(
        self,
        split: Split,
        places: Sequence[int],
        preprocess: Preprocess,
        views: SplitViews | None = None,
    ) -> None:
        """Take what is wanted, in its order.

        Args:
            split: The images.
            places: Numbers of rows; of several views, view v of row i is i * n + v.
            preprocess: How a plain image is prepared.
            views: The views of the images; None is the plain one alone.
        """
        self.split = split
        self.places = places
        self.preprocess = preprocess
        self.views = views
        steps: list[Any] = [transforms.Resize(preprocess.resize, _mode(preprocess))]
        if preprocess.crop is not None:
            steps.append(transforms.CenterCrop(preprocess.crop))
        self.resize = transforms.Compose(steps)
        normalize = transforms.Normalize(preprocess.mean, preprocess.std)
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        row, number = divmod(self.places[i], 1 if self.views is None else self.views.n)
        images = self.split.images
        if isinstance(images, ArrayImages):
            image = Image.fromarray(images.pixels[row])
        else:
            image = images.decode(row)
        labels = self.split.labels
        prepared = self.transform(self._prepared(image, row, number))
        return prepared, 0 if labels is None else int(labels[row])

    def _prepared(self, image: Image.Image, row: int, number: int) -> Image.Image:
        """Resize an image as the plain view is, or cut and mirror it as another is drawn."""
        if self.views is None or not number:
            plain: Image.Image = self.resize(image)
            return plain
        view = self.views.view(row, number, image.size)
        if view.box is None:
            image = self.resize(image)
        else:
            left, top, right, bottom = view.box
            size, mode = list(self.preprocess.out_size), _mode(self.preprocess)
            image = resized_crop(image, top, left, bottom - top, right - left, size, mode)
        mirrored: Image.Image = hflip(image) if view.is_mirrored else image
        return mirrored


class WholeModel(pl.LightningModule):
    """The notebook's module: a frozen torchvision backbone with a head, end to end."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        spec: HeadSpec,
        *,
        lr: float,
        backbone_trains: bool = False,
    ) -> None:
        """Take a model from `whole_model`, and the head that is in it.

        Args:
            model: (B, 3, h, w) -> (B, K).
            head: Its last part, which alone has gradients.
            spec: The regularisation.
            lr: Learning rate of Adam.
            backbone_trains: Leave the backbone in training mode, as the notebook does: BatchNorm
                normalises by the batch, and its running statistics drift.
        """
        super().__init__()
        self.model = model
        self.head = head
        self.spec = spec
        self.lr = lr
        self.backbone_trains = backbone_trains
        self.losses: list[Tensor] = []

    def train(self, mode: bool = True) -> WholeModel:
        """Switch the head, and the backbone only where it trains."""
        super().train(mode)
        if not self.backbone_trains:
            self.model.eval()
            self.head.train(mode)
        return self

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the notebook's loss, without the constant of the backbone's own L1 norm."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.model(images), labels)
        if self.spec.l1:
            loss = loss + self.spec.l1 * sum(torch.norm(p, 1) for p in self.head.parameters())
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the notebook's Adam."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=self.lr, weight_decay=self.spec.weight_decay or 0.0)

    @torch.no_grad()
    def logits(self, rows: ImageRows, batch_size: int) -> Tensor:
        """Compute (N, K) logits of images, in evaluation mode."""
        self.eval()
        parts = [
            self.model(images.to(self.device)).cpu() for images, _ in DataLoader(rows, batch_size)
        ]
        return torch.cat(parts)


def whole_model(
    name: str, backbone: Mapping[str, Tensor], head: nn.Module, *, fixed_size: int | None = None
) -> nn.Module:
    """Build a model of torchvision or timm with a backbone's weights and another classifier.

    Args:
        name: The model, as in `vgg16` or `timm:efficientnet_lite0`.
        backbone: The state dict of all but its classifier.
        head: Goes where the classifier was; (B, D) -> (B, K).
        fixed_size: Pixels of a model of timm's that is built for one size, where that is not the
            size of its weights.

    Raises:
        UsageError: If the model's classifier is not one module behind its features.
    """
    model, part = _timm(name, fixed_size) if is_timm(name) else _torchvision(name)
    model.set_submodule(part, nn.Identity())
    model.load_state_dict(dict(copy.deepcopy(backbone)), strict=True, assign=True)
    model.requires_grad_(False)
    model.set_submodule(part, head)
    return model.eval()


def _torchvision(name: str) -> tuple[nn.Module, str]:
    """Build a model whose weights will be replaced, and name its classifier."""
    part = known_classifier(name)
    with torch.device("meta"):  # no time for initial weights that are replaced at once
        return models.get_model(name, weights=None), part


def _timm(name: str, fixed_size: int | None) -> tuple[nn.Module, str]:
    """Build a model whose weights will be replaced, and name its classifier."""
    from timm import create_model

    sizes = {} if fixed_size is None else {"img_size": fixed_size}
    # Not on the meta device: timm keeps some buffers out of the state dict.
    model: Any = create_model(timm_name(name).rest, num_classes=1, **sizes)
    part = model.pretrained_cfg["classifier"]
    if not isinstance(part, str):
        raise UsageError(
            f"{name} has several classifiers ({', '.join(part)}), and parity replaces one. Nothing "
            f"was compared."
        )
    return model, part


def _mode(preprocess: Preprocess) -> transforms.InterpolationMode:
    return transforms.InterpolationMode(preprocess.interpolation)
