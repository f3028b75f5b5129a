"""Answers for new images: equal to what `evaluate` writes, whatever the images come in."""

from __future__ import annotations

import csv
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.deployment.prediction_table import require_no_table, write_table
from featcache.errors import (
    CacheMissingError,
    DatasetError,
    MismatchError,
    UsageError,
)
from tests.conftest import save_image
from tests.deployment.conftest import N_TEST, Extract
from tests.deployment.heads import save_random_head


def evaluated(run: Path) -> tuple[list[str], np.ndarray]:
    """The predictions and probabilities that `evaluate` writes."""
    with featcache.evaluate(run).predictions.open() as file:
        titles, *rows = csv.reader(file)
    start = next(i for i, title in enumerate(titles) if title.startswith("p("))
    return [row[2] for row in rows], np.array([row[start:] for row in rows], float)


def answers(images: object, run: Path, **options: object) -> list[featcache.ImagePrediction]:
    return list(featcache.predict(images, run=run, n_workers=0, compile="never", **options))


def test_files_are_answered_as_evaluate_does(run: Path, photos: Path) -> None:
    classes, probabilities = evaluated(run)

    found = answers(photos, run, top=10, batch_size=4)

    assert [Path(one.image).name for one in found] == [f"{i}.png" for i in range(N_TEST)]
    assert [one.classes[0] for one in found] == classes
    assert len(set(classes)) > 1
    ranked = -np.sort(-probabilities, axis=1)
    assert np.abs(ranked - [one.probabilities for one in found]).max() <= 1e-6


def test_decoding_processes_change_no_digit(run: Path, photos: Path) -> None:
    alone = answers(photos, run)

    with_workers = list(featcache.predict(photos, run=run, n_workers=2, compile="never"))

    assert with_workers == alone


def test_an_image_alone_is_answered_as_among_others(run: Path, photos: Path) -> None:
    among = answers([*photos.iterdir()] * 8, run)

    alone = [answers(one.image, run)[0] for one in among[:3]]

    for one, other in zip(alone, among, strict=False):
        assert one.classes[0] == other.classes[0]
        assert np.abs(np.subtract(one.probabilities, other.probabilities)).max() <= 1e-5


def test_several_heads_of_one_cache_answer_in_one_pass(run: Path, photos: Path) -> None:
    [cache] = featcache.list_caches(run.parents[2] / "cache")
    other = save_random_head(cache.path, run.with_name("b"), seed=3).path.parent
    alone = [answers(photos, one) for one in (run, other)]

    together = answers(photos, [run, other])

    assert [one for one in together if one.run == run] == alone[0]
    assert [one for one in together if one.run == other] == alone[1]


def test_heads_of_two_caches_are_refused(run: Path, of_digits: Extract, photos: Path) -> None:
    other = save_random_head(of_digits(limit=12).path, run.with_name("b")).path.parent

    with pytest.raises(MismatchError, match=r"another cache than .*dataset_sha256.*--run must be"):
        answers(photos, [run, other])


def test_unreadable_images_are_rows_with_a_reason(run: Path, photos: Path) -> None:
    (photos / "3.png").write_bytes(b"no image")
    (photos / "empty.jpg").touch()
    (photos / "folder.png").mkdir()
    given = [photos / "0.png", photos / "3.png", photos / "empty.jpg", photos / "gone.png"]

    found = featcache.predict(map(os.fspath, given), run=run, n_workers=0)

    assert [one.reason for one in found] == [
        "",
        "not an image",
        "empty file",
        "cannot read: No such file or directory",
    ]
    assert (found.n_images, found.n_unreadable) == (4, 3)


def test_many_unreadable_files_are_many_rows(run: Path, tmp_path: Path) -> None:
    paths = (str(tmp_path / f"{i}.png") for i in range(5000))

    found = featcache.predict(paths, run=run, n_workers=0)
    reasons = {one.reason for one in found}

    assert reasons == {"cannot read: No such file or directory"}
    assert (found.n_images, found.n_unreadable) == (5000, 5000)


def test_a_folder_of_mixed_files_gives_its_images_and_says_what_it_passed_over(
    run: Path, photos: Path
) -> None:
    (photos / "deeper").mkdir()
    shutil.copy(photos / "0.png", photos / "deeper" / "again.PNG")
    (photos / "notes.txt").write_text("no image")
    empty = photos.with_name("empty")
    empty.mkdir()
    notes: list[str] = []

    found = answers([empty, photos], run, on_note=notes.append)

    assert [one.image for one in found[-2:]] == [
        f"{photos}/7.png",
        f"{photos}/deeper/again.PNG",
    ]
    assert f"{photos}: 1 file passed over, whose names are not those of images" in notes
    assert f"{empty} holds no image" in notes


