"""What a solver tells of its steps."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int, int], None]
"""Told the steps so far, the step at which the solver gives up, and what is not solved yet."""
