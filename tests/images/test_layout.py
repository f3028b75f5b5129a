"""Which folders are splits and which are classes, in the layouts that archives really have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featcache.errors import DatasetError
from featcache.images.datasets import load_dataset
from featcache.images.splits import Dataset


def put(root: Path, *paths: str) -> Path:
    """Make empty files: a layout is read without opening an image."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}", data_dir=root)


def refusal(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load(root)
    return str(caught.value)


def advised(message: str) -> Dataset:
    """Load what a message advises."""
    found = re.search(r"Take --dataset (folder:\S*[^\s.,])", message)
    assert found is not None
    return load_dataset(found[1], data_dir=".")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("training", "validation", "testing"),
        ("TRAINING", "dev", "TEST"),
        ("train", "Dev", "Testing"),
    ],
)
def test_splits_are_known_by_their_names_in_any_case(
    tmp_path: Path, train: str, val: str, test: str
) -> None:
    put(tmp_path, *(f"{folder}/cat/{i}.png" for i, folder in enumerate((train, val, test))))

    dataset = load(tmp_path)

    assert list(dataset.splits) == ["train", "val", "test"]
    assert [list(s.ids) for s in dataset.splits.values()] == [
        [f"{train}/cat/0.png"],
        [f"{val}/cat/1.png"],
        [f"{test}/cat/2.png"],
    ]
    assert dataset.class_names == ("cat",)
    assert dataset.notes == ()


@pytest.mark.parametrize("third", ["extra/dog/3.png", "unlabelled/3.png", "docs/readme.txt"])
def test_a_folder_beside_the_splits_is_no_class_and_is_told(tmp_path: Path, third: str) -> None:
    put(tmp_path, "Train/cat/1.png", "Test/cat/2.png", third)

    dataset = load(tmp_path)

    assert list(dataset.splits) == ["train", "test"]
    assert dataset.class_names == ("cat",)
    assert dataset.notes == (f"Folders beside the splits left out: {third.partition('/')[0]!r}.",)


@pytest.mark.parametrize("name", ["eval", "Evaluation"])
def test_eval_is_refused_with_both_ways_out(tmp_path: Path, name: str) -> None:
    put(tmp_path, "train/cat/1.png", f"{name}/cat/2.png")

    message = refusal(tmp_path)

    assert f"has {name}/, which may mean images to choose by or to test on." in message
    assert "Rename it val/ (training then chooses by it) or test/." in message


def test_two_spellings_of_one_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "training/cat/2.png")

    assert "has both train/ and training/, which mean the same split." in refusal(tmp_path)


def test_of_two_spellings_the_one_with_class_folders_is_the_split(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.png", "test/2.png", "testing/cat/3.png")

    dataset = load(tmp_path)

    assert list(dataset.splits["test"].ids) == ["testing/cat/3.png"]
    assert dataset.notes == (
        "Splits without an image in a class folder left out: 'test'.",
        "Images outside a class folder left out: 1, e.g. 'test/2.png'.",
    )


def test_a_split_without_train_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "Test/cat/1.png", "dog/2.png")

    assert "holds 'Test', but no train/ with a folder per class." in refusal(tmp_path)


def test_a_class_with_the_name_of_a_split_is_told(tmp_path: Path) -> None:
    put(tmp_path, "car/1.png", "Train/2.png", "eval/3.png")

    dataset = load(tmp_path)

    assert dataset.class_names == ("Train", "car", "eval")
    assert dataset.notes == (
        "Train/ holds images directly, so it is a class and no split.",
        "eval/ holds images directly, so it is a class and no split.",
    )


def test_splits_that_lie_one_folder_deeper_are_refused_with_the_path(tmp_path: Path) -> None:
    put(tmp_path, "data/train/cat/1.png", "data/train/dog/2.png", "data/Test/cat/3.png")

    message = refusal(tmp_path)

    assert f"'data' in '{tmp_path}' would be taken for a class" in message
    assert list(advised(message).splits) == ["train", "test"]


@pytest.mark.parametrize("beside", ["pets/logo.jpg", "pets/docs/1.jpg", "other/1.jpg"])
@pytest.mark.parametrize("deep", ["pets", "pets/v2"])
def test_splits_in_a_class_are_refused_with_the_path_whatever_lies_beside(
    tmp_path: Path, deep: str, beside: str
) -> None:
    put(tmp_path, *(f"{deep}/{s}/{c}/1.png" for s in ("Train", "test") for c in ("cat", "dog")))
    put(tmp_path, beside)

    message = refusal(tmp_path)

    assert f"'pets' in '{tmp_path}' would be taken for a class" in message
    assert f"{deep}/ holds 'Train', 'test' with folders with images. Nothing was ext" in message
    assert list(advised(message).splits) == ["train", "test"]


