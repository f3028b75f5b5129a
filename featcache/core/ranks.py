"""Several processes that were started as the ranks of one job: each would do all of the work."""

from __future__ import annotations

import os

from featcache.errors import UsageError

_WORLD_SIZE = "WORLD_SIZE"  # torchrun sets it, and so do others that start ranks


def require_one_rank() -> None:
    """Refuse to train heads as one of several ranks.

    Raises:
        UsageError: If this process is one.
    """
    n_ranks = os.environ.get(_WORLD_SIZE, "").strip()
    if n_ranks.isascii() and n_ranks.isdigit() and int(n_ranks) > 1:
        raise UsageError(
            f"This process is one of {n_ranks} ranks ({_WORLD_SIZE} is {n_ranks}), but a head is "
            f"trained by one process, without ddp: start featcache without torchrun, and take "
            f"featcache sweep --devices for many heads on several devices."
        )
