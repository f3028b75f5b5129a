"""An audit finds what was planted, says what it does not know, and edits nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache import DuplicatePair
from featcache.errors import CacheMissingError, MismatchError
from tests.benchmarks.planting import plant, with_wrong_labels
from tests.feature_caches import IDENTITY, MakeCache, learnable_rows
from tests.insight.photographs import cache_of_photographs, copied, extracted, save_photograph
from tests.store.version_1 import as_version_1


def ids_of(pairs: tuple[DuplicatePair, ...], kind: str) -> set[frozenset[str]]:
    return {frozenset((p.first.id, p.second.id)) for p in pairs if p.kind == kind}


@pytest.mark.parametrize("share_in_train", [0.0, 0.1])
def test_planted_copies_are_found_and_nothing_else_is(
    photographs: Path, tmp_path: Path, share_in_train: float
) -> None:
    known = plant(
        photographs,
        tmp_path / "planted",
        n_train=60,
        n_test=20,
        n_each=8,
        share_in_train=share_in_train,
    )
    path = extracted(known.folder, tmp_path).path

    found = featcache.audit(path)

    near = {pair for pairs in known.near.values() for pair in pairs}
    assert ids_of(found.duplicates, "exact") == set(known.exact)
    assert ids_of(found.duplicates, "near") == near
    assert found.near_decided_by == "images"
    assert found.in_train == {"test": 16}
    assert [p.crosses_splits for p in found.duplicates[:16]] == [True] * 16
    assert not any(p.crosses_splits for p in found.duplicates[16:])
    assert "16 of 36 images of 'test' are in 'train' too" in found.remarks[0]


def test_each_of_several_equal_images_is_paired_with_the_first(
    photographs: Path, tmp_path: Path
) -> None:
    for copy in ("train/cat/zz.png", "train/dog/zz.png", "test/cat/zz.png"):
        copied(photographs, "train/cat/01.png", copy)
    found = featcache.audit(extracted(photographs, tmp_path).path)

    assert [(p.first.id, p.second.id, p.kind, p.labels_differ) for p in found.duplicates] == [
        ("train/cat/01.png", "test/cat/zz.png", "exact", False),
        ("train/cat/01.png", "train/cat/zz.png", "exact", False),
        ("train/cat/01.png", "train/dog/zz.png", "exact", True),
    ]
    assert found.duplicates[0].cosine == 1
    assert found.in_train == {"test": 1}


def test_images_that_could_not_be_read_are_listed_and_are_no_duplicates(
    photographs: Path, tmp_path: Path
) -> None:
    for name in ("train/cat/01.png", "test/dog/60.png"):
        (photographs / name).write_bytes(b"damaged")

    found = featcache.audit(extracted(photographs, tmp_path).path)

    assert found.duplicates == ()
    assert [(u.image.split, u.image.id, u.image.label, u.reason) for u in found.unreadable] == [
        ("train", "train/cat/01.png", "cat", "not an image"),
        ("test", "test/dog/60.png", "dog", "not an image"),
    ]
    assert found.n_images == {"train": 59, "test": 19}
    assert [(one.name, dict(one.n)) for one in found.balance] == [
        ("cat", {"train": 29, "test": 10}),
        ("dog", {"train": 30, "test": 9}),
    ]


def test_a_cache_of_version_1_is_audited_by_reading_its_images(
    photographs: Path, tmp_path: Path
) -> None:
    copied(photographs, "train/cat/01.png", "test/cat/zz.png")
    path = extracted(photographs, tmp_path).path
    as_version_1(path)
    assert featcache.open_cache(path)["train"].image_sha256 is None

    found = featcache.audit(path)

    assert ids_of(found.duplicates, "exact") == {frozenset(("train/cat/01.png", "test/cat/zz.png"))}


def test_without_the_images_features_give_candidates_which_are_no_duplicates(
    photographs: Path, tmp_path: Path
) -> None:
    with Image.open(photographs / "train/cat/01.png") as image:
        image.save(photographs / "test/cat/zz.png", "png", compress_level=0)
    copied(photographs, "train/cat/03.png", "test/cat/zy.png")
    path = extracted(photographs, tmp_path).path
    photographs.rename(tmp_path / "elsewhere")

    gone = featcache.audit(path, top=5)
    there = featcache.audit(path, top=5, dataset=f"folder:{tmp_path / 'elsewhere'}")

    first, second, *others = gone.duplicates
    assert (first.first.id, first.kind) == ("train/cat/03.png", "exact")  # its digest is known
    assert (second.first.id, second.kind) == ("train/cat/01.png", "candidate")
    assert second.cosine == 1
    assert second.correlation is None
    assert {p.kind for p in others} == {"candidate"}
    assert len(gone.duplicates) == 6
    assert gone.in_train == {"test": 1}
    assert gone.near_decided_by == "features"
    assert "No image was there to decide on near duplicates" in gone.remarks[0]
    assert [p.kind for p in there.duplicates] == ["exact", "near"]


def test_an_image_that_changed_since_decides_nothing(photographs: Path, tmp_path: Path) -> None:
    path = extracted(photographs, tmp_path).path
    save_photograph(photographs / "train/cat/01.png", 999)

    found = featcache.audit(path)

    assert found.near_decided_by == "features"
    assert "An image changed since the cache was made" in found.remarks[0]
    assert "train/cat/01.png" in found.remarks[0]


def test_arrays_are_compared_with_what_the_cache_was_made_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
    pixels[11] = pixels[2]
    pixels[10] = pixels[3] // 2 + 40
    labels = np.arange(12) % 2
    made = featcache.make_dataset((pixels, labels), name="made")
    path = featcache.extract(made, backbone="pixels", cache_dir=tmp_path).path
    changed = pixels.copy()
    changed[10] = 0

    found = featcache.audit(path, dataset=made)
    other = featcache.make_dataset((changed, labels), name="made")
    of_another = featcache.audit(path, dataset=other)

    assert ids_of(found.duplicates, "exact") == {frozenset(["2", "11"])}
    assert ids_of(found.duplicates, "near") == {frozenset(["3", "10"])}
    assert ids_of(of_another.duplicates, "near") == set()
    assert "1 image could not be compared with others" in " ".join(of_another.remarks)


def test_digits_of_several_hands_are_no_duplicates(tmp_path: Path) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=300, cache_dir=tmp_path
    ).path

    found = featcache.audit(path)

    assert len(found.duplicates) <= 1
    assert "Many images of this set are much alike" in found.remarks[0]


def test_wrong_labels_come_first(make_cache: MakeCache) -> None:
    rows, test = learnable_rows(300, seed=1), learnable_rows(30, seed=2)
    for one in (rows, test):
        one.features[:, :] += 8 * np.eye(3, 12)[one.labels].astype("<f4")
    changed, wrong = with_wrong_labels(rows.labels, 12, n_classes=3, seed=0)
    splits = {"train": replace(rows, labels=changed), "test": test}
    path = make_cache(splits=splits)

    found = featcache.audit(path, top=12)

    named = {i.image.row for i in found.label_issues if i.image.split == "train"}
    assert len(named & {*wrong.tolist()}) >= 11
    assert found.out_of_fold is not None
    assert found.out_of_fold.n_images == 330
    assert found.out_of_fold.acc == pytest.approx(1 - found.out_of_fold.n_doubted / 330)
    for issue in found.label_issues:
        assert issue.p_suggested > issue.p_label
        assert issue.suggested != issue.image.label
    margins = [i.p_suggested - i.p_label for i in found.label_issues]
    assert margins == sorted(margins, reverse=True)


def test_an_image_far_from_its_class_is_the_first_outlier(make_cache: MakeCache) -> None:
    train = learnable_rows(90, seed=1)
    train.features[7] = -train.features[train.labels == train.labels[7]].mean(0)

    found = featcache.audit(make_cache(splits={"train": train}), top=3)

    assert len(found.outliers) == 3
    assert (found.outliers[0].image.row, found.outliers[0].image.label) == (7, "bee")
    assert found.outliers[0].deviations > 3
    assert found.outliers[0].cosine < found.outliers[1].cosine


def test_an_image_is_an_outlier_by_the_images_of_its_own_split(make_cache: MakeCache) -> None:
    # The test images lie close together, so in the class as a whole each train image is far off.
    train, test = learnable_rows(60, seed=1), learnable_rows(120, seed=2)
    test.features[:] = test.features[:1] + np.float32(1e-3) * test.features
    test.features[5] = -test.features[0]

    found = featcache.audit(make_cache(splits={"train": train, "test": test}), top=1)

    assert (found.outliers[0].image.split, found.outliers[0].image.row) == ("test", 5)


def test_images_without_labels_have_duplicates_and_outliers(tmp_path: Path) -> None:
    path = cache_of_photographs(tmp_path, 12)

    found = featcache.audit(path)

    assert ids_of(found.duplicates, "exact") == {frozenset(("3.png", "copy.png"))}
    assert (found.label_issues, found.out_of_fold, found.balance) == ((), None, ())
    assert found.outliers
    assert found.outliers[0].image.label == ""
    assert found.in_train == {"all": 0}


def test_features_of_another_program_are_audited_without_images(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    features[30] = features[4]
    np.savez(tmp_path / "f.npz", features=features, labels=np.arange(40) % 2)
    path = featcache.import_features(
        tmp_path / "f.npz",
        name="mine",
        features="features",
        labels="labels",
        cache_dir=tmp_path / "cache",
    ).path

    found = featcache.audit(path, top=1)

    [pair] = found.duplicates
    assert (pair.kind, pair.first.row, pair.second.row) == ("candidate", 4, 30)
    assert "Exact duplicates are not known" in found.remarks[0]
    assert "imported" in found.remarks[0]


def planted_test_rows(make_cache: MakeCache) -> Path:
    """A cache in which the first 20 test images are training images, by their digests."""
    splits = {"train": learnable_rows(200, seed=1), "test": learnable_rows(60, seed=2)}
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (260, 32), np.uint8)
    digests[200:220] = digests[:20]
    return make_cache(
        splits={
            "train": replace(splits["train"], image_sha256=digests[:200]),
            "test": replace(splits["test"], image_sha256=digests[200:]),
        }
    )


def of_another_backbone(make_cache: MakeCache) -> Path:
    identity = {**IDENTITY, "backbone": "other"}
    return make_cache("cache/folder-toys/other-00000000.h5", identity=identity)


def test_the_newest_head_is_tested_without_the_images_that_are_in_train(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    path = planted_test_rows(make_cache)
    runs = tmp_path / "runs"
    other = of_another_backbone(make_cache)
    head = featcache.train_head(path, solver="ncm", runs_dir=runs).path
    featcache.train_head(other, solver="ncm", runs_dir=runs)  # newer, and of another cache
    notes: list[str] = []

    found = featcache.audit(path, runs_dir=runs, cache_dir=tmp_path / "cache", on_note=notes.append)

    assert len([note for note in notes if note.startswith("cache ")]) == 1

    evaluation = featcache.evaluate(head)
    lines = evaluation.predictions.read_text().splitlines()[1:]
    right = [line.split(",")[1] == line.split(",")[2] for line in lines]
    assert found.tested is not None
    assert found.tested.run == head
    assert (found.tested.n_images, found.tested.n_without) == (60, 40)
    assert found.tested.test_acc == pytest.approx(evaluation.acc.value)
    assert found.tested.test_acc_without == pytest.approx(np.mean(right[20:]))


def test_a_run_of_another_cache_is_refused(
    make_cache: MakeCache, cache: featcache.Cache, tmp_path: Path
) -> None:
    run = featcache.train_head(cache, solver="ncm", runs_dir=tmp_path / "runs").path
    other = of_another_backbone(make_cache)

    with pytest.raises(MismatchError, match="was trained on another cache"):
        featcache.audit(other, run=run)


def test_too_few_images_are_audited_without_judging_labels(make_cache: MakeCache) -> None:
    one = make_cache(splits={"train": learnable_rows(1, seed=1)})

    found = featcache.audit(one)

    assert (found.duplicates, found.outliers, found.label_issues) == ((), (), ())
    assert "Labels were not judged: all images are of one class." in found.remarks
    assert [*map(len, (found.balance, found.unreadable))] == [3, 0]


def test_a_cache_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="There is no cache 'nosuch'"):
        featcache.audit("nosuch", cache_dir=tmp_path)


def test_progress_is_told_by_stages(photographs: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    featcache.audit(extracted(photographs, tmp_path).path, on_progress=lambda *d: told.append(d))

    stages: dict[str, Any] = {stage: (done, total) for stage, done, total in told}
    assert stages["compare features"] == (60 + 20 + 20, 100)
    assert stages["read images"] == (80, 80)
    assert stages["compare images"][0] == stages["compare images"][1] > 400
    assert stages["judge labels"] == (10, 10)
