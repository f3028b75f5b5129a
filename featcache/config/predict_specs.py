"""The options of an answer for new images."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.options import check_fields, option, options_in
from featcache.errors import UsageError


@options_in("Prediction")
@dataclass(frozen=True, kw_only=True)
class PredictSpec:
    """What is told of each image."""

    run: tuple[str, ...] = option(
        (), "A run's folder, or part of its name; without it the run that eval takes."
    )
    top: int = option(5, "Tell this many of the most probable classes.", least=1)
    below: float | None = option(
        None,
        "Tell only images whose highest probability is below this, for a look by hand.",
        unset="all",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.below is not None and not 0 < self.below <= 1:
            raise UsageError(
                f"--below is {self.below:g}, but must be above 0 and at most 1. Nothing was "
                f"started."
            )
