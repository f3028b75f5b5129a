"""BatchNorm statistics: re-estimated on the training images, kept, put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache.errors import UsageError, WeightsError

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def has_batch_norm(module: nn.Module) -> bool:
    """Tell whether `module` keeps running statistics anywhere."""
    return bool(_layers(module))


def require_batch_norm(module: nn.Module, *, backbone: str) -> None:
    """Refuse to adapt a backbone that has no BatchNorm.

    Raises:
        UsageError: If there is none.
    """
    if not has_batch_norm(module):
        raise UsageError(
            f"--bn adapted re-estimates BatchNorm statistics, but {backbone} has no BatchNorm "
            f"layer. Nothing was started. Use --bn frozen: for {backbone} it is the same function."
        )


def adapt_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate all running statistics in one pass as the average over the batches.

    Each batch counts alike (torch's cumulative average, `momentum=None`), so give batches of one
    size. BatchNorm normalises by the batch during the pass, as in training, and everything else
    (dropout, stochastic depth) stays in evaluation mode. Parameters do not change. If anything
    fails on the way, the old statistics are put back.

    Args:
        module: In evaluation mode, on the device of the batches.
        batches: (B, C, H, W) each, preprocessed like the images of the extraction.

    Raises:
        UsageError: If there are no batches, or one has too few images for a variance.
    """
    layers = _layers(module)
    before = batch_norm_statistics(module)
    momenta = {name: layer.momentum for name, layer in layers.items()}
    n_batches = 0
    done = False
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for batch in batches:
                _forward(module, batch)
                n_batches += 1
        if not n_batches:
            raise UsageError("--bn adapted needs training images, but there are none.")
        done = True
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
            layer.eval()
        if not done:
            load_batch_norm_statistics(module, before)


def batch_norm_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Copy all running statistics to the CPU, named as in the state dict."""
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().cpu().clone()
        for name, layer in _layers(module).items()
        for kind in _STATISTICS
    }


def load_batch_norm_statistics(module: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Put statistics from `batch_norm_statistics` back, in place.

    Raises:
        WeightsError: If names or shapes are not this module's; then nothing was changed.
    """
    own = {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in _layers(module).items()
        for kind in _STATISTICS
    }
    wrong = sorted(own.keys() ^ statistics.keys())
    wrong += [n for n in own.keys() & statistics.keys() if own[n].shape != statistics[n].shape]
    if wrong:
        raise WeightsError(
            f"BatchNorm statistics do not fit this backbone: {len(wrong)} missing, surplus or of "
            f"another shape ({', '.join(wrong[:5])}). Nothing was changed. Extract the cache again."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(statistics[name])


def _layers(module: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    }


def _forward(module: nn.Module, batch: Tensor) -> None:
    try:
        module(batch)
    except ValueError as err:
        if "more than 1 value per channel" not in str(err):
            raise
        raise UsageError(
            f"--bn adapted met a batch of shape {tuple(batch.shape)}, too few images to estimate "
            f"a variance. The statistics are as before. Use larger batches, or --bn frozen."
        ) from err
