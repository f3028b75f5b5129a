from __future__ import annotations

from pathlib import Path

from tests.faults.importing import claims


def test_foreign_files_come_in_whole_or_not_at_all(tmp_path: Path) -> None:
    for claim in claims(tmp_path, quick=True):
        assert claim.holds, claim
