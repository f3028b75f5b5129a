"""Parquet files of images: bytes, structs or paths; damage is named with file and row group."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from featcache.core.preprocess import Preprocess
from featcache.errors import DatasetError, FeatcacheError, MismatchError, UsageError
from featcache.images.batches import Span, load_batches
from featcache.images.datasets import load_dataset
from featcache.images.sources.parquet_schema import read_texts
from featcache.images.splits import Dataset, UnreadableImageError
from tests.conftest import save_image


@pytest.fixture
def pngs(tmp_path: Path) -> list[bytes]:
    for i in range(9):
        save_image(tmp_path / f"{i}.png", i, size=(4, 5))
    return [(tmp_path / f"{i}.png").read_bytes() for i in range(9)]


def write(path: Path, columns: dict[str, Any], *, group: int = 4, **options: Any) -> Path:
    table = pa.table(columns)
    if metadata := options.pop("metadata", None):
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    parquet.write_table(table, path, row_group_size=group, write_page_checksum=True, **options)
    return path


def load(path: Path | str, columns: str = "") -> Dataset:
    return load_dataset(f"parquet:{path}{columns}", data_dir="data")


LABELS = [i % 2 for i in range(9)]


def test_bytes_structs_and_paths_are_the_same_images(pngs: list[bytes], tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(9)]
    structs = [{"bytes": png, "path": name} for png, name in zip(pngs, names, strict=True)]
    files = [
        write(tmp_path / "struct.parquet", {"image": structs, "label": LABELS}),
        write(tmp_path / "bytes.parquet", {"img": pngs, "label": LABELS, "id": names}),
        write(tmp_path / "path.parquet", {"file_name": names, "label": LABELS}),
    ]

    datasets = [load(path) for path in files]

    assert len({dataset.digest() for dataset in datasets}) == 1
    for dataset in datasets:
        images = dataset.splits["train"].images
        assert list(dataset.splits["train"].ids) == names
        assert [images.decode(row).size for row in (8, 0, 4)] == [(5, 4)] * 3


def test_numbered_classes_have_the_names_that_a_hub_writes(
    pngs: list[bytes], tmp_path: Path
) -> None:
    names = ["zebra", "unused", "ant"]
    metadata = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    labels = [0, 2, 2, 0, 2, 2, 0, 0, 2]

    dataset = load(
        write(tmp_path / "a.parquet", {"image": pngs, "label": labels}, metadata=metadata)
    )

    assert dataset.class_names == ("zebra", "ant")
    assert dataset.splits["train"].labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 1]
    assert dataset.notes == (
        "Ids are the numbers of the rows: paths are missing, or some are alike.",
    )
    path = write(tmp_path / "b.parquet", {"image": pngs, "label": [-1] * 9}, metadata=metadata)
    with pytest.raises(DatasetError, match="row group 0, row 0: the label is -1, but there are 3"):
        load(path)


def test_splits_come_from_a_column_or_from_the_names_of_files(
    pngs: list[bytes], tmp_path: Path
) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        write(tmp_path / f"{name}.parquet", {"image": pngs, "label": LABELS})
    splits = ["train", "test", "train"] * 3
    write(tmp_path / "all.parquet", {"image": pngs, "label": LABELS, "split": splits})

    by_files = load(f"{tmp_path}/*-of-*.parquet")
    by_column = load(tmp_path / "all.parquet")

    assert {name: len(s) for name, s in by_files.splits.items()} == {"train": 18, "val": 9}
    assert {name: len(s) for name, s in by_column.splits.items()} == {"train": 6, "test": 3}
    assert list(by_column.splits["test"].ids) == ["1", "4", "7"]


def test_worker_processes_read_row_groups_of_their_own(pngs: list[bytes], tmp_path: Path) -> None:
    dataset = load(write(tmp_path / "a.parquet", {"image": pngs, "label": LABELS}, group=3))
    _, dataset = dataset.identified()
    split = dataset.splits["train"]
    spans = [Span(0, 2), Span(2, 4), Span(4, 6), Span(6, 8), Span(8, 9)]
    of = {"preprocess": Preprocess.notebook(8)}

    here = [b.images.tobytes() for b in load_batches(split, spans, n_workers=0, **of)]
    there = [b.images.tobytes() for b in load_batches(split, spans, n_workers=2, **of)]

    assert there == here
    assert pickle.loads(pickle.dumps(split.images)).decode(8).size == (5, 4)


def damage(path: Path, content: bytes) -> None:
    """Change one byte inside the page that holds some bytes."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(content[20:]) + 3] ^= 0xFF
    path.write_bytes(whole)


