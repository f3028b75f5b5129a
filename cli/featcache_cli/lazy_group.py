"""A group that imports a command when it is asked for: a help of all needs none of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import typer

from featcache_cli.grammar import Command, Group


class LazyGroup(Group):
    """Commands that are imported and built when they are asked for.

    Attributes:
        table: Where each command is below `featcache_cli.commands`, as "module:name" of a function
            or of a group, and the first sentence of its help; in the order of the help.
    """

    table: ClassVar[Mapping[str, tuple[str, str]]]

    def __init__(self, *, commands: Mapping[str, Any], **rest: Any) -> None:
        """Take what Typer gives a group, and commands that are made already."""
        super().__init__(**rest)
        places = {name: place for name, (place, _) in self.table.items()}
        self.commands: Any = _Commands(places, commands)  # it is only read

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in self.table.items()])


class _Commands(Mapping[str, Any]):
    """Commands by name, each built when it is read."""

    def __init__(self, places: Mapping[str, str], made: Mapping[str, Any]) -> None:
        self._places, self._made = places, dict(made)

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _built(name, self._places[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._places, **self._made})

    def __len__(self) -> int:
        return len({**self._places, **self._made})


def _built(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(f"featcache_cli.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command)(found)
    return typer.main.get_command(alone)
