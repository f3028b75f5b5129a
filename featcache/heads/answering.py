"""A head that answers for rows of its cache: its layers, or the neighbours that its cache holds."""

from __future__ import annotations

import torch
from torch import nn

from featcache.features.batches import OrderedBatches
from featcache.features.residence import pick_residence
from featcache.features.resident import load_where_it_fits
from featcache.features.split import training_rows
from featcache.heads.neighbours import Neighbours
from featcache.heads.trained_head import TrainedHead
from featcache.store import Cache


def answering_module(head: TrainedHead, cache: Cache, *, device: torch.device) -> nn.Module:
    """Build what gives (B, K) logits for (B, D) features, on a device.

    Args:
        head: The head.
        cache: Of the features that it was trained on; the rows of a kNN head are read from it.
        device: Where.
    """
    if head.has_layers:
        return head.module().to(device)
    split, index, _, _ = training_rows(
        cache,
        val_fraction=head.train.val_fraction,
        split_seed=head.train.split_seed,
        may_lack_validation=True,
    )
    residence = pick_residence(cache, device=device)
    rows, _ = load_where_it_fits(cache, split, device=device, residence=residence)
    treatment = head.treatment().to(device)
    batches = OrderedBatches(rows, index.sort().values)
    temperature = head.solver.temperature
    assert temperature is not None, "settled before"
    return Neighbours(
        treatment,
        lambda: ((treatment(features), labels) for features, labels in batches),
        k=int(head.found["k"]),
        temperature=temperature,
        n_classes=len(head.class_names),
    )
