from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import featcache
from featcache.core.reporting import silent
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    MismatchError,
    UnsafeFileError,
    UsageError,
)
from featcache.evaluation.plots import plot_evaluation, plot_together
from featcache.heads import predictions
from featcache.heads.head_file import load_head, save_head
from featcache.heads.predictions import outputs_of
from featcache.heads.runs import list_runs
from featcache.training.train_result import TrainResult
from tests.feature_caches import CLASS_NAMES, IDENTITY, MakeCache, learnable_rows

Train = Callable[..., TrainResult]


def test_the_figures_are_those_of_the_training(train: Train) -> None:
    [run] = train().runs

    test, val = (featcache.evaluate(run.path, split=split) for split in ("test", "val"))

    assert test.acc.value == pytest.approx(run.test_acc)
    assert test.loss.value == pytest.approx(run.test_loss)
    assert val.acc.value == pytest.approx(run.val_acc)
    assert val.loss.value == pytest.approx(run.val_loss)
    assert test.acc.low < test.acc.value < test.acc.high
    assert (test.n_images, val.n_images) == (60, 40)


def test_training_accuracy_stands_beside_that_of_the_split(train: Train) -> None:
    path = train().path

    test, of_training = (featcache.evaluate(path, split=split) for split in ("test", "train"))

    assert test.n_train_images == of_training.n_images
    assert test.train_acc == pytest.approx(of_training.acc.value)
    assert of_training.train_acc is None  # it is the accuracy itself


@pytest.mark.parametrize(("n_classes", "is_told"), [(6, False), (7, True)])
def test_no_top_k_where_all_classes_but_one_would_count(
    make_cache: MakeCache, tmp_path: Path, n_classes: int, is_told: bool
) -> None:
    cache = make_cache(class_names=tuple("abcdefg"[:n_classes]))
    run = featcache.train_head(cache, max_epochs=1, hidden=(), runs_dir=tmp_path / "runs").path

    evaluation = featcache.evaluate(run)

    assert (evaluation.top_k is not None) == is_told


def test_the_training_split_leaves_out_validation_and_unreadable_images(train: Train) -> None:
    path = train().path

    evaluation = featcache.evaluate(path, split="train")

    assert evaluation.n_images == 158
    assert evaluation.confusion is not None
    assert sum(map(sum, evaluation.confusion)) == 158


def test_each_image_has_its_prediction(train: Train, cache: featcache.Cache) -> None:
    evaluation = featcache.evaluate(train().path)

    rows = list(csv.DictReader(evaluation.predictions.read_text().splitlines()))
    assert [row["id"] for row in rows] == list(cache["test"].ids)
    names = np.array(cache.class_names)
    assert [row["label"] for row in rows] == names[cache["test"].labels].tolist()
    right = [row["label"] == row["prediction"] for row in rows]
    assert np.mean(right) == pytest.approx(evaluation.acc.value)
    for row in rows:
        shares = {name: float(row[f"p({name})"]) for name in cache.class_names}
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.__getitem__) == row["prediction"]


def test_the_figures_are_written_beside_the_head(train: Train) -> None:
    evaluation = featcache.evaluate(train().path)

    written = json.loads((evaluation.run / "eval-test.json").read_text())
    assert written["acc"]["value"] == evaluation.acc.value


def test_the_tables_are_written_beside_the_head(train: Train) -> None:
    evaluation = featcache.evaluate(train().path)

    classes = list(csv.DictReader(evaluation.classes_file.read_text().splitlines()))
    assert [row["class"] for row in classes] == ["ant", "bee", "cow"]
    assert float(classes[1]["f1"]) == evaluation.classes[1].f1
    cells = list(csv.DictReader(evaluation.confusion_file.read_text().splitlines()))
    assert evaluation.confusion is not None
    for row in cells:
        i, j = (CLASS_NAMES.index(row[kind]) for kind in ("label", "prediction"))
        assert evaluation.confusion[i][j] == int(row["images"]) > 0
    assert sum(int(row["images"]) for row in cells) == 60


