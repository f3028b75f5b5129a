"""The keywords of a call as the specs that check them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from featcache.config import OF_THE_RECIPE

T = TypeVar("T")


def spec_of(spec: type[T], given: Mapping[str, Any], **instead: Any) -> T:
    """Build a spec from those keywords of a call that are its fields.

    Args:
        spec: A dataclass of `featcache.config`.
        given: The keywords by name; None of what a recipe decides leaves that at its default.
        instead: What a field is given in place of the keyword of its name.

    Raises:
        UsageError: Naming the first that is wrong.
    """
    values = {**given, **instead}
    names = [field.name for field in fields(spec)]  # type: ignore[arg-type]
    return spec(
        **{
            name: values[name]
            for name in names
            if name in values and not (name in OF_THE_RECIPE and values[name] is None)
        }
    )


def by_hand(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what was given of that which a recipe decides."""
    return {name: given[name] for name in OF_THE_RECIPE if given[name] is not None}
