from __future__ import annotations

import pytest

from featcache.core.files import human_bytes


@pytest.mark.parametrize(
    ("nbytes", "told"),
    [
        (0, "0.0 kB"),
        (184_320_000, "184.3 MB"),
        (999_000_000_000, "999.00 GB"),
        (8_361_060_000_000, "8.36 TB"),
    ],
)
def test_sizes_are_told_in_the_unit_that_fits(nbytes: int, told: str) -> None:
    assert human_bytes(nbytes) == told
