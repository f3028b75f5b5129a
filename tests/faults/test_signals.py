"""Each command and each signal once, on each run of the suite."""

from __future__ import annotations

from pathlib import Path

from tests.faults.signals import claims


def test_a_stopped_command_leaves_no_process_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    [claim] = claims(tmp_path, quick=True)

    assert claim.is_proved, claim.line
    assert claim.control_failed, claim.control