def test_a_damaged_row_group_is_named_with_its_file(pngs: list[bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": pngs, "label": LABELS}, compression="none")
    damage(path, pngs[5])

    with pytest.raises(DatasetError, match=r"a\.parquet', row group 1, is damaged") as caught:
        load(path).digest()

    assert caught.value.exit_code == 2


def test_a_damaged_column_of_labels_is_named_before_any_image_is_read(
    pngs: list[bytes], tmp_path: Path
) -> None:
    labels = ["a quite long label"] * 5 + ["another long label"] * 4
    path = write(
        tmp_path / "a.parquet",
        {"image": pngs, "label": labels},
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    damage(path, b"." * 20 + b"another long label")

    with pytest.raises(DatasetError, match=r"a\.parquet', row group 1, is damaged"):
        load(path)


def test_an_image_that_changed_or_is_missing_is_no_row(pngs: list[bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": [*pngs[:8], None], "label": LABELS})
    _, dataset = load(path).identified()
    images = dataset.splits["train"].images
    with pytest.raises(UnreadableImageError, match=r"^no bytes in its row$"):
        images.decode(8)

    write(path, {"image": pngs[::-1], "label": LABELS})

    with pytest.raises(MismatchError, match=r"a\.parquet/row group 0/row 0 is not the file"):
        images.decode(0)


MALFORMED: dict[str, tuple[dict[str, list[Any]], str]] = {
    "no images": ({"label": [1]}, "has no column 'image'; its columns are 'label'"),
    "no labels": ({"image": [b"x"]}, "has no column 'label'; its columns are 'image'"),
    "numbers": ({"image": [1], "label": [1]}, "Column 'image' of .* holds int64; expected bytes"),
    "a missing label": ({"image": [b"x"] * 2, "label": [1, None]}, "row 1: the label is missing"),
    "a fraction": ({"image": [b"x"], "label": [1.5]}, "Column 'label' of .* holds double; expec"),
    "a list": ({"image": [b"x"], "label": [[1]]}, "Column 'label' of .* holds list<.*; expected t"),
    "a long label": ({"image": [b"x"], "label": ["x" * 4097]}, "row 0: the label has 4097 charac"),
    "an id twice": (
        {"image": [b"x"] * 2, "label": [1, 1], "id": ["a", "a"]},
        "row group 0, row 1: 'a' is there already, at row group 0, row 0",
    ),
    "a missing file": ({"path": ["no.png"], "label": [1]}, "row 0: 'no.png' does not exist"),
    "no rows": (
        {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())},
        "no image",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_table_that_is_no_dataset_is_refused_with_the_row(kind: str, tmp_path: Path) -> None:
    columns, said = MALFORMED[kind]
    path = write(tmp_path / "a.parquet", columns)

    with pytest.raises(FeatcacheError, match=said) as caught:
        load(path)

    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)


def test_a_table_that_says_more_rows_than_it_can_hold_is_refused(
    pngs: list[bytes], tmp_path: Path
) -> None:
    n = 200_000
    alike = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), [pngs[0]])
    columns = {"image": alike, "label": [0] * n}
    path = write(tmp_path / "rows.parquet", columns, group=n, store_schema=False)

    with pytest.raises(DatasetError, match=rf"bytes, but says that it has {n} rows"):
        load(path)


def test_a_text_that_stands_in_many_rows_is_held_once(pngs: list[bytes], tmp_path: Path) -> None:
    label = "x" * 4000
    structs = [{"bytes": png, "path": None if i else "0.png"} for i, png in enumerate(pngs)]
    path = write(tmp_path / "a.parquet", {"image": [*structs[:-1], None], "label": [label] * 9})

    of = read_texts(str(path), 0, ["image.path", "label"])

    assert of == {"image.path": ["0.png", None, None, None], "label": [label] * 4}
    assert len({id(text) for text in of["label"]}) == 1
    assert read_texts(str(path), 2, ["image.path"]) == {"image.path": [None]}


def test_files_that_are_no_parquet_cut_short_or_of_another_kind_are_refused(
    pngs: list[bytes], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet", {"image": pngs, "label": LABELS})
    write(tmp_path / "b.parquet", {"image": pngs, "label": ["x"] * 9})

    with pytest.raises(DatasetError, match=r"b\.parquet' has other columns than '.*a\.parquet'"):
        load(f"{tmp_path}/?.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="is no Parquet file, or is cut short or damaged"):
        load(path)
    with pytest.raises(DatasetError, match="There is no file"):
        load(tmp_path / "c.parquet")
    with pytest.raises(UsageError, match=r"no column 'breed'; .* Say which it is with --label"):
        load(tmp_path / "b.parquet", "#label=breed")


def test_without_pyarrow_the_way_to_it_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from featcache.images.datasets import load_dataset\n"
        "load_dataset('parquet:a.parquet', data_dir='data')"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )

    assert 'Install it with: pip install "featcache[parquet]"' in ended.stderr
    assert "torch" not in ended.stderr
