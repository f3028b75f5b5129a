"""The training image that is nearest to each of some images."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from featcache.core.device import pick_device
from featcache.features.split import training_rows
from featcache.heads.trained_head import TrainedHead
from featcache.insight.nearest import RowSet, nearest_rows
from featcache.insight.report.cache_facts import CacheFacts, NearestImage


def nearest_images(
    facts: CacheFacts, head: TrainedHead, split: str, rows: Sequence[int], *, device: str
) -> list[NearestImage]:
    """Find for each row of a split the nearest of the images that trained a head.

    Args:
        facts: Of the cache; what is found is entered there.
        head: The head.
        split: The split of the rows; none of them trained the head.
        rows: The rows.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        CorruptError: If the cache is damaged.
    """
    train = head.train
    known = facts.nearest.setdefault(f"{train.val_fraction}/{train.split_seed}", {})
    missing = [row for row in rows if f"{split}:{row}" not in known]
    if missing:
        facts.about_to_compute()
        of_training, index, _, _ = training_rows(
            facts.cache,
            val_fraction=train.val_fraction,
            split_seed=train.split_seed,
            may_lack_validation=True,
        )
        where = torch.device(pick_device(device).value)
        asked = RowSet.of_rows(facts.cache, {split: torch.tensor(missing)}, device=where)
        references = RowSet.of_rows(facts.cache, {of_training: index.sort().values}, device=where)
        found = nearest_rows(asked, references, 1)
        for row, position, cosine in zip(
            missing, found.positions[:, 0].tolist(), found.cosines[:, 0].tolist(), strict=True
        ):
            name, place = references.place(position)
            known[f"{split}:{row}"] = NearestImage(name, place, round(cosine, 4))
    return [known[f"{split}:{row}"] for row in rows]
