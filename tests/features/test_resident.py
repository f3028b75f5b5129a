"""A cache that is verified and loaded in one reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.core import stopping
from featcache.errors import CorruptError
from featcache.features.resident import load_sound
from featcache.features.rows import load_rows
from featcache.store import read_state, verify_cache
from tests.feature_caches import MakeCache, learnable_rows
from tests.memory_limits import leave_memory

CPU = torch.device("cpu")
Verb = Callable[..., object]


def four_splits() -> dict[str, object]:
    """Rows of the three splits that stage two uses, and of one that it does not."""
    names = ("train", "val", "test", "extra")
    return {name: learnable_rows(70, seed=i, unreadable=(5,)) for i, name in enumerate(names)}


def damage(cache: featcache.Cache, split: str, column: str) -> None:
    """Change the last byte of a column of a split."""
    extent = read_state(cache.path).manifest.splits[split].columns[column]
    with cache.path.open("r+b") as file:
        file.seek(extent.offset + extent.nbytes - 1)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("window_rows", [None, 32], ids=["resident", "in windows"])
@pytest.mark.parametrize("split", ["train", "val", "test", "extra"])
@pytest.mark.parametrize("column", ["features", "labels", "valid", "reason", "ids"])
def test_a_damaged_block_of_any_split_is_refused_as_verification_names_it(
    make_cache: MakeCache, split: str, column: str, window_rows: int | None
) -> None:
    cache = featcache.open_cache(make_cache(splits=four_splits()))
    damage(cache, split, column)

    with pytest.raises(CorruptError) as err:
        load_sound(cache, device="cpu", window_rows=window_rows)

    [found] = verify_cache(cache.path).damages
    assert (found.split, found.first_row, found.last_row) == (split, 64, 69)
    assert f"is damaged: {split} rows 64 to 69: {found.what}. Its rows were" in str(err.value)
    assert err.value.exit_code == 13


@pytest.mark.parametrize("verb", [featcache.train_head, featcache.sweep])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_nothing_is_trained_on_a_damaged_block(
    make_cache: MakeCache, tmp_path: Path, verb: Verb, split: str
) -> None:
    path = make_cache(splits=four_splits())
    damage(featcache.open_cache(path), split, "features")
    steps: list[object] = []

    with pytest.raises(CorruptError, match=f"is damaged: {split} rows 64 to 69"):
        verb(path, runs_dir=tmp_path / "runs", on_progress=steps.append)
    assert not steps
    assert not (tmp_path / "runs").exists()


def test_what_is_loaded_is_what_is_in_the_file(make_cache: MakeCache) -> None:
    cache = featcache.open_cache(make_cache(splits=four_splits()))

    resident = load_sound(cache, device="cpu", window_rows=None)

    assert list(resident.rows) == ["train", "val", "test"]
    assert resident.residence is not None
    assert resident.residence.value == "memory"
    for split, rows in resident.rows.items():
        alone = load_rows(cache, split, device=CPU, residence="memory")
        assert torch.equal(rows.features, alone.features)
        assert torch.equal(rows.labels, alone.labels)
        assert np.array_equal(rows.features.numpy(), cache[split].features)


def test_each_feature_is_read_once(make_cache: MakeCache) -> None:
    def n_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    rng = np.random.default_rng(0)
    splits = {"train": learnable_rows(200, seed=1), "test": learnable_rows(60, seed=2)}
    for rows in splits.values():
        rows.features = rng.standard_normal((len(rows.labels), 5_000)).astype("<f4")
    cache = featcache.open_cache(make_cache(splits=splits))
    nbytes = sum(rows.features.nbytes for rows in splits.values())
    before = n_read()

    load_sound(cache, device="cpu", window_rows=None)

    assert nbytes <= n_read() - before < 1.2 * nbytes


def test_a_file_put_in_its_place_meanwhile_is_not_what_is_verified(
    make_cache: MakeCache,
) -> None:
    cache = featcache.open_cache(make_cache())
    other = make_cache("other.h5", splits=four_splits())
    damage(featcache.open_cache(other), "train", "features")
    other.replace(cache.path)

    resident = load_sound(cache, device="cpu", window_rows=None)

    assert len(resident.rows["train"].features) == 200


def test_rows_that_stay_in_the_file_are_verified_there(
    make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leave_memory(monkeypatch, tmp_path / "root", 10_000)
    cache = featcache.open_cache(make_cache())

    assert not load_sound(cache, device="cpu", window_rows=None).rows
    damage(cache, "test", "features")
    with pytest.raises(CorruptError, match="is damaged: test rows 0 to 59"):
        load_sound(cache, device="cpu", window_rows=None)


def test_a_wish_to_stop_is_met_between_blocks(
    cache: featcache.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_wish", None)  # puts None back afterwards
    stopping.ask_to_stop(2)

    with pytest.raises(stopping.StopRequested):
        load_sound(cache, device="cpu", window_rows=None)
