"""The history of a training: a row for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from featcache.core.from_file import from_file


@dataclass(frozen=True, eq=False, kw_only=True)
class EpochRow(Mapping[str, float]):
    """The figures of an epoch; also a mapping of those that there are, by name.

    Attributes:
        epoch: Its number, from 1.
        train_loss: Mean loss of its rows, each before its own step.
        val_loss: Mean cross-entropy of the validation rows; None if they were not looked at.
        val_acc: Share of them that are right; None likewise.
        step: Optimiser steps so far.

    Example:
        >>> row = EpochRow(epoch=1.0, train_loss=0.5, step=20.0)
        >>> row["train_loss"], "val_loss" in row
        (0.5, False)
    """

    epoch: float
    train_loss: float
    val_loss: float | None = None
    val_acc: float | None = None
    step: float

    def __getitem__(self, name: str) -> float:
        return self.to_json()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

    def to_json(self) -> dict[str, float]:
        """Give the figures that there are, in their order."""
        figures = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in figures.items() if value is not None}

    @classmethod
    def from_json(cls, said: Any) -> EpochRow:
        """Read a row.

        Raises:
            ValueError: Naming what is wrong.
        """
        return from_file(cls, said)


History = Sequence[EpochRow]


def history_from_json(said: Any) -> tuple[EpochRow, ...]:
    """Read the rows of a history.

    Raises:
        ValueError: Naming what is wrong.
    """
    if not isinstance(said, list | tuple):
        raise ValueError("the history is no list")
    return tuple(map(EpochRow.from_json, said))


def points_of(history: History, name: str) -> list[tuple[float, float]]:
    """List (epoch, figure) of the epochs that have a figure."""
    return [(row.epoch, row[name]) for row in history if name in row]
