"""A limit of memory as a container sets one: files of a control group, below another root."""

from __future__ import annotations

from pathlib import Path

import pytest

from featcache.core import cgroup


def leave_memory(monkeypatch: pytest.MonkeyPatch, root: Path, n_bytes: int) -> None:
    """Let so many bytes be free for this process, by the files of its control group."""
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cgroup.controllers": "memory",
        "sys/fs/cgroup/memory.max": f"{n_bytes + 1000}",
        "sys/fs/cgroup/memory.current": "1000",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    monkeypatch.setattr(cgroup, "ROOT", root)
