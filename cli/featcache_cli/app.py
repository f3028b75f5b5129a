"""The command line: `featcache COMMAND`. Nothing here imports torch, so `--help` is instant."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import featcache
from featcache.allocator import keep_freed_memory
from featcache.errors import FeatcacheError, InterruptedRunError
from featcache.stopping import StopRequested
from featcache_cli import signals
from featcache_cli.commands import (
    backbones,
    cache,
    datasets,
    demo,
    evaluate,
    extract,
    parity,
    reproduce,
    runs,
    sweep,
    train_head,
)
from featcache_cli.console import fail, prepare_streams, reset_progress


class ErrorShowingGroup(TyperGroup):
    """Turns the library's errors into one message and their exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FeatcacheError as err:
            reset_progress()
            if os.environ.get("FEATCACHE_DEBUG"):
                traceback.print_exc()
            fail(str(err))
            raise typer.Exit(err.exit_code) from err
        except KeyboardInterrupt as err:
            raise typer.Exit(_tell_stopped(err)) from err


app = typer.Typer(
    name="featcache",
    cls=ErrorShowingGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and usage errors: they fold no name and survive a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run the frozen trunk once, keep its features in one HDF5 file, train heads in seconds.",
)
app.command("extract")(extract.extract)
app.command("train-head")(train_head.train_head)
app.command("eval")(evaluate.evaluate)
app.command("runs")(runs.runs)
app.command("reproduce")(reproduce.reproduce)
app.command("sweep")(sweep.sweep)
app.command("parity")(parity.parity)
app.add_typer(cache.app, name="cache")
app.command("backbones")(backbones.backbones)
app.command("datasets")(datasets.datasets)
app.command("demo")(demo.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featcache {featcache.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process ends with one of the documented exit codes."""
    signals.take_over()
    prepare_streams()
    keep_freed_memory()  # this process is ours
    try:
        app()
    except Exception as err:
        if os.environ.get("FEATCACHE_DEBUG"):
            raise
        reset_progress()
        first_line = str(err).partition("\n")[0]
        fail(f"{type(err).__name__}: {first_line}", kind="unexpected error")
        fail("Run again with FEATCACHE_DEBUG=1 for the traceback.", kind="hint")
        sys.exit(1)


def _tell_stopped(err: KeyboardInterrupt) -> int:
    """Say that it was stopped, and what goes on; returns the exit code, 128 + signal."""
    reset_progress()
    is_told = isinstance(err, InterruptedRunError)
    fail(str(err) if is_told else "Stopped. What was done is kept.")
    fail(signals.resume_command(), kind="hint")
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, StopRequested):
            return 128 + cause.number
        cause = cause.__cause__
    return InterruptedRunError.exit_code
