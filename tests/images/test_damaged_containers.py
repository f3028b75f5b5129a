"""Containers with random bytes in random places: an error of ours, or rows with a reason."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from featcache.errors import FeatcacheError
from featcache.images.datasets import load_dataset
from featcache.images.splits import UnreadableImageError
from tests.conftest import save_image
from tests.images.containers import CONTAINERS, files_below

N_TRIALS = 60


def rows_read(name: str) -> int:
    """Read all that a container still gives."""
    _, dataset = load_dataset(name, data_dir="data").identified()
    n, reasons = 0, []
    for split in dataset.splits.values():
        for row in range(len(split)):
            try:
                split.images.decode(row)
                n += 1
            except UnreadableImageError as err:
                reasons.append(str(err))
    assert all(reason.isprintable() and len(reason) < 120 for reason in reasons)
    return n


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "folder"])
def test_random_bytes_end_in_an_error_of_ours_or_in_rows_with_a_reason(
    container: str, tmp_path: Path
) -> None:
    for i in range(6):
        place = f"{'train' if i < 4 else 'test'}/{'cat' if i % 2 else 'dog'}/{i}.png"
        save_image(tmp_path / "files" / place, i, size=(4, 5))
    (tmp_path / "set").mkdir()
    name = CONTAINERS[container](files_below(tmp_path / "files"), tmp_path / "set")
    paths = sorted(path for path in (tmp_path / "set").iterdir() if path.is_file())
    rng = random.Random(0)
    seen = Counter[int]()

    for _ in range(N_TRIALS):
        path = rng.choice(paths)
        whole = path.read_bytes()
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        try:
            seen[0] += rows_read(name) > 0
        except FeatcacheError as err:
            seen[err.exit_code] += 1
        path.write_bytes(whole)

    assert set(seen) == {0, 2}
    assert rows_read(name) == 6
