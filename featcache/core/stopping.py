"""What happens on Ctrl-C: the terminal asks to stop, and the work stops where nothing is lost.

The terminal's handler (`featcache_cli.signals`) ends the process at once while nothing is written.
While there is `working`, it only leaves a request here. Each loop of the work asks for it
(`stop_if_asked`) and then raises StopRequested, which is a KeyboardInterrupt. Some places catch
that, and raise an InterruptedRunError (exit code 130) that says what is kept: `extraction/run.py`
the rows acknowledged so far, `training/run.py` the head of the last epoch,
`training/sweeps/bank_trainer.py` all heads as of the last epoch. The same command goes on there.
Blocks that were complete by then are still written. `training/solvers/solver_run.py`,
`deployment/predict.py` and `deployment/exports/export.py` do the same; there the same command
starts again.

In the terminal, a second signal that comes more than a second after the first ends the process at
once (`featcache_cli.signals`). The same happens if the process has not ended 8 s after the first.
What was acknowledged by then is kept.

The handler does not raise. An exception from a handler starts wherever the interpreter is, also in
a hook of `os.fork` or in a weakref callback. There Python ignores it, and the request would be
lost.

The library installs no signal handler. In a Python program, Ctrl-C is a KeyboardInterrupt as
always; the same places catch it, and no request is set here.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_count_lock = threading.Lock()
_n_working = 0
_is_breakable = False
_wish: StopRequested | None = None


class StopRequested(KeyboardInterrupt):
    """The terminal asked to stop.

    Attributes:
        number: Of the signal by which it did.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Mark work that must not be cut off: it writes. Outside, the terminal ends the process.

    A wish is met where the work asks `stop_if_asked`, and at the end of the outermost such block.
    """
    global _n_working
    with _count_lock:
        _n_working += 1
    try:
        yield
    finally:
        with _count_lock:
            _n_working -= 1
    if not _n_working:
        stop_if_asked()


@contextlib.contextmanager
def breakable() -> Iterator[None]:
    """Let a wish interrupt the main thread wherever it is: for long work with no loop of ours.

    What is raised may be lost there; then the next `stop_if_asked` finds it.
    """
    global _is_breakable
    before, _is_breakable = _is_breakable, True
    try:
        yield
    finally:
        _is_breakable = before


def stop_if_asked() -> None:
    """Look whether there is a wish to stop.

    Raises:
        StopRequested: If there is.
    """
    if _wish is not None:
        raise _wish


def is_working() -> bool:
    """Tell whether work goes on that must not be cut off."""
    return _n_working > 0


def ask_to_stop(number: int) -> None:
    """Ask the work that goes on to stop; called by a signal handler.

    Args:
        number: Of the signal.

    Raises:
        StopRequested: If the work is breakable.
    """
    global _wish
    _wish = StopRequested(number)
    if _is_breakable:
        raise _wish
