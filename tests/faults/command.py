"""The command line in a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; below 0 the signal that ended it.
        text: What it wrote to stdout and stderr.
        peak_mb: What it held in memory at most, that of its parent included.
    """

    code: int
    text: str
    peak_mb: float

    @property
    def is_clean(self) -> bool:
        """Whether it ended by itself and told no traceback."""
        return self.code >= 0 and "Traceback" not in self.text


class Command:
    """A command that runs; `wait` for it."""

    def __init__(
        self, arguments: Sequence[str], log: Path, *, before: Callable[[], object] | None = None
    ) -> None:
        """Start `featcache ARGUMENTS`, its output in `log`.

        Args:
            arguments: Behind `featcache`.
            log: Where its output goes.
            before: Called in the new process first.
        """
        import featcache_cli.app  # in the parent, so that a fork has it

        self.log = log
        log.touch()  # it may be killed before it writes a word
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            # Within pytest these are files of its own.
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            # A shell lets what it starts in the background ignore it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if before is not None:
                before()
            sys.argv = ["featcache", *arguments]
            featcache_cli.app.main()
            code = 0
        except SystemExit as err:
            code = err.code if isinstance(err.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Wait for its end."""
        _, status, used = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        peak_mb = used.ru_maxrss * 1024 / 1e6
        return Ended(code, self.log.read_text(errors="replace"), peak_mb)


def run_command(
    arguments: Sequence[str], log: Path, *, before: Callable[[], object] | None = None
) -> Ended:
    """Run `featcache ARGUMENTS` to its end."""
    return Command(arguments, log, before=before).wait()


def extract_arguments(images: Path, cache_dir: Path, *, side: int) -> list[str]:
    """The arguments that store a folder's images as pixels."""
    asked = f"--backbone pixels --image-size {side} --n-workers 0"
    places = ["--dataset", f"folder:{images}", "--cache-dir", str(cache_dir)]
    return ["extract", *asked.split(), *places]
