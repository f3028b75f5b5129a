"""A few rounds of the soak on each run of the suite, and its detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.faults.soak import Footprint, Growth, claims


def test_some_rounds_leave_nothing_behind(tmp_path: Path) -> None:
    [claim] = claims(tmp_path, quick=True)

    assert claim.is_proved, claim.line
    assert claim.control_failed, claim.control


def test_a_child_or_a_thread_that_stays_is_seen() -> None:
    still = Footprint(memory_kib=1000, descriptors=9, threads=3, children=0, files=0)
    rounds = [still] * 9

    assert Growth.over(rounds).grown_counts == []
    assert Growth.over([*rounds, replace(still, children=1)]).grown_counts == ["children"]
    assert Growth.over([*rounds, replace(still, threads=4)]).grown_counts == ["threads"]
