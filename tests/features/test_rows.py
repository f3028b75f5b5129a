from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import random_split

import featcache
from featcache.core.preprocess import Preprocess
from featcache.errors import CorruptError, UsageError
from featcache.features.batches import SuperBatch
from featcache.features.datamodule import FeatureDataModule
from featcache.features.residence import pick_residence
from featcache.features.rows import load_rows, n_inputs
from featcache.features.split import random_split_rows, training_rows
from featcache.features.trainable import require_trainable
from tests.faults.hostile_files import resigned
from tests.feature_caches import MakeCache, learnable_rows
from tests.memory_limits import leave_memory
from tests.reference_transform import reference_transform
from tests.store.conftest import Rows

CPU = torch.device("cpu")
_LOADED_AND_FREED = """
import sys
import torch
import featcache
from featcache.core.allocator import keep_freed_memory
from featcache.features.rows import load_rows
def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_freed_memory()
cache = featcache.open_cache(sys.argv[1])
before = resident_bytes()
rows = load_rows(cache, "train", device=torch.device("cpu"), residence="memory")
loaded = resident_bytes()
del rows
print(loaded - before, resident_bytes() - before)
"""


@pytest.mark.parametrize(("n", "n_val", "fraction"), [(50_000, 10_000, 0.2), (1437, 287, 0.2)])
def test_the_split_is_random_splits_index_for_index(n: int, n_val: int, fraction: float) -> None:
    generator = torch.Generator().manual_seed(42)
    expected_train, expected_val = random_split(range(n), [n - n_val, n_val], generator=generator)  # type: ignore[arg-type]

    train, val = random_split_rows(n, val_fraction=fraction, seed=42)

    assert train.tolist() == list(expected_train.indices)
    assert val.tolist() == list(expected_val.indices)


def test_unreadable_images_neither_train_nor_validate(cache: featcache.Cache) -> None:
    whole_train, whole_val = random_split_rows(200, val_fraction=0.2, seed=42)

    _, train, _, val = training_rows(cache, val_fraction=None, split_seed=42)

    assert train.tolist() == [i for i in whole_train.tolist() if i not in (5, 70)]
    assert val.tolist() == [i for i in whole_val.tolist() if i not in (5, 70)]
    assert len(train) + len(val) == 198


def test_a_split_of_its_own_validates_whole(make_cache: MakeCache) -> None:
    splits = {"train": learnable_rows(30, seed=1), "val": learnable_rows(9, seed=2)}
    cache = featcache.open_cache(make_cache(splits=splits))

    train_split, train, val_split, val = training_rows(cache, val_fraction=None, split_seed=42)

    assert (train_split, len(train), val_split, val.tolist()) == ("train", 30, "val", [*range(9)])
    with pytest.raises(UsageError, match="has its own split 'val', so --val-fraction has no use"):
        training_rows(cache, val_fraction=0.2, split_seed=42)


def test_no_validation_images_is_an_error(cache: featcache.Cache) -> None:
    with pytest.raises(
        UsageError, match=r"No validation images are left: split 'train' .* has 198"
    ):
        training_rows(cache, val_fraction=0.001, split_seed=42)


def test_one_class_alone_is_an_error(make_cache: MakeCache) -> None:
    rows = learnable_rows(30, seed=1)
    rows.labels[:] = 1
    cache = featcache.open_cache(make_cache(splits={"train": rows}))

    with pytest.raises(
        UsageError, match=r"All training images of .* \(30\) are of one class \(bee\)"
    ):
        require_trainable(cache, None)


def test_one_class_left_after_the_split_is_an_error(make_cache: MakeCache) -> None:
    rows = learnable_rows(5, seed=1)
    rows.labels[:] = [0, 0, 0, 0, 1]
    cache = featcache.open_cache(make_cache(splits={"train": rows}))
    seed = next(s for s in range(9) if random_split_rows(5, val_fraction=0.2, seed=s)[1] == 4)

    with pytest.raises(
        UsageError, match=r"All training images of .* \(4\) are of one class \(ant\)"
    ):
        training_rows(cache, val_fraction=None, split_seed=seed)


def test_a_cache_without_training_rows_is_an_error(make_cache: MakeCache) -> None:
    cache = featcache.open_cache(make_cache(splits={"test": learnable_rows(30, seed=1)}))

    with pytest.raises(UsageError, match="has no split 'train', only test"):
        FeatureDataModule(cache)


def test_labels_without_a_class_are_an_error(make_cache: MakeCache) -> None:
    rows = learnable_rows(30, seed=1)
    rows.labels[4] = 3
    cache = featcache.open_cache(make_cache(splits={"train": rows}))

    with pytest.raises(
        CorruptError, match=r"labels of split 'train' \(1 of them\) are not within 0..2 \(row 4"
    ):
        load_rows(cache, "train", device=CPU, residence="memory")


