"""Subsets of the harnesses, within the suite; the whole is `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import (
    changes,
    clock,
    damage,
    folders,
    lostcaches,
    power,
    rows,
    stale,
    sweeps,
    undecodable,
    values,
)
from tests.faults.claims import Claim, Harness


# A full disk needs rights to mount one, and eight writers a quiet machine: `make faults`.
@pytest.mark.parametrize(
    "harness",
    [
        changes.claims,
        clock.claims,
        damage.claims,
        folders.claims,
        lostcaches.claims,
        power.claims,
        rows.claims,
        stale.claims,
        sweeps.claims,
        undecodable.claims,
        values.claims,
    ],
)
def test_a_subset_of_every_harness_holds(harness: Harness, tmp_path: Path) -> None:
    found = harness(tmp_path, quick=True)

    assert found
    assert [claim for claim in found if not claim.holds] == []


@pytest.mark.parametrize(
    ("is_proved", "control_failed", "holds"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_trial_that_a_naive_implementation_passes_proves_nothing(
    is_proved: bool, control_failed: bool, holds: bool
) -> None:
    assert Claim(1, "x", is_proved, "y", control_failed).holds is holds
