"""Image folders as people really have them: layouts, order, names, links, litter, errors."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from featcache.errors import DatasetError, UsageError
from featcache.images.datasets import load_dataset
from featcache.images.splits import Dataset


def put(root: Path, *paths: str, level: int = 90) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (level, 20, 30)).save(root / path, format="PNG")


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}", data_dir=root)


def refusal(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        load(root)
    return str(caught.value)


def test_train_val_and_test_become_splits_in_that_order(tmp_path: Path) -> None:
    put(tmp_path, "test/cat/a.png", "valid/dog/b.png", "train/dog/c.png", "train/cat/d.png")

    dataset = load(tmp_path)

    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.splits["val"].ids) == ["valid/dog/b.png"]
    assert dataset.splits["val"].labels.tolist() == [1]
    assert dataset.notes == ()


def test_class_folders_alone_become_one_train_split(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "dog/b.png")

    dataset = load(tmp_path)

    assert list(dataset.splits) == ["train"]
    assert list(dataset.splits["train"].ids) == ["cat/a.png", "dog/b.png"]


def test_a_class_called_train_beside_others_is_a_class(tmp_path: Path) -> None:
    put(tmp_path, "car/a.png", "train/b.png")

    dataset = load(tmp_path)

    assert dataset.class_names == ("car", "train")


def test_rows_and_classes_are_sorted_by_bytes_not_by_locale(tmp_path: Path) -> None:
    names = ["b.png", "B.png", "a.png", "é.png", "z.png", "10.png", "9.png"]
    put(tmp_path, *(f"{c}/{n}" for c in ("é", "Z", "a") for n in names))

    dataset = load(tmp_path)

    ids = list(dataset.splits["train"].ids)
    assert dataset.class_names == ("Z", "a", "é")
    assert ids == sorted(ids, key=os.fsencode)
    assert ids[:7] == [
        f"Z/{n}" for n in ("10.png", "9.png", "B.png", "a.png", "b.png", "z.png", "é.png")
    ]


def test_order_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    paths = ["cat/x.png", "cat/sub/y.png", "dog/a.png", "cat/b.png"]
    put(tmp_path / "one", *paths)
    put(tmp_path / "two", *reversed(paths))

    one, two = load(tmp_path / "one"), load(tmp_path / "two")

    assert list(one.splits["train"].ids) == list(two.splits["train"].ids)
    assert one.digest() == two.digest()


def test_nested_folders_belong_to_their_top_class(tmp_path: Path) -> None:
    put(tmp_path, "cat/2021/may/a.png", "cat/b.png", "dog/c.png", "dog/photo.jpg/d.png")

    dataset = load(tmp_path)

    assert dataset.class_names == ("cat", "dog")
    assert dict(zip(dataset.splits["train"].ids, dataset.splits["train"].labels, strict=True)) == {
        "cat/2021/may/a.png": 0,
        "cat/b.png": 0,
        "dog/c.png": 1,
        "dog/photo.jpg/d.png": 1,
    }


def test_extensions_count_in_any_case(tmp_path: Path) -> None:
    put(tmp_path, "cat/A.JPG", "cat/b.JpEg", "cat/c.TIFF", "cat/d.Gif")

    assert len(load(tmp_path).splits["train"]) == 4


def test_names_that_are_not_utf8_are_read_and_hashed(tmp_path: Path) -> None:
    put(tmp_path, "chat/a.png")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
        shutil.copy(tmp_path / "chat/a.png", folder / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")

    dataset = load(tmp_path)

    train = dataset.splits["train"]
    assert os.fsencode(train.ids[0]) == b"caf\xe9/\xff.png"
    assert train.images.decode(0).size == (4, 3)
    assert len(dataset.digest()) == 64


def test_hidden_and_litter_files_are_passed_over_in_silence(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "cat/._a.png", ".git/x/a.png", "__MACOSX/cat/a.png")
    put(tmp_path, "cat/.thumbs/a.png", "cat/@eaDir/a.png")
    (tmp_path / "cat/Thumbs.db").write_bytes(b"x")
    (tmp_path / "cat/desktop.ini").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")

    dataset = load(tmp_path)

    assert list(dataset.splits["train"].ids) == ["cat/a.png"]
    assert dataset.notes == ()


def test_what_is_left_out_is_noted_with_an_example(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "train/stray.png", "test/cat/a.png")
    (tmp_path / "train/cat/notes.txt").write_text("x")
    (tmp_path / "train/labels.csv").write_text("x")
    (tmp_path / "train/dog").mkdir()
    (tmp_path / "val").mkdir()

    dataset = load(tmp_path)

    assert dataset.class_names == ("cat",)
    assert list(dataset.splits) == ["train", "test"]
    assert dataset.notes == (
        "Classes without an image in train left out: 'dog'.",
        "Splits without an image in a class folder left out: 'val'.",
        "Images outside a class folder left out: 1, e.g. 'train/stray.png'.",
        "Files without an image extension left out: 2, e.g. 'train/labels.csv'.",
    )


def test_broken_files_with_an_image_extension_stay_rows(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    (tmp_path / "cat/b.jpg").write_bytes(b"")
    (tmp_path / "cat/c.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "cat/d.jpg")
    (tmp_path / "cat/e.jpg").symlink_to("e.jpg")

    train = load(tmp_path).splits["train"]

    assert [i[-5:] for i in train.ids] == ["a.png", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/more/b.png", "set/cat/a.png")
    (tmp_path / "set/cat/link.png").symlink_to("a.png")
    (tmp_path / "set/dog").symlink_to(tmp_path / "elsewhere")

    dataset = load(tmp_path / "set")

    assert dataset.class_names == ("cat", "dog")
    assert list(dataset.splits["train"].ids) == ["cat/a.png", "cat/link.png", "dog/more/b.png"]


def test_a_loop_of_links_ends_and_repeats_no_image(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "cat/z/b.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    (tmp_path / "cat/again").symlink_to("z")

    dataset = load(tmp_path)

    assert list(dataset.splits["train"].ids) == ["cat/a.png", "cat/z/b.png"]
    assert dataset.notes == ("Links to folders read already left out: 2, e.g. 'cat/again'.",)


def test_a_class_missing_from_test_is_fine(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/dog/c.png")

    assert load(tmp_path).splits["test"].labels.tolist() == [1]


def test_a_class_that_train_lacks_is_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "test/cat/a.png", "test/Dog/c.png")

    message = refusal(tmp_path)

    assert "Split 'test' of" in message
    assert "has images of 'Dog', but train has none; train's classes are 'cat'." in message


def test_a_missing_folder_is_refused_with_the_layout(tmp_path: Path) -> None:
    message = refusal(tmp_path / "pets")

    assert message.startswith(f"Dataset folder '{tmp_path}/pets' does not exist.")
    assert "PATH/train/CLASS/*.jpg" in message


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "pets.png")

    assert "pets.png' is a file." in refusal(tmp_path / "pets.png")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "holds no class folders." in refusal(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")

    assert "holds 2 images but no class folders." in refusal(tmp_path)


def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "test/b.png")

    assert "holds 'test', 'train', but no train/ with a folder per class." in refusal(tmp_path)


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "val/cat/a.png", "valid/cat/a.png")

    assert "has both val/ and valid/, which mean the same split." in refusal(tmp_path)


def test_class_folders_without_any_image_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train/cat").mkdir(parents=True)
    (tmp_path / "train/dog").mkdir()

    assert "No class folder in" in refusal(tmp_path)


def test_a_forbidden_folder_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "cat/secret/a.png", "cat/b.png")
    scandir = os.scandir

    def forbidding(path: Path) -> object:  # chmod does not stop root, under whom tests may run
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)

    assert "cat/secret': Permission denied. Nothing was started." in refusal(tmp_path)


def test_digest_changes_with_a_byte_a_name_a_label_or_a_class_name(tmp_path: Path) -> None:
    put(tmp_path / "base", "cat/a.png", "dog/b.png")
    put(tmp_path / "renamed", "cat/a2.png", "dog/b.png")
    put(tmp_path / "relabelled", "cat/a.png", "cat/b.png", "dog/c.png")
    put(tmp_path / "class", "kat/a.png", "dog/b.png")
    put(tmp_path / "byte", "cat/a.png")
    put(tmp_path / "byte", "dog/b.png", level=91)

    digests = [load(folder).digest() for folder in sorted(tmp_path.iterdir())]

    assert len(set(digests)) == 5


def test_digest_stays_when_the_folder_moves_or_is_touched(tmp_path: Path) -> None:
    put(tmp_path / "here", "cat/a.png", "dog/b.png")
    before = load(tmp_path / "here").digest()

    shutil.move(tmp_path / "here", tmp_path / "there")
    os.utime(tmp_path / "there/cat/a.png", (1, 1))
    (tmp_path / "there/cat/notes.txt").write_text("not an image")

    assert load(tmp_path / "there").digest() == before


@pytest.mark.parametrize(
    ("folder", "slug"),
    [("My Pets", "folder-My_Pets"), ("..hid/..den", "folder-den"), ("宠物", "folder-images")],
)
def test_the_slug_is_safe_as_a_folder_name(tmp_path: Path, folder: str, slug: str) -> None:
    put(tmp_path / folder, "cat/a.png")

    assert load(tmp_path / folder).slug == slug


def test_a_folder_without_path_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="Write it as: folder:PATH"):
        load_dataset("folder:", data_dir=".")
