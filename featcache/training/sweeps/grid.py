"""The settings of a grid, from the values that each option was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from featcache.config import NOTEBOOK_VALUES, OPTIONS_OF_REG, REGULARISATIONS, HeadSpec, TrainSpec
from featcache.core.arguments import (
    numbers,
    one_of,
    option_name,
    several,
    several_lists,
    whole_numbers,
)
from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError
from featcache.training.recipes import Setting


def axes_of(**asked: Any) -> dict[str, tuple[Any, ...]]:
    """Read what the axes of a grid were given; those that were not are left out.

    Raises:
        UsageError: Naming the first that is neither a value nor a sequence of values.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for name, value in asked.items():
        option = option_name(name)
        if value is None:
            continue
        if name == "hidden":
            axes[name] = several_lists(whole_numbers, option, value)
        elif name == "dropout":
            axes[name] = several_lists(numbers, option, value)
            if () in axes[name]:
                raise UsageError(f"{option} has a list without a probability. Leave it out.")
        else:
            axes[name] = numbers(option, value)
    return axes


def settings_of(
    base: TrainSpec,
    *,
    reg: Sequence[str] | str,
    shapes: Sequence[Sequence[int]],
    rates: Sequence[float],
    penalties: Mapping[str, Sequence[Any]],
    on_note: NoteCallback,
) -> list[Setting]:
    """List the settings of a grid: every head at every learning rate.

    Args:
        base: The training that they share.
        reg: Regularisations.
        shapes: Widths of the hidden layers.
        rates: Learning rates.
        penalties: Values of "l1", "weight_decay" and "dropout"; the notebook's where there are
            none.
        on_note: Told what is left out.

    Raises:
        UsageError: If none is left, or a value has no `reg` that uses it.
    """
    regs = several(lambda option, word: one_of(option, word, REGULARISATIONS), "--reg", reg)
    heads = list(_heads_of(regs, shapes, penalties, on_note=on_note))
    settings = [(head, replace(base, lr=rate)) for head, rate in product(heads, rates)]
    if not settings:
        axes = {"reg": regs, "hidden": shapes, "lr": rates, **penalties}
        empty = [option_name(name) for name, axis in axes.items() if not axis] or ["--reg"]
        raise UsageError(f"The grid has no setting: {' and '.join(empty)} gives none.")
    return settings


def _heads_of(
    regs: Iterable[str],
    shapes: Iterable[Sequence[int]],
    asked: Mapping[str, Sequence[Any]],
    *,
    on_note: NoteCallback,
) -> Iterable[HeadSpec]:
    """List the heads of a grid; a value applies to each `reg` that has a use for it."""
    used = set()
    for reg, shape in product(dict.fromkeys(regs), dict.fromkeys(map(tuple, shapes))):
        if reg == "dropout" and not shape:
            on_note(
                "a linear probe has no units to drop: --reg dropout is left out for --hidden ''"
            )
            continue
        axes: dict[str, Sequence[Any]] = {}
        for name in OPTIONS_OF_REG.get(reg, ()):
            used.add(name)
            axes[name] = asked.get(name, [NOTEBOOK_VALUES[name]])
        for values in product(*axes.values()):
            options = dict(zip(axes, values, strict=True))
            if "dropout" in options:
                options["dropout"] = _fitted(tuple(options["dropout"]), len(shape))
            yield HeadSpec(hidden=shape, reg=reg, **options)
    for name in asked:
        if name not in used:
            raise UsageError(
                f"{option_name(name)} does nothing with --reg {','.join(regs)}. Nothing was "
                f"started. Leave it out, or add a --reg that has it."
            )


def _fitted(probabilities: tuple[float, ...], n: int) -> tuple[float, ...]:
    return tuple(probabilities[min(i, len(probabilities) - 1)] for i in range(n))
