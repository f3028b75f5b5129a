"""How far a run is, as its caller is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "digest" (reading the dataset for its identity), "weights" (reading them), "probe"
            (how many images fit into memory), "engines" (compiling the backbone), "check" (the
            rows of a partial file), "adapt" (BatchNorm statistics) or "extract".
        split: The split at hand; empty before there is one.
        n_done: Images done in this stage and split, rows kept from before included; on a GPU those
            in flight are counted too.
        n_total: Images of this stage and split; 0 where nothing can be counted.
        images_per_s: Rate of this run so far.
        left_s: Seconds left for all splits, at that rate.
        seconds: Time of this run so far, by "read", "preprocess", "trunk", "check" and "write"
            (only what the backbone waited for the writer).
    """

    stage: str
    split: str
    n_done: int
    n_total: int
    images_per_s: float = 0.0
    left_s: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]
