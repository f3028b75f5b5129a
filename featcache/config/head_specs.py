"""The options of a head and of its training, each with default and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.config.specs import MOST_ROWS
from featcache.core.arguments import (
    is_several,
    option_name,
    require_above_zero,
    require_at_least,
    typed,
)
from featcache.core.options import check_fields, option, options_in
from featcache.errors import UsageError, counted

REGULARISATIONS = ("none", "l1", "l2", "l1l2", "dropout")
CLASS_WEIGHTS = ("none", "balanced")
MOST_LAYERS = 64
VAL_FRACTION = 0.2  # of the training rows, where neither a share nor a split "val" is given

# The options that each regularisation has, and the notebook's values of them.
OPTIONS_OF_REG: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "l1": ("l1",),
    "l2": ("weight_decay",),
    "l1l2": ("l1", "weight_decay"),
    "dropout": ("dropout",),
}
NOTEBOOK_VALUES: Mapping[str, Any] = {"l1": 1e-5, "weight_decay": 1e-4, "dropout": (0.5, 0.3)}
# What a recipe decides where it is not given.
OF_THE_RECIPE = ("hidden", "lr", "max_epochs", "patience", "select")
_LATER = ("class_weight", "label_smoothing")  # options of a training that 0.1 did not have


def _regs_with(name: str) -> str:
    """Name the regularisations that an option belongs to."""
    return " or ".join(reg for reg, names in OPTIONS_OF_REG.items() if name in names)


def _notebooks(name: str) -> str:
    """Write the notebook's value of an option."""
    return f"{typed(NOTEBOOK_VALUES[name])} with reg {_regs_with(name)}"


@options_in("Head")
@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The shape of a head and its regularisation; None stands for the notebook's value."""

    hidden: tuple[int, ...] = option(
        (50, 20),
        "Widths of the hidden layers, each followed by ReLU. Empty ('') is a linear probe.",
        least=1,
    )
    reg: str = option("none", "Regularisation.", choices=REGULARISATIONS)
    l1: float | None = option(
        None,
        "Factor of the L1 penalty in the loss: the sum of |p| over weights and biases.",
        unset=_notebooks("l1"),
    )
    weight_decay: float | None = option(
        None, "Adam's (coupled) L2 factor.", unset=_notebooks("weight_decay")
    )
    dropout: tuple[float, ...] | None = option(
        None,
        "Probability after each hidden layer.",
        unset=_notebooks("dropout"),
    )

    def __post_init__(self) -> None:
        is_one = self.dropout is not None and not is_several(self.dropout)
        check_fields(self)
        if len(self.hidden) > MOST_LAYERS:
            raise UsageError(
                f"--hidden has {len(self.hidden)} layers, but must have at most {MOST_LAYERS}."
            )
        if is_one and self.dropout and self.reg == "dropout":
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden))
        self._settle("l1", off=0.0)
        self._settle("weight_decay", off=0.0)
        self._settle("dropout", off=())
        of_reg = OPTIONS_OF_REG[self.reg]
        require_above_zero("--l1", self.l1, or_zero="l1" not in of_reg)
        require_above_zero(
            "--weight-decay", self.weight_decay, or_zero="weight_decay" not in of_reg
        )
        self._check_dropout()

    def _settle(self, name: str, *, off: Any) -> None:
        """Put the notebook's value where none was given; refuse one that `reg` has no use for."""
        value = getattr(self, name)
        if name in OPTIONS_OF_REG[self.reg]:
            object.__setattr__(self, name, NOTEBOOK_VALUES[name] if value is None else value)
        elif value is None or value == off:
            object.__setattr__(self, name, off)
        else:
            raise UsageError(
                f"{option_name(name)} {typed(value)} does nothing with --reg {self.reg}. "
                f"Nothing was started. Use --reg {_regs_with(name)}, or leave it out."
            )

    def _check_dropout(self) -> None:
        if self.reg != "dropout":
            return
        assert self.dropout is not None, "settled before"
        if not self.hidden:
            raise UsageError(
                "--reg dropout zeroes hidden units, but a linear probe (--hidden '') has none. "
                "Nothing was started. Use another --reg, or --hidden."
            )
        if len(self.dropout) != len(self.hidden):
            raise UsageError(
                f"--dropout has {counted(len(self.dropout), 'probability')} "
                f"({typed(self.dropout)}), but --hidden has {counted(len(self.hidden), 'layer')} "
                f"({typed(self.hidden)}); expected one for each hidden layer."
            )
        for p in self.dropout:
            if not 0 <= p < 1:
                raise UsageError(f"--dropout has {p:g}, but must be at least 0 and below 1.")


@options_in("Training")
@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a head is trained; the defaults are the notebook's VGG16 systems."""

    # Without --lr, `train-head` takes this in the notebook's recipe and 1e-3 in the general one
    # (GENERAL in training/recipes.py). `parity` has a default of its own: 1e-3 (config/calls.py).
    lr: float = option(1e-5, "Learning rate of Adam.")
    batch_size: int = option(
        64, "Rows in one step; the last batch of an epoch may be smaller.", least=1, most=MOST_ROWS
    )
    max_epochs: int = option(5, "Train for at most this many epochs.", least=1)
    patience: int | None = option(
        None,
        "Stop after this many epochs without a better val_loss; 0 is never.",
        least=0,
        unset="the recipe's",
    )
    min_delta: float = option(0.001, "By how much val_loss must fall to count as better.")
    val_fraction: float | None = option(
        None,
        "Share of the training rows kept for validation. 0 is for solvers that choose nothing.",
        unset=f"{VAL_FRACTION}, or split val",
        group="Validation",
    )
    split_seed: int = option(
        42, "Seed of the choice of the validation rows.", least=0, group="Validation"
    )
    select: str = option(
        "last",
        "Keep the weights of the last epoch, or of the best by val_loss.",
        choices=("last", "best"),
    )
    class_weight: str = option(
        "none",
        "Weight of each class in the training loss: balanced gives all classes the same weight in "
        "sum, none gives each image the same.",
        choices=CLASS_WEIGHTS,
    )
    label_smoothing: float = option(
        0.0, "Share of each label that the training loss spreads evenly over all classes."
    )
    seed: int = option(0, "Seed of the initial weights, the order of batches and dropout.", least=0)
    order_seed: int | None = option(
        None,
        "Seed of the order of batches. Set it to train one head of a sweep again.",
        least=0,
        unset="the seed",
    )
    window_rows: int | None = None  # rows in memory, shuffled among themselves; from max_memory

    def __post_init__(self) -> None:
        check_fields(self)
        if self.order_seed == self.seed:
            object.__setattr__(self, "order_seed", None)  # the default; keep it out of the identity
        require_above_zero("--lr", self.lr)
        require_above_zero("--min-delta", self.min_delta, or_zero=True)
        require_at_least("window_rows", self.window_rows, 1)
        if self.val_fraction is not None and not 0 <= self.val_fraction < 1:
            raise UsageError(
                f"--val-fraction is {self.val_fraction:g}, but must be at least 0 and below 1."
            )
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"--label-smoothing is {self.label_smoothing:g}, but must be at least 0 and below "
                f"1."
            )

    @property
    def seed_of_order(self) -> int:
        """What seeds the order of batches."""
        return self.seed if self.order_seed is None else self.order_seed

    def to_json(self) -> dict[str, Any]:
        """Give what a head says of its training; a later option only if it is not at its default.

        So that a head trained as before says, and is called, what it was before.
        """
        said = asdict(self)
        for name in _LATER:
            if said[name] == getattr(TrainSpec, name):
                del said[name]
        return said