def test_the_area_under_the_curve_is_averaged_over_classes_with_images(
    train: Train,
) -> None:
    evaluation = featcache.evaluate(train().path, split="val")

    rows = list(csv.DictReader(evaluation.predictions.read_text().splitlines()))
    areas = [
        roc_auc_score([r["label"] == name for r in rows], [float(r[f"p({name})"]) for r in rows])
        for name in CLASS_NAMES
    ]
    assert evaluation.auroc == pytest.approx(np.mean(areas), abs=1e-9)


@pytest.mark.parametrize("n_present", [1, 2])
def test_a_class_without_images_has_no_area(
    make_cache: MakeCache, tmp_path: Path, n_present: int
) -> None:
    test = learnable_rows(60, seed=2)
    test.labels %= n_present
    path = make_cache("few.h5", splits={"train": learnable_rows(90, seed=1), "test": test})
    run = featcache.train_head(path, hidden=(), max_epochs=1, runs_dir=tmp_path / "runs")

    evaluation = featcache.evaluate(run.path)

    assert (evaluation.auroc is None) == (n_present == 1)
    assert len(evaluation.classes) == 3


class TestManyClasses:
    """Of which a file with all probabilities, or a matrix, would be of no use to anybody."""

    @pytest.fixture
    def evaluation(self, make_cache: MakeCache, tmp_path: Path) -> featcache.Evaluation:
        rows = {name: learnable_rows(90, seed=seed) for seed, name in enumerate(("train", "test"))}
        names = tuple(f"class {k}" for k in range(1200))
        path = make_cache("many.h5", splits=rows, class_names=names)
        run = featcache.train_head(path, hidden=(), max_epochs=1, runs_dir=tmp_path / "runs")
        return featcache.evaluate(run.path, draws=10)

    def test_have_the_labels_probability_and_the_ten_most_probable(
        self, evaluation: featcache.Evaluation, tmp_path: Path
    ) -> None:
        rows = list(csv.DictReader(evaluation.predictions.read_text().splitlines()))

        outputs = outputs_of(
            evaluation.run,
            split="test",
            cache=None,
            device="cpu",
            cache_dir=tmp_path,
            on_note=silent,
        )
        assert len(rows[0]) == 3 + 1 + 2 * 10
        for row, label, wanted in zip(rows, outputs.labels, outputs.probabilities(), strict=True):
            order = np.argsort(-wanted)
            assert float(row["p(label)"]) == pytest.approx(wanted[label], rel=1e-8)
            assert row["class 1"] == row["prediction"]
            assert [row[f"class {i}"] for i in range(1, 11)] == [f"class {k}" for k in order[:10]]
            found = [float(row[f"p(class {i})"]) for i in range(1, 11)]
            assert found == pytest.approx(wanted[order[:10]], rel=1e-8)

    def test_make_no_matrix_and_a_short_json(self, evaluation: featcache.Evaluation) -> None:
        written = json.loads((evaluation.run / "eval-test.json").read_text())

        assert (evaluation.confusion, written["confusion"], written["classes"]) == (None,) * 3
        assert (evaluation.run / "eval-test.json").stat().st_size < 3000
        assert len(evaluation.classes_file.read_text().splitlines()) == 1201
        cells = list(csv.DictReader(evaluation.confusion_file.read_text().splitlines()))
        assert sum(int(row["images"]) for row in cells) == 90


