"""What the leader tells its workers; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache.core.workers.messages import start_command

_MAIN = "featcache.scale.devices.worker"


@dataclass(frozen=True)
class Work:
    """What every worker is told.

    Attributes:
        spec: The fields of the `ExtractSpec`.
        cache: The final name of the cache; its partial file is there, and ready.
        dataset_sha256: Digest of the dataset, hex, which no worker computes again.
        devices: Where each worker computes, by its rank.
        n_workers: Decoding processes of each.
        n_threads: CPU threads of each.
        port: Of the store.
        leader: Process that started the workers; they end with it.
        path: Where it finds modules.
    """

    spec: Mapping[str, Any]
    cache: str
    dataset_sha256: str
    devices: tuple[str, ...]
    n_workers: int
    n_threads: int
    port: int
    leader: int
    path: tuple[str, ...]

    def command(self) -> tuple[str, ...]:
        """Write the arguments of Python by which a worker starts."""
        return start_command(_MAIN, asdict(self))


def phases_key(attempt: int, rank: int) -> str:
    """Name the seconds of a worker by phase, as JSON."""
    return f"phases/{attempt}/{rank}"