def test_a_lone_test_split_in_a_class_is_refused_with_a_path_that_works(tmp_path: Path) -> None:
    put(tmp_path, "pets/test/cat/1.png", "pets/test/dog/2.png", "pets/logo.jpg")

    assert advised(refusal(tmp_path)).class_names == ("cat", "dog")


@pytest.mark.parametrize("deep", ["data", "archive/data", "archive/archive"])
def test_classes_that_lie_deeper_are_refused_with_the_path(tmp_path: Path, deep: str) -> None:
    put(tmp_path, f"{deep}/cat/1.png", f"{deep}/dog/2.png", "readme/x.txt")

    dataset = advised(refusal(tmp_path))

    assert dataset.class_names == ("cat", "dog")


def test_a_lone_split_that_lies_deeper_is_refused_with_the_path(tmp_path: Path) -> None:
    put(tmp_path, "data/train/cat/1.png", "data/train/dog/2.png")

    assert advised(refusal(tmp_path)).class_names == ("cat", "dog")


@pytest.mark.parametrize("wrap", ["", "seg_train/", "images/"])
def test_folders_called_like_splits_are_refused_with_what_would_work(
    tmp_path: Path, wrap: str
) -> None:
    test_wrap = wrap.replace("train", "test")
    put(tmp_path, f"seg_train/{wrap}sea/1.png", f"seg_train/{wrap}street/2.png")
    put(tmp_path, f"seg_test/{test_wrap}sea/3.png", f"seg_test/{test_wrap}street/4.png")
    put(tmp_path, "seg_pred/seg_pred/5.png")

    message = refusal(tmp_path)

    assert advised(message).class_names == ("sea", "street")
    links = dict(re.findall(r"(train|test) -> ([\w/]*\w)", message))
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    dataset = load(tmp_path)
    assert [len(split) for split in dataset.splits.values()] == [2, 2]
    assert dataset.notes == (
        "Folders beside the splits left out: 'seg_pred', 'seg_test', 'seg_train'.",
    )


@pytest.mark.parametrize("name", ["TrainImages", "training_set", "train2017"])
def test_one_folder_called_like_a_split_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}/cat/1.png", f"{name}/dog/2.png", "more/cat/3.png", "more/dog/4.png")

    assert advised(refusal(tmp_path)).class_names == ("cat", "dog")


def test_folders_that_hold_themselves_once_more_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *(f"{part}/{part}/{c}/1.png" for part in ("one", "two") for c in ("a", "b")))

    assert advised(refusal(tmp_path)).class_names == ("a", "b")


def test_several_datasets_side_by_side_are_refused(tmp_path: Path) -> None:
    splits = ("train", "test")
    put(tmp_path, *(f"{d}/{s}/{c}/1.png" for d in ("x", "y") for s in splits for c in ("a", "b")))

    assert list(advised(refusal(tmp_path)).splits) == ["train", "test"]


def test_a_folder_within_train_that_holds_the_classes_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/images/cat/1.png", "train/images/dog/2.png", "test/images/cat/3.png")

    message = refusal(tmp_path)

    assert f"'images' in '{tmp_path}/train' would be taken for classes" in message
    assert advised(message).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "paths",
    [
        ("dog/labrador/1.png", "dog/pug/2.png", "cat/siamese/3.png"),
        ("dog/1.png", "train_station/2020/2.png", "train_station/2021/3.png"),
        ("dog/2020/1.png", "cat/2020/2.png"),
        ("dog/2020/1.png",),
        ("vehicles/train/steam/1.png", "vehicles/car/2.png", "dog/3.png"),
        ("dog/train/1.png", "dog/test/2.png", "cat/train/3.png", "cat/test/4.png"),
    ],
)
def test_classes_with_subfolders_stay_classes(tmp_path: Path, paths: tuple[str, ...]) -> None:
    put(tmp_path, *paths)

    dataset = load(tmp_path)

    assert set(dataset.class_names) == {path.partition("/")[0] for path in paths}
    assert dataset.notes == ()


def test_within_a_split_the_words_of_a_class_name_mean_nothing(tmp_path: Path) -> None:
    put(tmp_path, "train/test_tube/a/1.png", "train/test_tube/b/2.png")
    put(tmp_path, "train/toy_train/a/3.png", "train/toy_train/b/4.png")

    assert load(tmp_path).class_names == ("test_tube", "toy_train")


def test_a_dataset_sums_up_its_splits_and_classes(tmp_path: Path) -> None:
    put(tmp_path, *(f"train/{k:02d}/a.png" for k in range(12)), "test/00/b.png")

    names = ", ".join(f"'{k:02d}'" for k in range(10))
    assert load(tmp_path).summary == f"images: train 12, test 1; 12 classes: {names} and 2 more"