@pytest.mark.parametrize("hidden", [(8,), (2,), ()])  # what is kept: logits, what they come from
def test_blocks_of_rows_and_classes_change_no_figure(
    train: Train, monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...]
) -> None:
    path = train(hidden=hidden).path
    whole = featcache.evaluate(path)
    rows = list(csv.DictReader(whole.predictions.read_text().splitlines()))

    # Blocks of the usual size would take a cache of gigabytes.
    monkeypatch.setattr(predictions, "_BLOCK_VALUES", 7)
    again = featcache.evaluate(path)

    assert (again.acc, again.classes, again.confusion) == (
        whole.acc,
        whole.classes,
        whole.confusion,
    )
    assert again.loss.value == pytest.approx(whole.loss.value, rel=1e-6)
    assert again.auroc == pytest.approx(whole.auroc, abs=1e-9)
    again_rows = csv.DictReader(again.predictions.read_text().splitlines())
    for row, same in zip(rows, again_rows, strict=True):
        assert float(same["p(bee)"]) == pytest.approx(float(row["p(bee)"]), rel=1e-5)


def test_the_newest_run_is_taken_by_default(train: Train, tmp_path: Path) -> None:
    train(seed=1)
    newest = train(seed=0).path

    assert featcache.evaluate(runs_dir=tmp_path / "runs").run == newest


def test_a_run_is_found_by_part_of_its_name(train: Train, tmp_path: Path) -> None:
    plain, decayed = train().path, train(reg="l2").path
    runs = tmp_path / "runs"

    assert featcache.evaluate("none", runs_dir=runs).run == plain
    assert featcache.evaluate(decayed.name[-8:], runs_dir=runs).run == decayed
    with pytest.raises(UsageError, match="'toy' fits several runs"):
        featcache.evaluate("toy", runs_dir=runs)
    with pytest.raises(CacheMissingError, match="There is no run 'tyo'"):
        featcache.evaluate("tyo", runs_dir=runs)


def test_no_run_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match=r"There is no finished run in .* train-head"):
        featcache.evaluate(runs_dir=tmp_path)


def test_a_cache_of_other_features_is_refused_with_what_differs(
    train: Train, make_cache: MakeCache
) -> None:
    path = train().path
    other = make_cache("other.h5", identity={**IDENTITY, "bn": "adapted"})

    with pytest.raises(MismatchError, match='bn: found "adapted", wanted "frozen"'):
        featcache.evaluate(path, cache=other)


def test_a_cache_that_was_moved_is_found_by_its_fingerprint(
    train: Train, cache: featcache.Cache, tmp_path: Path
) -> None:
    path = train().path
    (tmp_path / "cache" / "elsewhere").mkdir()
    moved = cache.path.rename(tmp_path / "cache" / "elsewhere" / "renamed.h5")

    assert featcache.evaluate(path, cache_dir=tmp_path / "cache").cache == moved
    moved.unlink()
    with pytest.raises(CacheMissingError, match="Say where it is with --cache"):
        featcache.evaluate(path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("recorded", ["x" * 300, "x/" * 3000, "a\0b"])
def test_a_head_that_records_an_impossible_path_has_no_cache_there(
    train: Train, cache: featcache.Cache, tmp_path: Path, recorded: str
) -> None:
    path = train().path
    save_head(path, replace(load_head(path), cache_path=Path(recorded)))

    assert featcache.evaluate(path, cache_dir=tmp_path / "cache").cache == cache.path
    with pytest.raises(CacheMissingError, match="is neither at ") as caught:
        featcache.evaluate(path, cache_dir=tmp_path / "empty")
    assert len(str(caught.value)) < 600


def test_a_run_is_looked_for_by_a_name_of_any_length(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="There is no run 'xxx"):
        featcache.evaluate("x" * 250, runs_dir=tmp_path)
    with pytest.raises(UsageError, match=r"'xxx.* is no path: it has 300 bytes"):
        featcache.evaluate("x" * 300, runs_dir=tmp_path)


def test_a_head_that_is_gone_is_not_listed(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    head = train().path / "head.safetensors"
    gone = head.with_name("gone")
    gone.symlink_to("nowhere")
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone, head]))

    assert list_runs("runs") == [head.parent]


