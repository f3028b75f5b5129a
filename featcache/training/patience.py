"""Early stopping: when the validation loss has not become better for too long.

Two callers ask it after each epoch: `trainer.StopEarly` for a head that is trained alone, and
`sweeps/entry.py` for each head of a sweep. `recipes` chooses how many epochs it waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Patience:
    """How long the validation loss has not become better.

    Attributes:
        epochs: Epochs without a better val_loss after which training stops; 0 never stops.
        min_delta: By how much val_loss must fall to count as better.
        waited_from: The val_loss that is to be beaten.
        n_waited: Epochs for which it was not.
    """

    epochs: int
    min_delta: float
    waited_from: float = math.inf
    n_waited: int = 0

    def after(self, val_loss: float) -> Patience:
        """Take the val_loss of one more epoch."""
        if val_loss + self.min_delta < self.waited_from:
            return replace(self, waited_from=val_loss, n_waited=0)
        return replace(self, n_waited=self.n_waited + 1)

    @property
    def is_over(self) -> bool:
        """Whether training stops now."""
        return 0 < self.epochs <= self.n_waited
