"""One worker: claims blocks from the counter in the store, and computes them on its device."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.core.allocator import keep_freed_memory
from featcache.core.parent_process import end_with
from featcache.errors import DeviceError, FeatcacheError
from featcache.scale.devices.work import FAILED, HOST, REFUSED, Work, written_error

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__

_ANSWERS_WITHIN_S = 60


def main(said: Mapping[str, Any]) -> None:
    """Be a worker; the process ends here.

    A refusal, which no second try would change, is left in the store, and the process ends with 0:
    torch's agent starts the workers again when one ends with anything else. What a new process may
    mend, a device that failed among them, ends with 1.

    Args:
        said: The fields of `Work`.
    """
    work = Work(**said)
    end_with(work.leader)
    # Its session is its own, so the terminal's signals do not reach it; SIGTERM ends it at once.
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # stdout is the leader's
    keep_freed_memory()  # this process is ours
    code = _run(work)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Everything is on the disk. What libraries do at the end of a process can only fail.
    os._exit(code)


def _run(work: Work) -> int:
    store = None
    try:
        store = _store(work.port)

        from featcache.scale.devices.claiming import compute

        compute(work, store, rank=int(os.environ["LOCAL_RANK"]), attempt=_attempt())
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


def _attempt() -> int:
    """Count how often the workers were started again."""
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"])


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
