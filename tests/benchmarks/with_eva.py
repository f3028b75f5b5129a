"""kaiko-eva's own way from images to features, timed; run by an interpreter that has eva, not ours.

    python with_eva.py BACKBONE FOLDER

FOLDER holds pixels.npy, (N, 32, 32, 3) uint8, and backbone.pt, the weights of torchvision's model.
Prints the seconds of one `trainer.predict` with eva's writer, after a short one to warm up, and
leaves FOLDER/rows.npy, (N, D). Loader and backbone are as a user of eva would write them: PIL and
torchvision's transforms in a Dataset, two loading processes, batches of 16.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
import torch
from eva.core import trainers
from eva.core.callbacks.writers.embeddings import ClassificationEmbeddingsWriter
from eva.core.data import dataloaders, datamodules, datasets
from eva.core.data.datamodules import schemas
from eva.core.models.modules import HeadModule
from PIL import Image
from torch import Tensor, nn
from torchvision import models, transforms


class _Images(datasets.MapDataset[tuple[Tensor, Tensor, dict[str, str]]]):
    def __init__(self, pixels: np.ndarray) -> None:
        super().__init__()
        self.pixels = pixels
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def filename(self, index: int) -> str:
        return f"{index:06d}.png"

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, dict[str, str]]:
        image = self.transform(Image.fromarray(self.pixels[index]))
        return image, torch.tensor(0), {}


def main(name: str, folder: Path) -> None:
    """Predict twice, and tell the seconds of the second time."""
    model = models.get_model(name, weights=None)
    model.load_state_dict(torch.load(folder / "trunk.pt", weights_only=True), strict=False)
    model.classifier = nn.Identity()
    pixels = np.load(folder / "pixels.npy")
    model.eval()
    _predict(model, pixels[:32], folder / "warm")
    started = time.perf_counter()
    _predict(model, pixels, folder / "eva")
    print(time.perf_counter() - started)
    with (folder / "eva" / "manifest.csv").open() as manifest:
        saved = [folder / "eva" / line["embeddings"] for line in csv.DictReader(manifest)]
    rows = [torch.load(path, weights_only=True) for path in sorted(saved)]
    np.save(folder / "rows.npy", torch.stack([r.reshape(-1) for [r] in rows]).numpy())


def _predict(model: nn.Module, pixels: np.ndarray, out: Path) -> None:
    loader = dataloaders.DataLoader(batch_size=16, num_workers=2, pin_memory=False)
    data = datamodules.DataModule(
        datasets=schemas.DatasetsSchema(predict=[_Images(pixels)]),
        dataloaders=schemas.DataloadersSchema(predict=loader),
    )
    trainer = trainers.Trainer(
        default_root_dir=str(out / "logs"),
        accelerator="cpu",
        logger=False,
        callbacks=[ClassificationEmbeddingsWriter(str(out), overwrite=True)],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    head = HeadModule(head=nn.Identity(), criterion=nn.CrossEntropyLoss(), backbone=model)
    trainer.predict(head, datamodule=data)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
