"""The command line: `featcache COMMAND`. Nothing here imports torch, so `--help` is instant."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import featcache
from featcache.errors import FeatcacheError
from featcache_cli.commands import (
    backbones,
    cache,
    datasets,
    demo,
    evaluate,
    extract,
    parity,
    reproduce,
    sweep,
    train_head,
)
from featcache_cli.console import fail, prepare_streams, reset_progress

_REPEATED_WITHIN_S = 1.0
_stopped_at_s = float("-inf")
_stopped_by: SignalledError | None = None


class SignalledError(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP arrived; they differ in the exit code only."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class ErrorShowingGroup(TyperGroup):
    """Turns the library's errors into one message and their exit code."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments; click would call a signal meanwhile "Aborted!", with exit code 1."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as err:
            raise typer.Exit(_tell_stopped(err)) from err

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FeatcacheError as err:
            reset_progress()
            if os.environ.get("FEATCACHE_DEBUG"):
                traceback.print_exc()
            fail(str(err))
            raise typer.Exit(_exit_code(err)) from err
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
    prepare_streams()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _stop)
    try:
        app()
    except KeyboardInterrupt as err:  # before the command had begun
        sys.exit(_tell_stopped(err))
    except Exception as err:
        if os.environ.get("FEATCACHE_DEBUG"):
            raise
        if _stopped_by is not None:  # an import that it met half-way told it as something else
            sys.exit(_tell_stopped(_stopped_by))
        reset_progress()
        first_line = str(err).partition("\n")[0]
        fail(f"{type(err).__name__}: {first_line}", kind="unexpected error")
        fail("Run again with FEATCACHE_DEBUG=1 for the traceback.", kind="hint")
        sys.exit(1)


def _stop(number: int, _: FrameType | None) -> None:
    """Stop cleanly; a repetition at once, as `timeout` and `uv run` send it, does not disturb."""
    global _stopped_at_s, _stopped_by
    now_s = time.monotonic()
    if now_s - _stopped_at_s > _REPEATED_WITHIN_S:
        _stopped_at_s, _stopped_by = now_s, SignalledError(number)
        raise _stopped_by


def _tell_stopped(err: KeyboardInterrupt) -> int:
    """Say that it was stopped; returns the exit code."""
    reset_progress()
    fail("Stopped. Nothing is lost: run the same command again.")
    return _exit_code(err)


def _exit_code(err: BaseException) -> int:
    """128 + signal for an interruption, else the error's own code."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, SignalledError):
            return 128 + cause.number
        cause = cause.__cause__
    return err.exit_code if isinstance(err, FeatcacheError) else 130
