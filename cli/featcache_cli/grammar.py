"""How a command line is read: options in named groups, and one style for what is wrong with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from featcache.errors import UsageError
from featcache_cli.console import speak
from featcache_cli.helpgroups import OUTPUT, heading_of

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _manners(
    quiet: Annotated[
        bool,
        typer.Option(
            "-q",
            "--quiet",
            help="Show only results and errors.",
            rich_help_panel=OUTPUT,
            callback=lambda wanted: speak("quietly") if wanted else None,
            expose_value=False,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            help="Show the time of each line, and the traceback of an error.",
            rich_help_panel=OUTPUT,
            callback=lambda wanted: speak("fully") if wanted else None,
            expose_value=False,
        ),
    ] = False,
) -> None:
    pass


_app_of_manners = typer.Typer(add_completion=False, rich_markup_mode=None)
_app_of_manners.command()(_manners)
_MANNERS = typer.main.get_command(_app_of_manners).params[:2]  # -q and -v, for every command


class _WithManners:
    """What commands and groups share: -q and -v, and a help that shows options in groups."""

    name: str | None

    def get_params(self, ctx: Any) -> list[Any]:
        """List the parameters, with -q, -v and --help."""
        params = super().get_params(ctx)  # type: ignore[misc]  # Typer's, which stands behind
        own = [param for param in params if param.name != "help"]
        return [*own, *_MANNERS, *(param for param in params if param.name == "help")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, in their groups."""
        _write_groups(self.get_params(ctx), ctx, formatter)


class Command(_WithManners, TyperCommand):
    """A command whose help shows its options in groups."""

    allow_extra_args = True  # so that `parse_args` says what is wrong with them

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; one that stands alone is told the option that it may belong to."""
        typed = [*args]  # Typer empties the list
        try:
            rest = super().parse_args(ctx, args)
        except typer.TyperException as err:
            named = getattr(err, "option_name", "")
            if (argument := self._argument_of(named)) is None:
                raise
            raise UsageError(
                f"{ctx.command_path} takes the {argument} as an argument: {ctx.command_path} "
                f"{shlex.quote(_value_of(named, typed) or argument.upper())}"
            ) from err
        if rest and not ctx.resilient_parsing:
            raise UsageError(
                f"{ctx.command_path} has no use for {rest[0]!r}.{_meant(self, rest[0])}"
            )
        return rest

    def _argument_of(self, option: str) -> str | None:
        """Find the argument that is named like an option: what is an option of other commands."""
        word = option.lstrip("-")
        names = {param.name for param in self.params if param.param_type_name == "argument"}
        return word if {word, f"{word}s"} & names else None


class Group(_WithManners, TyperGroup):
    """Commands under one name; alone, it is answered with its help."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command by its name, in any case."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, cmd_name.lower())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; none are a wish for help."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands first, which are what is looked for."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


def _value_of(option: str, typed: Sequence[str]) -> str | None:
    """Find what was typed for an option."""
    for i, word in enumerate(typed):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and i + 1 < len(typed):
            return typed[i + 1]
    return None


def problem_of(err: typer.TyperException) -> str:
    """Say what is wrong with a command line as the library's own errors do."""
    param, failures = getattr(err, "param", None), getattr(err.__cause__, "errors", None)
    if param is not None and failures is not None:  # pydantic's, by which Typer converts
        first = failures()[0]
        kind = _KINDS.get(first["type"].partition("_")[0])
        if kind is not None:
            name = max(param.opts, key=len)
            return f"{name} is {first['input']!r}, but must be {kind}."
    near = {name for name in getattr(err, "possibilities", None) or () if name != "--help"}
    if near:
        return f"{err.message}. Did you mean {' or '.join(sorted(near))}?"
    message = err.message if hasattr(err, "possibilities") else err.format_message()
    return message if message.endswith((".", "?")) else f"{message}."


def group_of(param: Any) -> str | None:
    """Name the group that an option was declared in; --help, which Typer makes, is Output's."""
    declared: str | None = getattr(param, "rich_help_panel", None)
    return OUTPUT if param.name == "help" else declared


def headings(params: Sequence[Any]) -> dict[str, list[Any]]:
    """Sort options under the headings of their groups, the common ones last."""
    groups: dict[str | None, list[Any]] = {}
    for param in params:
        groups.setdefault(group_of(param), []).append(param)
    if OUTPUT in groups:
        groups[OUTPUT] = groups.pop(OUTPUT)
    found: dict[str, list[Any]] = {}
    for group, members in groups.items():
        heading = heading_of(group, {name for param in members for name in param.opts})
        found.setdefault(heading, []).extend(members)
    return found


def _write_groups(params: Sequence[Any], ctx: Any, formatter: Any) -> None:
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name != "argument"]
    for heading, members in {"Arguments": arguments, **headings(options)}.items():
        records = [record for param in members if (record := param.get_help_record(ctx))]
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


def _meant(command: Any, word: str) -> str:
    """Guess the option that a stray word belongs to, by the values that it takes."""
    from featcache.core.backbone_names import backbone_names
    from featcache.core.dataset_names import name_of_path
    from featcache.images.datasets import list_datasets

    options = {name for param in command.params for name in param.opts}
    guesses: list[tuple[str, str]] = []
    if word.endswith(".h5"):
        guesses.append(("--cache", word))
    if word.lower() in (info.name.lower() for info in list_datasets()):
        guesses.append(("--dataset", word))
    if word.lower() in backbone_names():
        guesses.append(("--backbone", word))
    if path_meant := name_of_path(word):
        guesses.append(("--dataset", path_meant))
    fitting = next((guess for guess in guesses if guess[0] in options), None)
    return "" if fitting is None else f" Did you mean {shlex.join(fitting)}?"
