"""One set of images in every container: one digest, the same features; found again by each."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.errors import MismatchError
from tests.conftest import save_image
from tests.extraction.test_repair import damage
from tests.images.containers import CONTAINERS, Files, files_below
from tests.paces import blocks_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """13 images of two sizes in three classes, one of them broken."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(13):
        split = "train" if i < 9 else "test"
        label = ("cat", "dog", "été")[i % 3]
        save_image(folder / split / label / f"{i:02d}.png", i, size=(20, 16 + i % 2))
    (folder / "train/cat/broken.jpg").write_bytes(b"\xff\xd8 no more")
    return files_below(folder)


@pytest.fixture(scope="module")
def expected(files: Files, tmp_path_factory: pytest.TempPathFactory) -> featcache.Cache:
    """The cache of the folder."""
    folder = tmp_path_factory.mktemp("expected")
    return featcache.open_cache(extract(CONTAINERS["folder"](files, folder), folder).path)


def extract(name: str, folder: Path, **options: object) -> featcache.ExtractResult:
    return featcache.extract(
        name,
        backbone="squeezenet1_1",
        weights="random",
        image_size=32,
        batch_size=4,
        n_workers=0,
        compile="never",
        cache_dir=folder / "cache",
        **options,
    )


@contextlib.contextmanager
def cut_after(n_blocks: int) -> Iterator[dict[str, object]]:
    """Give the option that stops an extraction when it has read some blocks."""
    n_left = n_blocks

    def press_ctrl_c(progress: featcache.Progress) -> None:
        nonlocal n_left
        n_left -= progress.stage == "extract"
        if n_left < 0:
            raise KeyboardInterrupt

    with blocks_of(4), pytest.raises(KeyboardInterrupt):
        yield {"on_progress": press_ctrl_c}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_files_in_any_container_have_one_digest_and_the_same_features(
    container: str, files: Files, expected: featcache.Cache, tmp_path: Path
) -> None:
    result = extract(CONTAINERS[container](files, tmp_path), tmp_path)

    cache = featcache.open_cache(result.path)
    assert cache.fingerprint == expected.fingerprint
    assert cache.class_names == ("cat", "dog", "été")
    assert list(cache.splits) == ["train", "test"]
    for split in cache.splits:
        assert list(cache[split].ids) == list(expected[split].ids)
        np.testing.assert_array_equal(cache[split].labels, expected[split].labels)
        assert cache[split].failures == expected[split].failures
        assert cache[split].features.tobytes() == expected[split].features.tobytes()
    assert [failure.id for failure in result.failures] == ["train/cat/broken.jpg"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_cache_of_any_container_is_found_resumed_and_repaired_by_it(
    container: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = CONTAINERS[container](files, tmp_path).replace(f"{tmp_path}/", "")
    monkeypatch.chdir(tmp_path)
    with cut_after(2) as option:
        extract(name, tmp_path, **option)

    with blocks_of(4):
        result = extract(name, tmp_path)
    whole = result.path.read_bytes()
    damage(result.path, "test", 2)
    monkeypatch.chdir("/")
    report = featcache.repair_cache(result.path)
    monkeypatch.chdir(tmp_path)
    run = featcache.train_head(
        dataset=name, backbone="squeezenet1_1", cache_dir="cache", runs_dir="runs", max_epochs=1
    )

    assert result.outcome == "resumed"
    assert report.n_rows_computed > 0
    assert result.path.read_bytes() == whole
    assert featcache.evaluate(run.path).n_images == 4


@pytest.mark.parametrize("container", CONTAINERS)
def test_an_image_that_changes_after_it_was_hashed_is_no_row_in_any_container(
    container: str, files: Files, tmp_path: Path
) -> None:
    name = CONTAINERS[container](files, tmp_path)
    _, dataset = featcache.load_dataset(name, data_dir=tmp_path).identified()
    images = pickle.loads(pickle.dumps(dataset.splits["test"].images))  # as another process has it

    CONTAINERS[container]({name: content[::-1] for name, content in files.items()}, tmp_path)

    with pytest.raises(MismatchError, match="is not the file that the cache's identity counts"):
        images.decode(0)
