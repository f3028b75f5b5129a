"""One worker: does its work, and leaves in the store what it refuses and why it failed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from featcache.core.allocator import keep_freed_memory
from featcache.core.parent_process import end_with
from featcache.core.workers.messages import FAILED, HOST, N_NOTES, REFUSED, note_key, written_error
from featcache.errors import DeviceError, FeatcacheError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

_ANSWERS_WITHIN_S = 60


def be_worker(work: Callable[[Store, int, int], None], *, port: int, leader: int) -> NoReturn:
    """Be a worker; the process ends here.

    A refusal, which no second try would change, is left in the store, and the process ends with 0:
    torch's agent starts the workers again when one ends with anything else. What a new process may
    mend, a device that failed among them, ends with 1.

    Args:
        work: Called with the store, the rank, and how often the workers were started again.
        port: Of the store.
        leader: Process that started the workers; they end with it.
    """
    end_with(leader)
    # Its session is its own, so the terminal's signals do not reach it; SIGTERM ends it at once.
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # stdout is the leader's
    keep_freed_memory()  # this process is ours
    code = _run(work, port)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Everything is on the disk. What libraries do at the end of a process can only fail.
    os._exit(code)


def tell(store: Store, sentence: str) -> None:
    """Let the leader tell a sentence."""
    number = store.add(N_NOTES, 1)
    store.set(note_key(number), sentence)


def _run(work: Callable[[Store, int, int], None], port: int) -> int:
    store = None
    try:
        store = _store(port)
        n_before = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        work(store, int(os.environ["LOCAL_RANK"]), n_before)
    except KeyboardInterrupt:  # it was asked to stop, and has kept what it could
        return 1
    except Exception as err:
        if os.environ.get("FEATCACHE_DEBUG"):
            traceback.print_exc()
        if store is None:  # the leader is gone, and nobody listens
            return 1
        if isinstance(err, FeatcacheError) and not isinstance(err, DeviceError):
            store.compare_set(REFUSED, "", written_error(err))
            return 0
        first_line = str(err).partition("\n")[0]
        known = isinstance(err, FeatcacheError)
        store.set(FAILED, str(err) if known else f"{type(err).__name__}: {first_line}")
        return 1
    return 0


def _store(port: int) -> Store:
    from datetime import timedelta

    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # named in no __all__

    return TCPStore(
        HOST,
        port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=_ANSWERS_WITHIN_S),
    )
