"""Files of a backbone's own weights.

`--weights random` draws a whole model: of VGG's 130 million numbers all but a tenth are its
classifier's, and take a second each time.
"""

from __future__ import annotations

from pathlib import Path

import torch

from featcache.backbones.torchvision_models import build_backbone


def save_weights(file: Path, backbone: str, *, image_size: int) -> Path:
    """Write weights that keep the spread of activations through a plain chain of convolutions."""
    module = build_backbone(backbone, image_size=image_size, meta=True)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in module.state_dict().items():
        n_inputs = tensor[0].numel() if tensor.dim() > 1 else 2
        state[name] = torch.randn(tensor.shape, generator=generator) * (2 / n_inputs) ** 0.5
    torch.save(state, file)
    return file
