"""One worker of a sweep: takes groups from the counter in the store, and trains their heads."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.core.stopping import ask_to_stop
from featcache.core.workers.worker import be_worker

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__


def main(said: Mapping[str, Any]) -> None:
    """Be a worker; the process ends here.

    Args:
        said: The fields of `SweepWork`.
    """

    def train(store: Store, rank: int, attempt: int) -> None:
        from featcache.training.sweeps.devices.taking import train_taken
        from featcache.training.sweeps.devices.work import SweepWork

        work = SweepWork(**said)
        train_taken(work, store, rank=rank, attempt=attempt, on_loaded=_stop_on_sigterm)

    be_worker(train, port=said["port"], leader=said["leader"])


def _stop_on_sigterm() -> None:
    """Let the leader's SIGTERM keep the last whole epoch: the worker stops at its next step."""
    signal.signal(signal.SIGTERM, lambda number, _: ask_to_stop(number))
