"""Lists of images as people have them, in all their forms, and malformed ones."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache.config import ExtractSpec
from featcache.errors import DatasetError, FeatcacheError, UsageError
from featcache.images.datasets import dataset_slug, load_dataset
from featcache.images.splits import Dataset
from tests.conftest import save_image


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """Write a list beside four images a.png to d.png, and load it."""
    for i, name in enumerate("abcd"):
        save_image(tmp_path / f"{name}.png", i, size=(4, 5))

    def load_list(content: str | bytes, *, file: str = "list.csv", columns: str = "") -> Dataset:
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / file).write_bytes(raw)
        return load_dataset(f"list:{tmp_path / file}{columns}", data_dir=tmp_path)

    return load_list


def rows(dataset: Dataset) -> dict[str, list[tuple[str, str]]]:
    """(id, class) of each row, by split."""
    names = dataset.class_names
    return {
        split.name: [(i, names[k]) for i, k in zip(split.ids, split.labels, strict=True)]
        for split in dataset.splits.values()
    }


PLAIN = {"train": [("b.png", "dog"), ("a.png", "cat")]}


@pytest.mark.parametrize(
    "content",
    [
        "path,label\nb.png,dog\na.png,cat\n",
        "path;label\r\nb.png;dog\r\na.png;cat",
        "Label\tPATH\ndog\tb.png\n\ncat\ta.png\n",
        b"\xef\xbb\xbffile_name|label\nb.png|dog\na.png|cat\n",
        "path,label\nb.png,dog\na.png,cat\n".encode("utf-16"),
        ' path , label\n"b.png","dog"\n"a.png","cat"\n',
        'note,path,label,price\n,b.png,dog,1.5\n"two\nlines, and a comma",a.png,cat,\n',
        "path,label\rb.png,dog\ra.png,cat\r",
    ],
)
def test_any_usual_csv_gives_its_rows_in_their_order(
    load: Callable[..., Dataset], content: str | bytes
) -> None:
    dataset = load(content)

    assert rows(dataset) == PLAIN
    assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("list.tsv", "path\tlabel\nb.png\tdog\na.png\tcat\n"),
        ("list.jsonl", '{"path": "b.png", "label": "dog"}\n\n{"label": "cat", "path": "a.png"}'),
        ("metadata.csv", "file_name,label\nb.png,dog\na.png,cat\n"),
    ],
)
def test_the_ending_tells_tsv_and_json_lines(
    load: Callable[..., Dataset], file: str, content: str
) -> None:
    assert rows(load(content, file=file)) == PLAIN


def test_the_folder_of_a_metadata_csv_may_be_named_instead(
    load: Callable[..., Dataset], tmp_path: Path
) -> None:
    load("file_name,label\nb.png,dog\na.png,cat\n", file="metadata.csv")

    dataset = load_dataset(f"list:{tmp_path}", data_dir=tmp_path)

    assert rows(dataset) == PLAIN
    assert dataset_slug(f"list:{tmp_path}/metadata.csv") == f"list-{tmp_path.name}"
    with pytest.raises(DatasetError, match=r"is a folder without metadata\.csv"):
        load_dataset("list:/", data_dir=tmp_path)


def test_splits_and_ids_have_columns_of_their_own(load: Callable[..., Dataset]) -> None:
    dataset = load(
        "path,label,split,id\na.png,x,Validation,1\nb.png,x,train,2\nc.png,x,TEST,3\nb.png,x,,4\n"
    )

    assert rows(dataset) == {
        "train": [("2", "x"), ("4", "x")],
        "val": [("1", "x")],
        "test": [("3", "x")],
    }


def test_whole_numbers_as_labels_keep_their_order(load: Callable[..., Dataset]) -> None:
    content = "path,label\na.png,10\nb.png,9\nc.png,0\n"
    lines = "".join(
        json.dumps({"path": f"{name}.png", "label": label}) + "\n"
        for name, label in (("a", 10), ("b", 9), ("c", 0))
    )

    for dataset in (load(content), load(lines, file="list.jsonl")):
        assert dataset.class_names == ("0", "9", "10")
        assert dataset.splits["train"].labels.tolist() == [2, 1, 0]


def test_columns_of_other_names_are_said_in_the_name_or_by_options(
    load: Callable[..., Dataset],
) -> None:
    content = "label,Bild & Text,breed\nx,a.png,cat\ny,b.png,dog\n"
    asked = ExtractSpec(dataset="list:p.csv", path_column="Bild & Text", label_column="breed")

    dataset = load(content, columns=asked.dataset.removeprefix("list:p.csv"))

    assert asked.dataset == "list:p.csv#label=breed&path=Bild%20%26%20Text"
    assert asked.path_column is None
    assert ExtractSpec(dataset=asked.dataset, label_column="label").dataset.startswith(
        "list:p.csv#label=label&path="
    )
    assert rows(dataset) == {"train": [("a.png", "cat"), ("b.png", "dog")]}
    with pytest.raises(UsageError, match=r"no column 'bred'.* mean 'breed'\? .* --label-column"):
        load(content, columns="#path=Bild%20%26%20Text&label=bred")
    with pytest.raises(UsageError, match=r"--label-column is for list: and .*'folder:x'"):
        ExtractSpec(dataset="folder:x", label_column="breed")


def test_paths_may_be_absolute_or_lead_out_of_the_folder(
    load: Callable[..., Dataset], tmp_path: Path
) -> None:
    up = f"../{tmp_path.name}/b.png"
    dataset = load(f"path,label\n{tmp_path}/a.png,x\n{up},y\n")

    images = dataset.splits["train"].images

    assert list(dataset.splits["train"].ids) == [f"{tmp_path}/a.png", up]
    assert [images.decode(i).size for i in range(2)] == [(5, 4), (5, 4)]


def test_names_with_commas_and_of_any_script_are_read(
    load: Callable[..., Dataset], tmp_path: Path
) -> None:
    names = ["a, b.png", 'say "hi".png', "été 猫.png"]
    for i, name in enumerate(names):
        save_image(tmp_path / name, i, size=(4, 5))
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label"], *([name, "猫"] for name in names)])

    dataset = load_dataset(f"list:{tmp_path}/odd.csv", data_dir=tmp_path)

    assert list(dataset.splits["train"].ids) == names
    assert dataset.class_names == ("猫",)
    assert all(dataset.splits["train"].images.decode(i) for i in range(3))


MALFORMED: dict[str, tuple[str, str | bytes, str]] = {
    "too few values": ("l.csv", "path,label\na.png,x\nb.png\n", "line 3: 1 values, but line 1"),
    "too many values": ("l.csv", "path,label\na,b.png,x\n", "line 2: 3 values, but line 1 names 2"),
    "an open quote": (
        "l.csv",
        'path,label\na.png,x\n"b.png,x\nc.png,y\n',
        "line 3: unexpected end",
    ),
    "text behind a quote": ("l.csv", 'path,label\n"a".png,x\n', "line 2: ',' expected after"),
    "no UTF-8": (
        "l.csv",
        b"path,label\na.png,x\nb.png,\xe9t\xe9\n",
        "line 3: the text is not UTF-8",
    ),
    "an empty path": ("l.csv", "path,label\na.png,x\n,x\n", "line 3: '' is empty"),
    "an empty label": ("l.csv", "path,label\na.png,x\nb.png,\n", "line 3: 'label' is empty"),
    "a long label": ("l.csv", f"path,label\na.png,{'x' * 4097}\n", "line 2: .* at most 4096"),
    "an empty id": ("l.csv", "path,label,id\na.png,x,\n", "line 2: 'id' is empty"),
    "a missing file": (
        "l.csv",
        "path,label\n\na.png,x\nz.png,x\n",
        "line 4: 'z.png' does not exist",
    ),
    "a folder": ("l.csv", "path,label\n.,x\n", "line 2: '.' is no file"),
    "a URL": ("l.csv", "path,label\nhttp://x/a.png,x\n", "line 2: 'http://x/a.png' is a URL"),
    "a zero byte": ("l.csv", "path,label\na\0.png,x\n", "line 2: 'a\\\\x00.png' does not exist"),
    "a path twice": ("l.csv", "path,label\na.png,x\na.png,y\n", "line 3: 'a.png' is there already"),
    "an unknown split": (
        "l.csv",
        "path,label,split\na.png,x,holdout\n",
        "line 2: the split is 'ho",
    ),
    "no train": ("l.csv", "path,label,split\na.png,x,test\n", "only images of 'test'"),
    "a class that train lacks": (
        "l.csv",
        "path,label,split\na.png,x,train\nb.png,y,test\n",
        "line 3: the class is 'y', of which train has no image; train's classes are 'x'",
    ),
    "no column of labels": ("l.csv", "path,kind\na.png,x\n", "line 1, has no column 'label'"),
    "a column twice": ("l.csv", "path,label,label\na.png,x,y\n", "has 2 columns 'label'"),
    "no rows": ("l.csv", "path,label\n", "line 1: the list names columns, but no image"),
    "nothing": ("l.csv", "", "line 1: the list is empty"),
    "no JSON": ("l.jsonl", '{"path": "a.png", "label": 1}\n{"path": ', "line 2: no JSON"),
    "no object": ("l.jsonl", '\n["a.png", "x"]\n', "line 2: no JSON object"),
    "a fraction": (
        "l.jsonl",
        '{"path": "a.png", "label": 1.5}',
        "line 1: 'label' is 1.5, but must",
    ),
    "a lacking label": (
        "l.jsonl",
        '{"path": "a.png", "label": "x"}\n{"path": "b.png"}',
        "line 2: 'label' is empty",
    ),
    "half a character as a label": (
        "l.jsonl",
        '{"path": "a.png", "label": "\\ud800"}',
        r"line 1: '\\ud800' is no id or label: it has half of a character",
    ),
    "half a character as an id": (
        "l.jsonl",
        '{"path": "a.png", "label": "x", "id": "\\udfff"}',
        r"line 1: '\\udfff' is no id or label",
    ),
    "half a character as a path": (
        "l.jsonl",
        '{"path": "\\ud800.png", "label": "x"}',
        r"line 1: '\\ud800.png' does not exist",
    ),
    "a huge value": (
        "l.csv",
        f"path,label\n{'x' * 200_000},x\n",
        r"line 2: field larger .*\)\. Not",
    ),
    "deep JSON": ("l.jsonl", "[" * 100_000, "line 1: no JSON"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_list_is_refused_with_the_line(load: Callable[..., Dataset], kind: str) -> None:
    file, content, said = MALFORMED[kind]

    with pytest.raises(FeatcacheError, match=rf"{file}'.*{said}") as caught:
        load(content, file=file)

    assert caught.value.exit_code == 2
    assert "Nothing was extracted" in str(caught.value)


def test_a_path_means_what_lies_there(load: Callable[..., Dataset], tmp_path: Path) -> None:
    load("path,label\na.png,x\n")

    assert ExtractSpec(dataset=tmp_path / "list.csv").dataset == f"list:{tmp_path}/list.csv"
    assert ExtractSpec(dataset=tmp_path).dataset == f"folder:{tmp_path}"
    with pytest.raises(UsageError, match=rf"is a file here. Write it as: list:{tmp_path}/list"):
        load_dataset(f"{tmp_path}/list.csv", data_dir=tmp_path)


def test_a_list_that_is_not_there_says_so(load: Callable[..., Dataset], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"List '.*no\.csv' does not exist"):
        load_dataset(f"list:{tmp_path}/no.csv", data_dir=tmp_path)
    with pytest.raises(UsageError, match=r"Write it as: list:FILE"):
        load_dataset("list:", data_dir=tmp_path)


def test_a_pipe_or_a_list_without_end_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with (tmp_path / "long.csv").open("wb") as file:
        file.truncate(2**30 + 1)

    for name, said in (("pipe", "is no regular file"), ("long", "at most 1073741824 are read")):
        with pytest.raises(DatasetError, match=rf"{name}\.csv'.* {said}.* Nothing was extracted"):
            load_dataset(f"list:{tmp_path}/{name}.csv", data_dir=tmp_path)


def test_a_list_of_one_column_keeps_its_paths_whole(
    load: Callable[..., Dataset], tmp_path: Path
) -> None:
    (tmp_path / "a.png").rename(tmp_path / "a,b.png")

    dataset = load("path\na,b.png\n'c.png'\n".replace("'", '"'), columns="#label=")

    assert list(dataset.splits["all"].ids) == ["a,b.png", "c.png"]
    with pytest.raises(DatasetError, match=r"line 2: 'b\.png,tabby' does not exist"):
        load("path\nb.png,tabby\n", columns="#label=")


def test_a_hundred_thousand_rows_are_planned_in_two_seconds(
    load: Callable[..., Dataset], tmp_path: Path
) -> None:
    content = "id,path,label\n" + "".join(f"{i},a.png,class {i % 100}\n" for i in range(100_000))

    started = time.process_time()
    dataset = load(content)
    seconds = time.process_time() - started

    assert len(dataset.splits["train"]) == 100_000
    assert np.bincount(dataset.splits["train"].labels).tolist() == [1000] * 100
    assert seconds < 2
