"""The heads of a grid, from the values that each option was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from featcache.config import NOTEBOOK_VALUES, OPTIONS_OF_REG, HeadSpec
from featcache.core.arguments import numbers, option_name, several_lists, whole_numbers
from featcache.core.reporting import NoteCallback
from featcache.errors import UsageError


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


def heads_of(
    regs: Iterable[str],
    shapes: Iterable[Sequence[int]],
    asked: Mapping[str, Sequence[Any]],
    *,
    on_note: NoteCallback,
) -> Iterable[HeadSpec]:
    """List the heads of a grid; a value applies to each `reg` that has a use for it.

    Args:
        regs: Regularisations.
        shapes: Widths of the hidden layers.
        asked: Values of "l1", "weight_decay" and "dropout"; the notebook's where there are none.
        on_note: Told what is left out.

    Raises:
        UsageError: If a value has no `reg` that uses it.
    """
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
