"""The options of what looks into caches and heads."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.arguments import not_empty
from featcache.core.options import check_fields, option, options_in
from featcache.errors import UsageError

MOST_TRIES = 1000


@options_in("Probe")
@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """How a cache is probed."""

    max_rows: int | None = option(
        None,
        "Fit on at most this many training images, drawn evenly over their classes.",
        least=2,
        unset="as many as take seconds",
    )
    per_class: tuple[int, ...] | None = option(
        None,
        "Also show the accuracy with so few training images of each class, like 1,2,4,8,16.",
        least=1,
        unset="no such curve",
    )
    tries: int = option(5, "Draw those few images so many times.", least=1, most=MOST_TRIES)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.per_class is not None:
            if not self.per_class:
                raise UsageError("--per-class has no value. Give one, or leave it out.")
            object.__setattr__(self, "per_class", tuple(sorted(set(self.per_class))))


@options_in("Neighbours")
@dataclass(frozen=True, kw_only=True)
class SimilarSpec:
    """Which rows are looked for."""

    k: int = option(10, "How many of the nearest rows to tell.", least=1)
    split: str | None = option(None, "Look only through the rows of this split.", unset="all")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.split is not None:
            not_empty("--split", self.split)
