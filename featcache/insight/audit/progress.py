"""How far an audit is."""

from __future__ import annotations

from collections.abc import Callable

AuditProgressCallback = Callable[[str, int, int], None]
"""Told a stage, such as "read images", how much of it is done, and of how much."""


def silent_progress(stage: str, n_done: int, n_total: int) -> None:
    """Tell nobody."""
