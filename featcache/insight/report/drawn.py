"""How the intervals of a page are drawn: as asked, or as what is kept has them."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.config import EvaluateSpec


@dataclass(frozen=True)
class Drawn:
    """What is asked of intervals; what was not asked for is as kept figures have it.

    Attributes:
        draws: Bootstrap samples; None takes kept ones, or those of `EvaluateSpec`.
        seed: What seeds them, and chooses the images of the map; None likewise.
    """

    draws: int | None = None
    seed: int | None = None

    @property
    def spec(self) -> EvaluateSpec:
        """How figures are drawn that are not kept."""
        draws = EvaluateSpec.draws if self.draws is None else self.draws
        return EvaluateSpec(draws=draws, seed=EvaluateSpec.seed if self.seed is None else self.seed)

    def fits(self, draws: int | None, seed: int | None) -> bool:
        """Tell whether kept figures may be shown.

        Args:
            draws: How they were drawn; None if they do not say, as those of earlier versions.
            seed: Likewise.
        """
        return self.draws in (None, draws) and self.seed in (None, seed)
