"""One worker: claims blocks from the counter in the store, and computes them on its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featcache.core.workers.worker import be_worker
from featcache.scale.devices.work import Work

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # named in no __all__


def main(said: Mapping[str, Any]) -> None:
    """Be a worker; the process ends here.

    Args:
        said: The fields of `Work`.
    """
    work = Work(**said)

    def compute_blocks(store: Store, rank: int, attempt: int) -> None:
        from featcache.scale.devices.claiming import compute

        compute(work, store, rank=rank, attempt=attempt)

    be_worker(compute_blocks, port=work.port, leader=work.leader)
