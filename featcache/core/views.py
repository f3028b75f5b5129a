"""How many views of an image a cache holds, and how they are drawn; as its identity says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AUGMENTATIONS = ("flip", "crop")
VIEWS_OF = ("train", "all")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of a cache's images: the plain one first, then others that are drawn.

    Attributes:
        n: How many of each image; 1 is the plain one alone.
        augment: What makes the others, of `AUGMENTATIONS`.
        of: Which splits have them: "train", or "all".
        seed: Seeds what is drawn.
    """

    n: int = 1
    augment: tuple[str, ...] = AUGMENTATIONS
    of: str = "train"
    seed: int = 0

    @classmethod
    def from_json(cls, stored: Any) -> Views:
        """Read what an identity says.

        Raises:
            KeyError, TypeError, ValueError: If it is not what an identity says of views.
        """
        if not isinstance(stored, Mapping):
            raise TypeError(f"{stored!r} where views were expected")
        n, seed, of, augment = (stored[name] for name in ("n", "seed", "of", "augment"))
        is_good = (
            type(n) is int
            and type(seed) is int
            and seed >= 0
            and isinstance(augment, list | tuple)
            and all(isinstance(one, str) for one in augment)
        )
        if not is_good:
            raise TypeError(f"{stored!r} where views were expected")
        if n < 2 or of not in VIEWS_OF:
            raise ValueError(f"{n} views of {of!r}")
        return cls(n=n, augment=tuple(augment), of=of, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Give what an identity says; nothing where there is one view."""
        if self.n == 1:
            return {}
        said = {"n": self.n, "augment": list(self.augment), "of": self.of, "seed": self.seed}
        return {"views": said}

    def n_of(self, split: str) -> int:
        """Tell how many views the images of a split have."""
        return self.n if self.of in ("all", split) else 1

    def shape_of(self, split: str, one: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of a row of a split, whose views each have the shape `one`."""
        n = self.n_of(split)
        return one if n == 1 else (n, *one)

    @property
    def told(self) -> str:
        """Say it for people: "4 views of each training image (flip, crop)"."""
        whose = "training image" if self.of == "train" else "image"
        return f"{self.n} views of each {whose} ({', '.join(self.augment)})"
