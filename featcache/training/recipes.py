"""What a training takes where nothing was given: the notebook's constants, or general ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from featcache.config import NOTEBOOK_SIZE, VAL_FRACTION, ExtractSpec, HeadSpec, TrainSpec
from featcache.core.arguments import option_name
from featcache.core.identity import canonical_json
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.errors import clipped
from featcache.store import Cache
from featcache.training.notebook_systems import DATASET, SYSTEMS, System

# The notebook's recipe has TrainSpec's own learning rate (1e-5, config/head_specs.py); no system
# changes it. Features of another scale, or a few hundred images, need more and larger steps than
# the notebook's 3,125 of 1e-5 (docs/guides/heads.md has the figures).
GENERAL = TrainSpec(lr=1e-3, max_epochs=100, patience=5, select="best")
# An epoch of fewer steps tells too little to lose patience over.
STEPS_TO_JUDGE_BY = 20

Setting = tuple[HeadSpec, TrainSpec]


@dataclass(frozen=True)
class Recipe:
    """Where the values come from that were not given by hand.

    Attributes:
        name: "notebook" or "general".
        why: The reason for it.
        n_steps: Steps in one epoch.
        systems: The notebook's systems whose constants these are; none in general.
    """

    name: str
    why: str
    n_steps: int
    systems: tuple[System, ...] = ()

    @property
    def recorded(self) -> str:
        """As a result records it."""
        return f"{self.name} ({self.why})"

    def completed(
        self, settings: Sequence[Setting], *, given: Collection[str], on_note: NoteCallback
    ) -> list[Setting]:
        """Put the recipe's values where nothing was given.

        Args:
            settings: Heads and trainings, with any value where nothing was given.
            given: Names of the fields that were given by hand.
            on_note: Told the values that are taken, with the reason.
        """
        wanted = {head.reg: self._values(head.reg, without=given) for head, _ in settings}
        texts: dict[str, list[str]] = {}
        for reg, values in wanted.items():
            texts.setdefault(self._typed(values), []).append(reg)
        for text, regs in texts.items():
            which = f" with --reg {','.join(regs)}" if len(texts) > 1 else ""
            if text:
                on_note(f"recipe {self.name}{which}, because {self.why}: {text}")
        completed = []
        for head, train in settings:
            pace = dict(wanted[head.reg])
            shape = {"hidden": pace.pop("hidden")} if "hidden" in pace else {}
            completed.append((replace(head, **shape), replace(train, **pace)))
        return completed

    def _values(self, reg: str, *, without: Collection[str]) -> dict[str, Any]:
        hidden, train, patience = HeadSpec.hidden, GENERAL, GENERAL.patience
        if self.systems:
            # vgg16's systems with l1 and l2 are as the notebook's with both: they never stop early.
            system = next((s for s in self.systems if s.head.reg == reg), self.systems[-1])
            hidden, train, patience = system.head.hidden, system.train, system.train.patience
        elif patience:
            patience *= math.ceil(STEPS_TO_JUDGE_BY / self.n_steps)
        values = {
            "hidden": hidden,
            "lr": train.lr,
            "max_epochs": train.max_epochs,
            "patience": patience,
            "select": train.select,
        }
        return {name: value for name, value in values.items() if name not in without}

    def _typed(self, values: dict[str, Any]) -> str:
        """Write values as they are typed."""
        words = []
        for name, value in values.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"{option_name(name)} {text}")
        if values.get("patience") not in (None, GENERAL.patience) and not self.systems:
            words.append(
                f"(patience is {GENERAL.patience} epochs of {STEPS_TO_JUDGE_BY} steps at least; "
                f"one of this cache has {self.n_steps})"
            )
        return " ".join(words)


def pick_recipe(recipe: str, cache: Cache, train: TrainSpec) -> Recipe:
    """Choose the recipe for a cache.

    Args:
        recipe: "auto" is the notebook's for the notebook's own data, preprocessing and backbones,
            with whatever weights and BatchNorm mode, and the general one for everything else.
        cache: The cache.
        train: The training; its batch size and its share for validation count.
    """
    backbone = cache.identity.backbone
    own = tuple(system for system in SYSTEMS if system.backbone == backbone)
    n_steps = _n_steps(cache, train)
    if recipe == "auto":
        other = _what_is_not_the_notebooks(cache, has_system=bool(own))
        if other:
            return Recipe("general", other, n_steps)
        why = f"the cache is of all of {DATASET}, prepared as in the notebook, through {backbone}"
        return Recipe("notebook", why, n_steps, own)
    if recipe == "general":
        return Recipe("general", "it was asked for", n_steps)
    usual = tuple(system for system in SYSTEMS if system.backbone == ExtractSpec.backbone)
    return Recipe("notebook", "it was asked for", n_steps, own or usual)


def _what_is_not_the_notebooks(cache: Cache, *, has_system: bool) -> str:
    """Say in what a cache is not one of the notebook's; empty if it is one."""
    dataset, limit = cache.provenance.dataset, cache.provenance.limit
    if dataset.lower() not in (DATASET, f"torchvision:{DATASET}"):
        return f"the cache is of {clipped(dataset)}, not of the notebook's {DATASET}"
    if limit is not None:
        return f"the cache holds {limit} images of each split, and the notebook's data is all"
    if not has_system:
        backbone = clipped(cache.identity.backbone)
        return f"the notebook has no system with the backbone {backbone}"
    if "pool" in cache.identity:
        return f"the cache is of another layer ({clipped(str(cache.identity['layer']))})"
    if cache.identity.views.n > 1:
        return f"the cache has {cache.identity.views.n} views of each image, the notebook has one"
    notebooks = asdict(Preprocess.notebook(NOTEBOOK_SIZE))
    if canonical_json(cache.identity.get("preprocess")) != canonical_json(notebooks):
        return "the cache's images were prepared otherwise than the notebook's"
    return ""


def _n_steps(cache: Cache, train: TrainSpec) -> int:
    """Count the steps of an epoch; those of a divided split up to the luck of the division."""
    if "train" not in cache.splits:
        return 1  # it is refused later, with what there is
    n_rows = int(cache["train"].valid.sum())
    if "val" not in cache.splits:
        share = VAL_FRACTION if train.val_fraction is None else train.val_fraction
        n_rows -= math.floor(n_rows * share)
    return max(1, math.ceil(n_rows / train.batch_size))