def test_a_damaged_cache_is_refused(train: Train, cache: featcache.Cache) -> None:
    path = train().path
    with cache.path.open("r+b") as file:
        file.seek(cache["test"].features.offset)  # type: ignore[attr-defined]
        file.write(b"\xff\xff\xff")

    with pytest.raises(CorruptError, match="is damaged: test rows 0 to 59"):
        featcache.evaluate(path)


def test_a_split_that_is_not_there_is_told(train: Train) -> None:
    with pytest.raises(UsageError, match=r"--split is 'tset', but .* has only train, val, test"):
        featcache.evaluate(train().path, split="tset")


def test_without_a_test_split_the_validation_rows_are_taken_and_told(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    path = make_cache("alone.h5", splits={"train": learnable_rows(200, seed=1)})
    run = featcache.train_head(path, max_epochs=40, runs_dir=tmp_path / "runs").path
    told: list[str] = []

    evaluation = featcache.evaluate(run, on_note=told.append)

    assert (evaluation.split, evaluation.n_images) == ("val", 40)
    assert told == [
        f"cache {path}: 200 rows",
        "alone.h5 has no split 'test': the figures are of 'val', by which training was watched, "
        "and may be too good",
    ]
    assert featcache.compare(run, run).split == "val"


def test_a_head_compared_with_itself_does_not_differ(train: Train) -> None:
    path = train().path

    same = featcache.compare(path, path)

    assert (same.acc_difference.value, same.n_only_first, same.p_value) == (0.0, 0, 1.0)


def test_the_cache_of_two_heads_is_verified_once(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[featcache.Cache] = []
    # A reading leaves no trace that could be counted.
    monkeypatch.setattr(predictions, "require_sound", verified.append)
    first, second = train().path, train(seed=1).path

    comparison = featcache.compare(first, second)

    assert len(verified) == 1
    assert comparison.evaluations[0].cache == comparison.evaluations[1].cache == verified[0].path


def test_a_better_head_is_found_better(train: Train) -> None:
    good, bad = train(max_epochs=20).path, train(max_epochs=1, lr=1e-5).path

    comparison = featcache.compare(good, bad)

    assert comparison.acc_difference.low > 0
    assert comparison.p_value < 0.01
    gained = (comparison.n_only_first - comparison.n_only_second) / 60
    assert comparison.acc_difference.value == pytest.approx(gained)


def test_heads_of_other_images_cannot_be_compared(
    train: Train, make_cache: MakeCache, tmp_path: Path
) -> None:
    splits = {"train": learnable_rows(60, seed=3), "test": learnable_rows(60, seed=4)}
    identity = {**IDENTITY, "dataset_sha256": "1" * 64}
    other = make_cache("other.h5", splits=splits, identity=identity)
    second = featcache.train_head(other, max_epochs=1, runs_dir=tmp_path / "runs").path

    with pytest.raises(MismatchError, match="'test' of the other hold different images"):
        featcache.compare(train().path, second)


def test_plots_are_drawn_as_png_and_svg(train: Train) -> None:
    files = plot_evaluation(featcache.evaluate(train().path))

    assert [f.name for f in files] == [
        "curves.png",
        "curves.svg",
        "confusion-test.png",
        "confusion-test.svg",
    ]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in files[3].read_bytes()


def test_a_picture_says_of_which_run_it_is_and_how_good_that_is(train: Train) -> None:
    evaluation = featcache.evaluate(train().path)

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        files = plot_evaluation(evaluation)

    for file in files[1::2]:
        assert evaluation.run.name in file.read_text()
        assert f"test_acc {evaluation.acc.value:.4f} (" in file.read_text()


def test_the_curves_of_two_runs_are_drawn_into_one_picture(train: Train) -> None:
    evaluations = [featcache.evaluate(train(reg=reg).path) for reg in ("none", "l2")]

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        png, svg = plot_together(evaluations)

    assert png.parent == evaluations[0].run.parent
    assert all(one.run.name in svg.read_text() for one in evaluations)


def test_heads_without_epochs_have_no_curves(cache: featcache.Cache, tmp_path: Path) -> None:
    run = featcache.train_head(cache, solver="ncm", runs_dir=tmp_path / "runs").path

    assert plot_together([featcache.evaluate(run)]) == []


class TestAFileInPlaceOfARun:
    def test_a_head_under_another_name_is_not_taken_for_its_neighbour(
        self, train: Train, tmp_path: Path
    ) -> None:
        run = train().path
        (run / "better.safetensors").write_bytes((run / "head.safetensors").read_bytes())

        with pytest.raises(
            UsageError, match=r"better.safetensors is a head, but a run is a folder"
        ):
            featcache.evaluate(run / "better.safetensors")

    def test_a_file_that_is_no_head_is_refused(self, train: Train) -> None:
        run = train().path

        with pytest.raises(CorruptError, match=r"metrics.csv"):
            featcache.evaluate(run / "metrics.csv")

    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        torch.save({"x": 1}, tmp_path / "x.safetensors")

        with pytest.raises(UnsafeFileError):
            featcache.evaluate(tmp_path / "x.safetensors")


OTHER_IMAGES = {**IDENTITY, "dataset_sha256": "1" * 64}


def test_a_cache_of_other_images_is_evaluated_by_the_names_of_its_classes(
    train: Train, make_cache: MakeCache
) -> None:
    path = train().path
    own = featcache.evaluate(path)
    rows = learnable_rows(60, seed=2)  # the same, under other numbers: cow, bee, ant
    swapped = replace(rows, labels=2 - rows.labels)
    other = make_cache(
        "other.h5", identity=OTHER_IMAGES, class_names=CLASS_NAMES[::-1], splits={"test": swapped}
    )

    found = featcache.evaluate(path, cache=other)

    assert (found.acc, found.loss, found.n_images) == (own.acc, own.loss, 60)
    assert found.train_acc is None
    assert found.predictions.name == "predictions-test-other.csv"
    assert found.predictions.read_text() == own.predictions.read_text()
    assert (path / "eval-test-other.json").exists()
    assert found.remarks[0].startswith("the head was trained on other images")


def test_classes_that_are_missing_or_too_many_are_told(train: Train, make_cache: MakeCache) -> None:
    path = train().path
    other = make_cache(
        "other.h5",
        identity=OTHER_IMAGES,
        class_names=("ant", "bee", "dog"),
        splits={"new": learnable_rows(60, seed=2, unreadable=(0,))},
    )
    notes: list[str] = []

    found = featcache.evaluate(path, cache=other, split="new", on_note=notes.append)

    assert (found.split, found.n_images) == ("new", 39)  # 20 dogs, and an ant, are left out
    assert found.remarks[2:4] == (
        "1 class that the head does not know, left out with 20 images: dog",
        "1 class of the head without an image here: cow",
    )
    assert set(found.remarks) <= set(notes)


def test_images_without_a_class_of_the_head_are_refused(
    train: Train, make_cache: MakeCache
) -> None:
    other = make_cache("other.h5", identity=OTHER_IMAGES, class_names=("x", "y", "z"))

    with pytest.raises(MismatchError, match=r"has no class of .*: x, y, z there, ant, bee, cow"):
        featcache.evaluate(train().path, cache=other)


def test_a_backbone_that_was_adapted_to_other_images_is_another_function(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    adapted = {**IDENTITY, "bn": {"mode": "adapted"}}
    own = make_cache("own.h5", identity=adapted)
    other = make_cache("other.h5", identity={**adapted, "dataset_sha256": "1" * 64})
    run = featcache.train_head(own, max_epochs=1, runs_dir=tmp_path / "runs").path

    with pytest.raises(MismatchError, match=r"was adapted to the images .*featcache predict"):
        featcache.evaluate(run, cache=other)
