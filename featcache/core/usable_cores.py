"""How many cores there are for this process; torch is not needed to count them."""

from __future__ import annotations

import math
import os

from featcache.core import cgroup
from featcache.core.reporting import Choice
from featcache.errors import counted


def usable_cores() -> Choice[int]:
    """Count the cores that this process may use: those it may run on, within its time's limit."""
    if hasattr(os, "sched_getaffinity"):
        n_cores = len(os.sched_getaffinity(0))
    else:
        n_cores = os.cpu_count() or 1
    allowed = cgroup.cores()
    if allowed is not None and math.ceil(allowed) < n_cores:
        why = f"{allowed:.3g} of {counted(n_cores, 'core')}, the limit of this container (cgroup)"
        return Choice(math.ceil(allowed), why)
    return Choice(n_cores, counted(n_cores, "core"))
