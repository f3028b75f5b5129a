"""torchvision's datasets through our table, from tiny files in their real layouts."""

import hashlib
import shutil
import socket
import sys
import tarfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from featcache.errors import DatasetError, UnknownNameError, UsageError
from featcache.images.datasets import list_datasets, load_dataset
from featcache.images.sources.torchvision_table import TORCHVISION_SETS
from featcache.images.splits import ArrayImages

Place = Callable[[str, Path], None]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        print("Downloading")  # noqa: T201 (as torchvision does)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def refusal(name: str, root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, data_dir=root)
    return str(caught.value)


def pack(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the unpacked CIFAR-10 by its archive."""
    archive = root / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / datasets.CIFAR10.base_folder, datasets.CIFAR10.base_folder)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    shutil.rmtree(root / datasets.CIFAR10.base_folder)
    return archive


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_each_set_gives_rgb_images_that_equal_torchvisions(
    name: str, tmp_path: Path, place: Place
) -> None:
    place(name, tmp_path)

    dataset = load_dataset(f"torchvision:{name}", data_dir=tmp_path)

    table_row = TORCHVISION_SETS[name]
    assert list(dataset.splits) == list(table_row.splits)
    assert table_row.is_present(tmp_path)
    for split_name, arguments in table_row.splits.items():
        split = dataset.splits[split_name]
        images = split.images
        rows = range(len(split))
        pixels = (
            list(images.pixels)
            if isinstance(images, ArrayImages)
            else [np.asarray(images.decode(row)) for row in rows]
        )
        source = getattr(datasets, name)(tmp_path, **arguments)
        ours = sorted((p.tobytes(), int(k)) for p, k in zip(pixels, split.labels, strict=True))
        theirs = sorted(
            (i.convert("RGB").tobytes(), int(k)) for i, k in map(source.__getitem__, rows)
        )
        assert len(source) == len(split)
        assert ours == theirs


def test_cifar10_has_its_names_order_and_ids(tmp_path: Path, place: Place) -> None:
    place("CIFAR10", tmp_path)

    dataset = load_dataset("cifar10", data_dir=tmp_path)

    train = dataset.splits["train"]
    assert (dataset.name, dataset.slug) == ("cifar10", "cifar10")
    assert dataset.class_names[:2] == ("kind 0", "kind 1")
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert list(train.ids) == [str(i) for i in range(10)]
    assert isinstance(train.images, ArrayImages)
    assert train.images.pixels.shape == (10, 32, 32, 3)
    assert train.images.pixels[2, 5, 7].tolist() == [10, 11, 12]


def test_files_are_sorted_by_path_and_keep_their_labels(tmp_path: Path, place: Place) -> None:
    place("Flowers102", tmp_path)

    train = load_dataset("torchvision:Flowers102", data_dir=tmp_path).splits["train"]

    assert list(train.ids) == [f"flowers-102/jpg/image_0000{i}.jpg" for i in (1, 2)]
    assert train.labels.tolist() == [0, 101]


def test_class_names_come_from_torchvision_or_are_numbers(tmp_path: Path, place: Place) -> None:
    for name in ("Imagenette", "GTSRB", "Caltech101", "SVHN"):
        place(name, tmp_path)

    def names(name: str) -> tuple[str, ...]:
        return load_dataset(f"torchvision:{name}", data_dir=tmp_path).class_names

    assert names("Imagenette") == ("tench", "English springer")
    assert names("GTSRB") == tuple(str(k) for k in range(43))
    assert names("Caltech101") == ("ant", "yin_yang")
    assert names("SVHN") == tuple("0123456789")


def test_digest_of_files_stays_when_the_data_folder_moves(tmp_path: Path, place: Place) -> None:
    place("OxfordIIITPet", tmp_path / "here")
    before = load_dataset("torchvision:OxfordIIITPet", data_dir=tmp_path / "here").digest()

    shutil.move(tmp_path / "here", tmp_path / "there")

    after = load_dataset("torchvision:OxfordIIITPet", data_dir=tmp_path / "there").digest()
    assert before == after


def test_names_ignore_case_and_both_spellings_share_a_slug(tmp_path: Path, place: Place) -> None:
    place("CIFAR10", tmp_path)
    place("SVHN", tmp_path)

    assert load_dataset("torchvision:cifar10", data_dir=tmp_path).slug == "cifar10"
    assert load_dataset("torchvision:svhn", data_dir=tmp_path).slug == "torchvision-svhn"


def test_an_archive_that_was_copied_here_is_unpacked_in_silence(
    tmp_path: Path,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    offline: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place("CIFAR10", tmp_path)
    pack(tmp_path, monkeypatch)

    dataset = load_dataset("cifar10", data_dir=tmp_path)

    assert len(dataset.splits["test"]) == 2
    assert capfd.readouterr() == ("", "")


def test_absent_files_and_no_network_say_what_to_place_where(
    tmp_path: Path, offline: None, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal("cifar10", tmp_path)

    assert message == (
        f"Dataset 'cifar10' is not in '{tmp_path}' and could not be downloaded "
        "(<urlopen error no route to host>). Expected 'cifar-10-batches-py' (or the archive "
        "'cifar-10-python.tar.gz') there. On a machine with a network run the same command, or "
        "fetch https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz, and copy "
        f"'cifar-10-python.tar.gz' into '{tmp_path}' here. Then run the same command again."
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_every_absent_set_is_refused_with_its_files(
    name: str, tmp_path: Path, offline: None
) -> None:
    message = refusal(f"torchvision:{name}", tmp_path)

    assert f"'torchvision:{name}' is not in '{tmp_path}'" in message
    assert all(file in message for file in TORCHVISION_SETS[name].files)


def test_a_damaged_batch_is_told_apart_from_an_absent_one(
    tmp_path: Path, place: Place, offline: None
) -> None:
    place("CIFAR10", tmp_path)
    with (tmp_path / "cifar-10-batches-py/data_batch_3").open("r+b") as file:
        file.truncate(100)

    message = refusal("cifar10", tmp_path)

    assert "is damaged or incomplete" in message
    assert "wrong checksum of 'cifar-10-batches-py/data_batch_3'. " in message


def test_half_an_archive_is_called_damaged(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    place("CIFAR10", tmp_path)
    with pack(tmp_path, monkeypatch).open("r+b") as file:
        file.truncate(100)

    assert "wrong checksum of 'cifar-10-python.tar.gz'. " in refusal("cifar10", tmp_path)


@pytest.mark.parametrize(
    "failure", [TimeoutError("timed out"), ConnectionResetError("reset"), RuntimeError("corrupted")]
)
def test_any_failed_download_is_a_dataset_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", failing)

    assert f"could not be downloaded ({failure})" in refusal("cifar10", tmp_path)


def test_a_download_has_a_time_limit_only_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    def failing(*_: object, **__: object) -> None:
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", failing)

    refusal("cifar10", tmp_path)

    assert seen == [30.0]
    assert socket.getdefaulttimeout() is None


def test_a_missing_reader_names_the_package(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place("SVHN", tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)

    assert "Install it with: pip install scipy" in refusal("torchvision:SVHN", tmp_path)


def test_labels_out_of_range_are_refused(tmp_path: Path, place: Place) -> None:
    place("MNIST", tmp_path)
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([77]))

    message = refusal("torchvision:MNIST", tmp_path)

    assert "Split 'test' of dataset 'torchvision:MNIST' has labels 3..77, expected 0..9" in message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifar", "Unknown dataset 'cifar'. Did you mean 'cifar10', 'cifar100'? List all with"),
        ("svhn", "List all with: featcache datasets (it is 'torchvision:SVHN' there)"),
        ("torchvision:svhm", "Unknown torchvision dataset 'svhm'. Did you mean 'SVHN'?"),
        ("torchvision:", "Unknown torchvision dataset ''. List all with: featcache datasets"),
    ],
)
def test_unknown_names_come_with_the_nearest(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_dataset(name, data_dir=tmp_path)

    assert hint in str(caught.value)


def test_a_bare_path_is_told_to_carry_the_word_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"Write it as: folder:{tmp_path}"):
        load_dataset(str(tmp_path), data_dir=tmp_path)


def test_the_list_tells_what_is_present_and_loads_by_its_names(
    tmp_path: Path, place: Place
) -> None:
    place("CIFAR10", tmp_path)

    infos = {info.name: info for info in list_datasets(data_dir=tmp_path)}

    assert list(infos)[:4] == ["cifar10", "cifar100", "digits", "folder:PATH"]
    assert infos["cifar10"].present is True
    assert infos["cifar100"].present is False
    assert infos["torchvision:SVHN"].present is False
    assert all(info.present is None for info in list_datasets())
    from_torchvision = [info for info in infos.values() if info.source == "torchvision"]
    assert len(from_torchvision) == len(TORCHVISION_SETS)
