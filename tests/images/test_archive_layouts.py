"""What lies in zip and tar archives: class folders, lists, labels beside images, shards."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from featcache.errors import DatasetError, UsageError
from featcache.images.datasets import load_dataset
from featcache.images.sources.shards import expand_shards
from featcache.images.splits import Dataset
from tests.conftest import save_image
from tests.images.containers import add, tarred, zipped


@pytest.fixture
def png(tmp_path: Path) -> bytes:
    save_image(tmp_path / "one.png", 0, size=(4, 5))
    return (tmp_path / "one.png").read_bytes()


def load(path: Path) -> Dataset:
    return load_dataset(f"{path.suffix[1:]}:{path}", data_dir=path.parent)


def test_what_operating_systems_leave_behind_is_passed_over(png: bytes, tmp_path: Path) -> None:
    names = ["pets/cat/a.png", "__MACOSX/pets/cat/._a.png", "pets/.DS_Store", "pets/cat/Thumbs.db"]
    path = zipped(tmp_path / "a.zip", dict.fromkeys([*names, "pets/LICENSE"], png))

    dataset = load(path)

    assert list(dataset.splits["train"].ids) == ["cat/a.png"]
    assert dataset.notes == ("Files without an image extension left out: 1, e.g. 'LICENSE'.",)


def test_splits_beside_a_stray_image_are_no_class(png: bytes, tmp_path: Path) -> None:
    names = [f"pets/{split}/{c}/a.png" for split in ("train", "test") for c in ("cat", "dog")]
    path = zipped(tmp_path / "a.zip", dict.fromkeys([*names, "pets/logo.png"], png))

    with pytest.raises(DatasetError, match=r"taken for a class.* with the path of 'pets'"):
        load(path)


def test_names_that_do_not_say_that_they_are_utf8_are_read_so(png: bytes, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"ete/aaa.png": png})
    whole = path.read_bytes().replace(b"ete/aaa.png", "\u732b/\u732b.png".encode())
    path.write_bytes(whole.replace("\u732b/\u732b.png".encode(), "\u00e9te/aa.png".encode()))

    dataset = load(path)

    assert dataset.class_names == ("\u00e9te",)


def test_labels_beside_images_are_numbers_or_names_and_shards_are_splits(
    png: bytes, tmp_path: Path
) -> None:
    for shard, first in (("train-0", 0), ("train-1", 5), ("val-0", 10)):
        files = {}
        for i in range(first, first + 5):
            files |= {f"{i:03d}.jpg": png, f"{i:03d}.cls": f"{i % 5 + 8}\n".encode()}
        tarred(tmp_path / f"{shard}.tar", files)

    dataset = load_dataset(f"tar:{tmp_path}/{{train,val}}-*.tar", data_dir=tmp_path)

    assert dataset.slug == f"tar-{tmp_path.name}" or dataset.slug.startswith("tar-")
    assert dataset.class_names == ("8", "9", "10", "11", "12")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 10, "val": 5}
    assert dataset.splits["train"].labels.tolist() == [0, 1, 2, 3, 4] * 2
    alone = load(tmp_path / "val-0.tar")
    assert list(alone.splits) == ["train"]
    tarred(tmp_path / "more.tar", {"x.jpg": png, "x.cls": b"9"})
    with pytest.raises(DatasetError, match=r"'x\.jpg' of .*more\.tar.*the split is '\?'"):
        load_dataset(f"tar:{tmp_path}/*.tar", data_dir=tmp_path)


def test_a_label_of_json_may_have_another_name(png: bytes, tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", {"1.jpg": png, "1.json": b'{"label": 1, "breed": "pug"}'})

    dataset = load_dataset(f"tar:{path}#label=breed", data_dir=tmp_path)

    assert dataset.class_names == ("pug",)
    plain = zipped(tmp_path / "a.zip", {"cat/a.png": png})
    with pytest.raises(UsageError, match=r"has neither KEY\.json .* nor one metadata\.csv"):
        load_dataset(f"zip:{plain}#label=breed", data_dir=tmp_path)


def test_a_label_column_is_that_of_the_json_whatever_lies_beside_it(
    png: bytes, tmp_path: Path
) -> None:
    said = b'{"label": 1, "breed": "pug"}'
    files = {"1.jpg": png, "1.json": said, "1.cls": b"7", "1.caption.json": b'{"breed": "caption"}'}
    both = tarred(tmp_path / "both.tar", files)
    reversed_ = tarred(tmp_path / "reversed.tar", dict(reversed(files.items())))
    plain = tarred(tmp_path / "plain.tar", {"1.jpg": png, "1.cls": b"7"})
    lacking = tarred(tmp_path / "lacking.tar", {**files, "2.jpg": png, "2.cls": b"7"})
    dotted = tarred(tmp_path / "dotted.tar", {"a.b.jpg": png, "a.b.json": said})

    for path in (both, reversed_, dotted):
        dataset = load_dataset(f"tar:{path}#label=breed", data_dir=tmp_path)
        assert dataset.class_names == ("pug",)
    with pytest.raises(DatasetError, match=r"'1\.jpg' in .* has 2 labels beside it, '1\..*--label"):
        load(both)
    with pytest.raises(
        DatasetError, match=r"'2\.jpg' in .* has no KEY\.json with a 'breed' beside"
    ):
        load_dataset(f"tar:{lacking}#label=breed", data_dir=tmp_path)
    with pytest.raises(UsageError, match=r"there is no KEY\.json, so --label-column means nothing"):
        load_dataset(f"tar:{plain}#label=breed", data_dir=tmp_path)
    with pytest.raises(UsageError, match="are those of the archive, so --path-column means noth"):
        load_dataset(f"tar:{both}#path=file", data_dir=tmp_path)


def test_shards_called_like_splits_are_splits_in_every_layout(png: bytes, tmp_path: Path) -> None:
    for i, shard in enumerate(("train-0", "train-1", "val-0")):
        tarred(tmp_path / f"{shard}.tar", {f"{c}/{c}{i}.png": png for c in ("9", "10")})
    (tmp_path / "listed").mkdir()
    rows = b"path,label\na.png,x\nb.png,x\n"
    tarred(tmp_path / "listed" / "train.tar", {"b.png": png, "metadata.csv": rows})
    tarred(tmp_path / "listed" / "test.tar", {"a.png": png})
    (tmp_path / "folders").mkdir()
    tarred(tmp_path / "folders" / "train.tar", {"train/x/a.png": png, "test/x/b.png": png})
    tarred(tmp_path / "folders" / "val.tar", {"train/x/c.png": png})

    classes = load_dataset(f"tar:{tmp_path}/*.tar", data_dir=tmp_path)
    listed = load_dataset(f"tar:{tmp_path}/listed/*.tar", data_dir=tmp_path)
    folders = load_dataset(f"tar:{tmp_path}/folders/*.tar", data_dir=tmp_path)

    assert classes.class_names == ("10", "9")
    assert {name: list(split.ids) for name, split in classes.splits.items()} == {
        "train": ["10/100.png", "10/101.png", "9/90.png", "9/91.png"],
        "val": ["10/102.png", "9/92.png"],
    }
    assert classes.splits["val"].labels.tolist() == [0, 1]
    assert {name: list(s.ids) for name, s in listed.splits.items()} == {
        "train": ["b.png"],
        "test": ["a.png"],
    }
    assert {name: len(split) for name, split in folders.splits.items()} == {"train": 2, "test": 1}
    tarred(tmp_path / "more.tar", {"9/z.png": png})
    with pytest.raises(DatasetError, match=r"member '9/z\.png' of .*more\.tar.*the split is '\?'"):
        load_dataset(f"tar:{tmp_path}/*.tar", data_dir=tmp_path)


def test_a_metadata_file_in_an_archive_says_its_rows(png: bytes, tmp_path: Path) -> None:
    files = {
        "pets/img/b.png": png,
        "pets/img/a.png": png,
        "pets/README.txt": b"",
        "pets/c.png": png,
    }
    said = b"file_name,label,split\nimg/b.png,dog,train\n./img/a.png,cat,train\nc.png,cat,test\n"
    missing = b"file_name,label\nimg/b.png,dog\nimg/z.png,cat\n"

    zip_path = zipped(tmp_path / "a.zip", {**files, "pets/metadata.csv": said})
    tar_path = tarred(tmp_path / "a.tar", {**files, "pets/metadata.csv": said})
    lacking = zipped(tmp_path / "b.zip", {**files, "pets/metadata.csv": missing})

    for path in (zip_path, tar_path):
        dataset = load(path)
        assert list(dataset.splits["train"].ids) == ["img/b.png", "./img/a.png"]
        assert dataset.class_names == ("cat", "dog")
        assert dataset.splits["train"].labels is not None
        assert dataset.splits["train"].labels.tolist() == [1, 0]
        assert dataset.splits["test"].images.decode(0).size == (5, 4)
    with pytest.raises(DatasetError, match=r"b\.zip/pets/metadata\.csv', line 3: 'img/z\.png'"):
        load(lacking)


def test_a_file_in_two_shards_is_refused_with_both(png: bytes, tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        tarred(tmp_path / name, {"cat/1.png": png})

    with pytest.raises(DatasetError, match=r"in '.*b\.tar' is there and in '.*a\.tar'"):
        load_dataset(f"tar:{tmp_path}/?.tar", data_dir=tmp_path)


def test_braces_and_stars_name_shards_in_order(tmp_path: Path) -> None:
    for name in ("p-008.tar", "p-009.tar", "p-010.tar", "q.tar", "{odd}.tar"):
        (tmp_path / name).touch()

    def names(pattern: str) -> list[str]:
        return [Path(path).name for path in expand_shards(f"{tmp_path}/{pattern}")]

    assert names("p-{008..010}.tar") == ["p-008.tar", "p-009.tar", "p-010.tar"]
    assert names("{q,p-01*}.tar") == ["q.tar", "p-010.tar"]
    assert names("p-*.tar") == ["p-008.tar", "p-009.tar", "p-010.tar"]
    assert names("{odd}.tar") == ["{odd}.tar"]
    with pytest.raises(DatasetError, match=r"There is no file '.*p-011\.tar' \(of "):
        names("p-{008..011}.tar")
    with pytest.raises(DatasetError, match=r"'.*' means more than 100000 files\."):
        names("p-{008..99999999}.tar")
    with pytest.raises(DatasetError, match="means no file, since it counts downwards"):
        names("p-{010..008}.tar")


def test_a_long_tar_is_listed_without_keeping_its_headers(png: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for i in range(1500):
            add(archive, f"{'deep/' * 30}{i:04d}.png", png)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())

    dataset = load(tmp_path / "a.tar")

    assert len(dataset.splits["train"]) == 1500
    assert dataset.class_names == ("deep",)
