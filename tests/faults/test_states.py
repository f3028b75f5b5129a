"""A few sequences of the state machine on each run of the suite."""

from __future__ import annotations

from pathlib import Path

from tests.faults.states import claims


def test_no_order_of_events_leaves_a_cache_in_a_state_unforeseen(tmp_path: Path) -> None:
    [claim] = claims(tmp_path, quick=True)

    assert claim.is_proved, claim.line
    assert claim.control_failed, claim.control