def test_features_that_do_not_fit_are_read_from_the_file(
    cache: featcache.Cache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fits, does_not = [], []
    for spare, choices in ((0, fits), (-1, does_not)):
        free = 1_000_000_000 + (200 + 60) * 12 * 4 + spare  # 1 GB stays free
        leave_memory(monkeypatch, tmp_path / "root", free)
        choices.append(pick_residence(cache, device=CPU))

    assert fits[0].value == "memory"
    assert does_not[0].value == "file"
    assert "the features need 12.5 kB, but 12.5 kB of memory within the limit" in does_not[0].why


@pytest.mark.parametrize("residence", ["memory", "file"])
def test_rows_are_the_files_wherever_they_stay(cache: featcache.Cache, residence: str) -> None:
    rows = load_rows(cache, "train", device=CPU, residence=residence)

    features, labels = rows.take(torch.tensor([7, 0, 7, 199]))

    assert np.array_equal(features.numpy(), cache["train"].features[[7, 0, 7, 199]])
    assert labels.tolist() == [1, 0, 1, 1]


def test_float16_features_come_as_float32(make_cache: MakeCache) -> None:
    rows = learnable_rows(30, seed=1)
    rows.features = rows.features.astype("<f2")
    cache = featcache.open_cache(make_cache(splits={"train": rows}))

    features, _ = load_rows(cache, "train", device=CPU, residence="memory").take(torch.arange(30))

    assert features.dtype == torch.float32
    assert np.array_equal(features.numpy(), rows.features.astype("f4"))


def test_pixels_without_their_preprocessing_are_refused(tmp_path: Path) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=12, cache_dir=tmp_path).path
    content = path.read_bytes()
    path.write_bytes(resigned(content, lambda manifest: manifest["identity"].pop("preprocess")))

    with pytest.raises(CorruptError, match=r"does not say its preprocess\. Every cache"):
        featcache.train_head(path, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_pixels_become_the_notebooks_numbers_in_its_order(tmp_path: Path) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=20, limit=12, cache_dir=tmp_path
    ).path
    cache = featcache.open_cache(path)
    transform = reference_transform(Preprocess.notebook(20))
    images = [Image.fromarray(pixels) for pixels in cache["train"].features]

    features, _ = load_rows(cache, "train", device=CPU, residence="memory").take(torch.arange(12))

    assert n_inputs(cache) == 3 * 20 * 20
    assert torch.equal(features, torch.stack([transform(image).flatten() for image in images]))


def test_each_epoch_has_an_order_of_its_own_that_its_number_decides(cache: featcache.Cache) -> None:
    batches = FeatureDataModule(cache, seed=4)

    batches.sampler.set_epoch(0)
    first = batches.sampler.order()
    batches.sampler.set_epoch(1)
    second = batches.sampler.order()
    batches.sampler.set_epoch(0)

    assert first.tolist() != second.tolist()
    assert batches.sampler.order().tolist() == first.tolist()
    assert first.sort().values.tolist() == batches.train_rows.sort().values.tolist()
    assert FeatureDataModule(cache, seed=5).sampler.order().tolist() != first.tolist()


def test_a_super_batch_holds_the_same_batches(cache: featcache.Cache) -> None:
    one, many = (FeatureDataModule(cache, batch_size=16, steps_per_batch=s) for s in (1, 4))
    one.setup()
    many.setup()

    singles = list(one.train_dataloader())
    supers = list(many.train_dataloader())

    assert len(supers) == len(many.train_dataloader()) == 3
    assert all(isinstance(batch, SuperBatch) for batch in supers)
    inside = [batch for several in supers for batch in several]  # type: ignore[union-attr]
    assert [len(labels) for _, labels in inside] == [16] * 9 + [14]
    for (features, labels), (other_features, other_labels) in zip(singles, inside, strict=True):
        assert torch.equal(features, other_features)
        assert torch.equal(labels, other_labels)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc does with freed memory")
def test_features_go_back_to_the_system_where_freed_memory_is_kept(make_cache: MakeCache) -> None:
    # The command line keeps freed memory, so the features of several systems piled up.
    features = np.ones((2800, 4096), np.float32)
    labels = np.arange(len(features)) % 3
    path = make_cache(
        splits={"train": Rows(features, labels, list(map(str, range(len(features)))))}
    )

    said = subprocess.run(
        [sys.executable, "-c", _LOADED_AND_FREED, str(path)], capture_output=True, check=True
    ).stdout

    loaded, freed = map(int, said.split())
    assert loaded > features.nbytes // 2
    assert freed < features.nbytes // 2
