"""The options of a spec of the library, as a command takes them; those of many commands by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from featcache.config import OF_THE_RECIPE, SPLITS, ExtractSpec, RunSpec
from featcache.core.arguments import option_name
from featcache.core.options import AUTO, PATHS, declared, group_of
from featcache_cli import completion as complete
from featcache_cli import typed as read
from featcache_cli.helpgroups import OUTPUT

Reader = Callable[[str, Any], Any]

# How each type of field is typed, and read where Typer does not read it itself.
_KINDS: Mapping[str, tuple[type, Reader | None]] = {
    "str": (str, None),
    "int": (int, None),
    "float": (float, None),
    "bool": (bool, None),
    "tuple[int, ...]": (str, read.whole_numbers),
    "tuple[float, ...]": (str, read.numbers),
    "tuple[str, ...]": (list[str], None),
    "Mapping[str, str]": (list[str], read.pairs),
}
_OF_SEVERAL: Mapping[type, Reader] = {str: read.words, float: read.numbers}
_COMPLETED: Mapping[str, Callable[..., list[str]]] = {
    "dataset": complete.datasets,
    "backbone": complete.backbones,
    "weights": complete.weights,
    "cache": complete.caches,
    "device": complete.one_of("auto", "cpu", "cuda"),
    "split": complete.one_of(*SPLITS),
}
_METAVARS = {"backbone_for": "NAME=BACKBONE"}


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        name: Of the keyword that it is in the library.
        kind: Type of what is typed: text, a number, a flag, or a list where it may be repeated.
        default: What the library takes where nothing is typed.
        help: What it means.
        group: Of options in the help.
        unset: What a default of None stands for.
        choices: Values to offer.
        reads: Reads what was typed; None where Typer does.
        in_store: Whether a path may be a URL of an object store.
    """

    name: str
    kind: type
    default: Any
    help: str
    group: str
    unset: str = ""
    choices: tuple[str, ...] = ()
    reads: Reader | None = None
    in_store: bool = False

    @property
    def typed_default(self) -> Any:
        """The default as it is typed."""
        if self.default is None:
            return AUTO if self.unset == AUTO else None
        if self.kind == list[str]:
            return [*map(str, self.default)] or None
        return ",".join(map(str, self.default)) if self.is_text_of_several else self.default

    @property
    def is_text_of_several(self) -> bool:
        """Whether several values are typed as one text."""
        return self.kind is str and isinstance(self.default, tuple)

    def value(self, typed: Any) -> Any:
        """Read what was typed, as the library takes it."""
        if typed is None or typed == [] or typed == self.typed_default == AUTO:
            return self.default
        return typed if self.reads is None else self.reads(option_name(self.name), typed)

    def info(self) -> Any:
        """Describe it to Typer."""
        told = self.default is None and self.unset not in ("", AUTO)
        shown = f"{self.help}  [default: {self.unset}]" if told else self.help
        named = [option_name(self.name)] if self.kind is bool and not self.default else []
        if len(self.name) == 1:  # a letter is usually typed behind one dash
            named = [option_name(self.name), f"-{self.name}"]
        offered = _COMPLETED.get(self.name)
        check_path = read.place_or_url if self.in_store else read.local_path
        return typer.Option(
            *named,
            help=shown,
            rich_help_panel=self.group,
            metavar=_METAVARS.get(self.name),
            callback=check_path if self.name in PATHS else None,
            autocompletion=complete.one_of(*self.choices) if self.choices else offered,
        )

    def parameter(self) -> inspect.Parameter:
        """Write it as a parameter of a command."""
        kind: Any = self.kind if self.typed_default is not None else self.kind | None
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.typed_default,
            annotation=Annotated[kind, self.info()],
        )


