"""The command line: `featcache COMMAND`. Nothing here imports torch, so `--help` is instant."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer

from featcache.core.allocator import keep_freed_memory
from featcache.core.starting import ANY_START, is_refused_start, start_refused
from featcache.core.stopping import StopRequested
from featcache.errors import (
    DISK_FULL,
    DeviceError,
    DiskFullError,
    FeatcacheError,
    InterruptedRunError,
    StorageError,
)
from featcache.version import __version__
from featcache_cli import signals
from featcache_cli.console import fail, reset_progress, speak, speaks_fully
from featcache_cli.grammar import problem_of
from featcache_cli.helpgroups import OUTPUT
from featcache_cli.lazy_group import LazyGroup
from featcache_cli.streams import flush_answer, prepare_streams

# A command's name, its place below `commands`, and the first sentence of its help.
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "extract": (
        "extract:extract",
        "Run a dataset through frozen backbones once, into HDF5 files.",
    ),
    "train-head": (
        "train_head:train_head",
        "Train a head on a cache: an MLP, or another kind with --solver.",
    ),
    "eval": (
        "evaluate:evaluate",
        "Evaluate a head, with 95% intervals; or two, on the same images.",
    ),
    "export": ("export:export", "Write a head with its backbone as one file."),
    "predict": ("predict:predict", "Say what trained heads make of new images."),
    "reproduce": (
        "reproduce:reproduce",
        "Run the notebook's five systems, and show its figures.",
    ),
    "sweep": ("sweep:sweep", "Train a grid of heads in one pass over the features."),
    "parity": ("parity:parity", "Prove that training on a cache is training end to end."),
    "probe": ("probe:probe", "Tell how good a backbone is for these images, in seconds."),
    "report": ("report:report", "Write one HTML page about trained heads."),
    "similar": (
        "similar:similar",
        "Find the rows of a cache that are nearest to an image.",
    ),
    "audit": (
        "audit:audit",
        "Look for duplicates, wrong labels and outliers among the images of a cache.",
    ),
    "runs": ("runs:runs", "List the trained heads, the newest last."),
    "backbones": ("backbones:backbones", "List the backbones that --backbone takes."),
    "datasets": (
        "datasets:datasets",
        "List the datasets that --dataset takes, and which are here.",
    ),
    "demo": ("demo:demo", "Extract 1,797 digits and train heads on them, without a network."),
    "doctor": (
        "doctor:doctor",
        "Tell what this machine has for featcache, and what to do where something is wrong.",
    ),
    "help": ("about:help_", "Show how a command is used."),
    "version": ("about:version_", "Show the versions of featcache and of what decides results."),
    "cache": ("cache:app", "List, verify, repair, import, export, merge, remove caches."),
}


class Root(LazyGroup):
    """Turns errors, the library's and those of a command line, into one message each."""

    table = _COMMANDS

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read what stands before the command."""
        speak("usual")
        with _errors_shown():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _errors_shown():
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    """End with the exit code of the error that happens inside, after its message."""
    try:
        yield
    except (FeatcacheError, typer.TyperException) as err:
        reset_progress()
        if speaks_fully():
            traceback.print_exc()
        if isinstance(err, FeatcacheError):
            fail(str(err))
        else:
            fail(problem_of(err))
            fail(f"{_command_path(err)} --help", kind="hint")
        raise typer.Exit(err.exit_code) from err
    except KeyboardInterrupt as err:
        raise typer.Exit(_tell_stopped(err)) from err
    except (RuntimeError, OSError, MemoryError) as err:
        known = _of_the_machine(err)
        if known is None:
            raise
        reset_progress()
        fail(str(known))
        raise typer.Exit(known.exit_code) from err


def _of_the_machine(err: RuntimeError | OSError | MemoryError) -> FeatcacheError | None:
    """Say what the system refused, where the library did not: a process, memory, a file."""
    if _is_out_of_memory(err):
        said = str(err).partition("\n")[0] or "the system gives no more"
        return DeviceError(
            f"No memory is left: {said}. What is finished is kept. Run the same command again when "
            f"more memory is free, or ask for less."
        )
    if isinstance(err, RuntimeError | OSError) and is_refused_start(err):
        return start_refused(ANY_START[0], err, kept=ANY_START[1])
    if not isinstance(err, OSError):
        return None
    if err.errno in DISK_FULL:  # also a file that matplotlib or a logger writes
        where = "" if err.filename is None else f" while writing {err.filename}"
        return DiskFullError(
            f"No space left{where}: {err.strerror} (errno {err.errno}). What is finished is kept. "
            f"Make room and run the same command again."
        )
    if err.filename is not None:
        refused = f"The system refuses {err.filename}: {err.strerror} (errno {err.errno})."
        return StorageError(refused)
    return None


def _is_out_of_memory(err: Exception) -> bool:
    if isinstance(err, MemoryError) or "torch" not in sys.modules:
        return isinstance(err, MemoryError)
    from featcache.core.failures import is_out_of_memory  # it needs torch, which is there

    return is_out_of_memory(err)


def _command_path(err: typer.TyperException) -> str:
    ctx = getattr(err, "ctx", None)
    return "featcache" if ctx is None else str(ctx.command_path)


app = typer.Typer(
    name="featcache",
    cls=Root,
    rich_markup_mode=None,  # plain help and usage errors: they fold no name and survive a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a frozen backbone once, keep its features in one HDF5 file, train heads in seconds.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featcache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version.",
            callback=_show_version,
            is_eager=True,
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process ends with one of the documented exit codes."""
    prepare_streams()
    signals.take_over()
    keep_freed_memory()  # this process is ours
    code = _run(app)
    if (failure := _run(flush_answer)) and not code:
        code = failure
    if code:
        sys.exit(code)


def _run(work: Callable[[], object]) -> int:
    """Run what may end in any way; returns the exit code."""
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception as err:
        reset_progress()
        if isinstance(err, FeatcacheError):
            fail(str(err))
            return err.exit_code
        if speaks_fully():
            raise
        first_line = str(err).partition("\n")[0]
        fail(f"{type(err).__name__}: {first_line}", kind="unexpected error")
        fail("Run again with FEATCACHE_DEBUG=1 for the traceback.", kind="hint")
        return 1
    return 0


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