def test_any_name_of_a_file_is_answered(run: Path, photos: Path, tmp_path: Path) -> None:
    names = [b"line\nbreak.png", b"\xff\xfe.png", b'comma,quote".png']
    paths = [os.fsdecode(os.fsencode(photos) + b"/" + name) for name in names]
    for path in paths:
        shutil.copy(photos / "0.png", path)
    out = require_no_table(tmp_path / "out.csv")

    write_table(out, featcache.predict(paths, run=run, n_workers=0))

    with out.open(errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == paths
    assert {row["reason"] for row in rows} == {""}


@pytest.mark.parametrize("given", ["nothing", ["nothing", "nowhere"], "empty"])
def test_nothing_to_predict_is_refused_before_anything_starts(
    run: Path, tmp_path: Path, given: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()

    with pytest.raises(DatasetError, match=r"(does not exist|holds no image).*Nothing was started"):
        featcache.predict(given, run=run)


def test_only_unsure_answers_are_told_below_a_probability(run: Path, photos: Path) -> None:
    (photos / "9.png").touch()
    every = answers(photos, run)
    middle = float(np.median([one.probabilities[0] for one in every if not one.reason]))

    found = answers(photos, run, below=middle)

    assert 1 < len(found) < len(every)
    assert found == [one for one in every if one.reason or one.probabilities[0] < middle]


@pytest.mark.parametrize("below", [0, 1.5])
def test_a_probability_that_none_is_below_is_refused(run: Path, below: float) -> None:
    with pytest.raises(UsageError, match="but must be above 0 and at most 1"):
        featcache.predict("a.png", run=run, below=below)


def test_a_list_in_an_iterator_is_answered_before_more_is_asked_for(
    run: Path, photos: Path
) -> None:
    asked: list[str] = []

    def paths() -> Iterator[list[str]]:
        for i in range(3):
            asked.append(f"{i}")
            yield [f"{photos}/{i}.png"]

    found = featcache.predict(paths(), run=run, n_workers=0)
    first = next(found)

    assert (first.image, asked) == (f"{photos}/0.png", ["0"])


def test_memory_does_not_grow_with_the_paths(run: Path, tmp_path: Path) -> None:
    def peak(n_portions: int) -> int:
        portions = ([f"{tmp_path}/{i}-{n}.png" for i in range(256)] for n in range(n_portions))
        found = featcache.predict(portions, run=run, n_workers=0)
        next(found)
        tracemalloc.start()
        for _ in found:
            pass
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    few = peak(4)

    assert peak(20) < 1.3 * few


def test_rows_of_half_precision_are_rounded_as_in_the_cache(
    of_digits: Extract, tmp_path: Path, photos: Path
) -> None:
    made = of_digits(store_dtype="float16", backbone="resnet18", batch_size=4)
    run = save_random_head(made.path, tmp_path / "half").path.parent
    classes, probabilities = evaluated(run)

    found = answers(photos, run, top=10, batch_size=4)

    assert [one.classes[0] for one in found] == classes
    ranked = -np.sort(-probabilities, axis=1)
    assert np.abs(ranked - [one.probabilities for one in found]).max() <= 1e-6


def test_pixels_are_answered_as_evaluate_does(tmp_path: Path) -> None:
    for i in range(12):
        save_image(tmp_path / "pets" / ("train", "test")[i % 2] / f"c{i % 3}" / f"{i}.png", i)
    made = featcache.extract(
        f"folder:{tmp_path}/pets", backbone="pixels", image_size=8, n_workers=0,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    run = save_random_head(made.path, tmp_path / "run").path.parent
    classes, probabilities = evaluated(run)

    found = answers(tmp_path / "pets" / "test", run, top=3)

    assert [one.classes[0] for one in found] == classes
    ranked = -np.sort(-probabilities, axis=1)
    assert np.abs(ranked - [one.probabilities for one in found]).max() <= 1e-6


def test_a_knn_head_asks_the_rows_of_its_cache(
    of_digits: Extract, photos: Path, tmp_path: Path
) -> None:
    made = of_digits(limit=40)
    run = featcache.train_head(
        made.path, solver="knn", k=(3,), runs_dir=tmp_path / "knn", cache_dir=tmp_path / "cache"
    ).path
    classes, probabilities = evaluated(run)
    every = featcache.open_cache(made.path)["test"]

    digits = featcache.load_dataset("digits", data_dir="data").limited(40).splits["test"]
    predictor = featcache.load_predictor(run, n_workers=0, compile="never")
    found = predictor.predict(digits.images.pixels)

    assert list(found.classes) == classes
    assert np.abs(found.probabilities - probabilities).max() <= 1e-6
    assert len(every) == len(classes)
    made.path.unlink()
    with pytest.raises(CacheMissingError, match=r"is a kNN head, which asks the rows of its cache"):
        featcache.predict(photos, run=run, cache_dir=tmp_path / "cache")