def options_of(
    spec: type,
    *names: str,
    without: Collection[str] = (),
    optional: bool = False,
    unset: str = "",
    help: Mapping[str, str] | None = None,
    group: str = "",
) -> tuple[Option, ...]:
    """Build the options of a spec.

    Args:
        spec: A dataclass of featcache.config.
        names: Which fields, in this order; all of them where none is named.
        without: All but these.
        optional: Tell the library None where nothing is typed, and show the default nevertheless.
        unset: What to show then instead.
        help: Other texts than the spec's, where an option means less in this command.
        group: Another group of the help than the spec's.
    """
    fields = declared(spec)
    options = []
    for name in names or [name for name in fields if name not in without]:
        said, default = fields[name].metadata, fields[name].default
        text = (help or {}).get(name, said["help"])
        kind, reads = _KINDS[str(fields[name].type).partition(" | ")[0]]
        if said["unit"] == "bytes":
            kind, reads, text = str, read.n_bytes, f"{text} Such as 8GB."
        if said["unset"] == AUTO:
            kind, reads = str, read.number_or_auto
        if said["words"]:
            reads = _or_word(said["words"], reads)
        option = Option(
            name=name,
            kind=kind,
            default=default,
            help=f"{text} The option may be repeated." if kind == list[str] else text,
            group=group or group_of(spec, name),
            unset=said["unset"],
            choices=said["choices"],
            reads=reads,
        )
        if optional:
            option = replace(option, default=None, unset=unset or option.unset or str(default))
        options.append(option)
    return tuple(options)


def _or_word(words: Mapping[str, Any], reads: Reader | None) -> Reader:
    """Read a word that stands for values, or else the values."""

    def read_one(option: str, text: Any) -> Any:
        known = words.get(str(text).strip().lower())
        return known if known is not None or reads is None else reads(option, text)

    return read_one


def also_in_a_store(options: Sequence[Option]) -> tuple[Option, ...]:
    """Let the paths among options be URLs of an object store."""
    return tuple(replace(option, in_store=True) for option in options)


def repeated(option: Option, hint: str) -> Option:
    """Let an option be given several times, each for a value."""
    default = None if option.default is None else (option.default,)
    reads = option.reads
    each = None if reads is None else lambda name, texts: tuple(reads(name, t) for t in texts)
    return replace(
        option, kind=list[str], default=default, help=f"{option.help} {hint}", reads=each
    )


def of_the_cache() -> tuple[Option, ...]:
    """Build the options that find a cache by what it was made from."""
    help = {"dataset": "Dataset of the cache.", "backbone": "Backbone of the cache."}
    return options_of(ExtractSpec, *help, optional=True, help=help, group="Cache")


def left_to_the_recipe(*options: Option) -> tuple[Option, ...]:
    """Leave to the recipe what it decides, where nothing is typed."""
    return tuple(
        replace(option, default=None, unset="the recipe's")
        if option.name in OF_THE_RECIPE
        else option
        for option in options
    )


def in_a_grid(option: Option) -> Option:
    """Let an option take several values, each for a part of a grid."""
    option = replace(option, group="Grid")
    if option.reads is not None:  # one value is a list already
        return repeated(option, "Repeat the option for other values.")
    default = None if option.default is None else (option.default,)
    return replace(
        option,
        kind=str,
        default=default,
        help=f"{option.help} Several values: commas between.",
        reads=_OF_SEVERAL[option.kind],
    )


def takes(*groups: Sequence[Option]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options that its `**options` stands for, in the library's order.

    The command is called with what is typed, and gets what the library takes. An option that the
    command has a use for itself, it names behind a `*`; the others are its `**options`. What else
    it names before the `*` comes before the options, as arguments do; the rest comes behind them.
    """
    options = [option for group in groups for option in group]
    names = {option.name for option in options}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        before = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        behind = [p for p in own if p.kind is p.KEYWORD_ONLY and p.name not in names]

        @functools.wraps(command)
        def run(*arguments: Any, **typed: Any) -> Any:
            for option in options:
                given = typed.get(option.name, option.typed_default)
                typed[option.name] = option.value(given)
            return command(*arguments, **typed)

        parameters = [*before, *(option.parameter() for option in options), *behind]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


# What the terminal alone knows: no keyword of the library.
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Write one JSON object to stdout.", rich_help_panel=OUTPUT),
]
CsvOption = Annotated[
    bool,
    typer.Option("--csv", help="Write a table with commas to stdout.", rich_help_panel=OUTPUT),
]
CacheArgument = Annotated[
    str, typer.Argument(help=options_of(RunSpec, "cache")[0].help, autocompletion=complete.caches)
]
