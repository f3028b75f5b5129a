"""The list of an audit: what it leaves out, what reads it again, and where it may not go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import featcache
from featcache import AuditResult
from featcache.errors import UsageError
from tests.insight.photographs import cache_of_photographs, copied, extracted


def kept(result: AuditResult) -> list[tuple[str, str]]:
    """Split and id of the images of the list, as `extract` reads it."""
    assert result.kept is not None
    listing = featcache.load_dataset(f"list:{result.kept}", data_dir="data")
    return [(name, i) for name, split in listing.splits.items() for i in split.ids]


def test_a_list_without_duplicates_and_damage_can_be_extracted(
    photographs: Path, tmp_path: Path
) -> None:
    copied(photographs, "train/cat/01.png", "test/cat/zz.png")
    copied(photographs, "train/cat/03.png", "train/cat/zz.png")
    copied(photographs, "train/cat/03.png", "train/cat/zzz.png")
    (photographs / "train/dog/04.png").write_bytes(b"damaged")
    path = extracted(photographs, tmp_path).path
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.png")}

    found = featcache.audit(path, write_list=tmp_path / "keep.csv")

    ids = [(name, i) for name in ("train", "test") for i in featcache.open_cache(path)[name].ids]
    dropped = [image for image in ids if image not in kept(found)]
    assert dropped == [
        ("train", "train/cat/01.png"),  # the one in test stays
        ("train", "train/cat/zz.png"),
        ("train", "train/cat/zzz.png"),
        ("train", "train/dog/04.png"),
    ]
    assert found.n_kept == len(kept(found)) == 79
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.png")} == before
    again = featcache.extract(
        f"list:{tmp_path / 'keep.csv'}",
        backbone="pixels",
        image_size=16,
        n_workers=0,
        cache_dir=tmp_path / "cache",
    )
    assert featcache.audit(again.path).duplicates == ()
    assert featcache.open_cache(again.path).class_names == ("cat", "dog")


def test_a_list_leaves_out_a_split_whose_folder_is_gone(photographs: Path, tmp_path: Path) -> None:
    path = extracted(photographs, tmp_path).path
    shutil.rmtree(photographs / "test")

    found = featcache.audit(path, write_list=tmp_path / "keep.csv")

    assert {name for name, _ in kept(found)} == {"train"}


def test_a_list_of_images_without_labels_can_be_read(tmp_path: Path) -> None:
    path = cache_of_photographs(tmp_path, 4)

    found = featcache.audit(path, write_list=tmp_path / "keep.csv")

    assert kept(found) == [("all", f"{i}.png") for i in range(4)]


@pytest.mark.parametrize(
    ("out", "text"),
    [
        ("there.csv", "something lies there already"),
        ("no/keep.csv", "there is no folder"),
        ("keep.csv", "a list names files, and the images of digits are none of their own"),
    ],
)
def test_a_list_that_cannot_be_written_is_refused_before_the_audit(
    tmp_path: Path, out: str, text: str
) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=20, cache_dir=tmp_path).path
    (tmp_path / "there.csv").write_text("mine")

    with pytest.raises(UsageError, match=text) as refusal:
        featcache.audit(path, write_list=tmp_path / out)

    assert "Nothing was audited" in str(refusal.value)
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "keep.csv").exists()
