"""What a training takes where nothing was given, and what is said about what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError
from featcache.evaluation.remarks import wilson_interval
from featcache.training.recipes import pick_recipe
from featcache.training.train_result import TrainResult
from tests.feature_caches import IDENTITY, MakeCache, Rows, learnable_rows

Train = Callable[..., TrainResult]
NOTEBOOKS = {"dataset": "cifar10", "limit": None}


@pytest.fixture
def make_notebook_cache(make_cache: MakeCache) -> Callable[..., featcache.Cache]:
    """A cache that says it is of the notebook's data, or of what stands in `provenance`."""

    def make(backbone: str = "vgg16", *, image_size: int = 224, **options: Any) -> featcache.Cache:
        preprocess = asdict(Preprocess.notebook(image_size))
        identity = {**IDENTITY, "backbone": backbone, "preprocess": preprocess}
        options.setdefault("provenance", NOTEBOOKS)
        return featcache.open_cache(make_cache(identity=identity, **options))

    return make


def taken(
    cache: featcache.Cache, recipe: str = "auto", *, reg: str = "none", given: tuple[str, ...] = ()
) -> tuple[str, HeadSpec, TrainSpec, list[str]]:
    """The recipe for a cache, what it makes of the default head and training, and what it tells."""
    notes: list[str] = []
    chosen = pick_recipe(recipe, cache, TrainSpec())
    [(head, train)] = chosen.completed(
        [(HeadSpec(reg=reg), TrainSpec())], given=given, on_note=notes.append
    )
    return chosen.name, head, train, notes


@pytest.mark.parametrize(
    ("backbone", "reg", "hidden", "max_epochs", "patience"),
    [
        ("vgg16", "none", (50, 20), 5, 3),
        ("vgg16", "l1", (50, 20), 5, 0),
        ("vgg16", "l1l2", (50, 20), 5, 0),
        ("vgg16", "dropout", (50, 20), 5, 0),
        ("mobilenet_v3_large", "none", (50, 20), 50, 3),
        ("mobilenet_v3_large", "dropout", (50, 20), 50, 3),
        ("pixels", "none", (256, 64), 10, 5),
    ],
)
def test_the_notebooks_data_and_backbones_get_the_notebooks_constants(
    make_notebook_cache: Callable[..., featcache.Cache],
    backbone: str,
    reg: str,
    hidden: tuple[int, ...],
    max_epochs: int,
    patience: int,
) -> None:
    name, head, train, notes = taken(make_notebook_cache(backbone), reg=reg)

    assert name == "notebook"
    assert head == HeadSpec(hidden=hidden, reg=reg)
    assert train == TrainSpec(
        lr=1e-5, max_epochs=max_epochs, patience=patience, min_delta=0.001, select="last"
    )
    assert notes == [
        f"recipe notebook, because the cache is of all of cifar10, prepared as in the notebook, "
        f"through {backbone}: --hidden {','.join(map(str, hidden))} --lr 1e-05 --max-epochs "
        f"{max_epochs} --patience {patience} --select last"
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"provenance": {"dataset": "digits", "limit": None}},
            "the cache is of digits, not of the notebook's cifar10",
        ),
        (
            {"provenance": {"dataset": "cifar10", "limit": 500}},
            "the cache holds 500 images of each split, and the notebook's data is all",
        ),
        ({"backbone": "resnet18"}, "the notebook has no system with the backbone resnet18"),
        ({"image_size": 96}, "the cache's images were prepared otherwise than the notebook's"),
    ],
)
def test_everything_else_gets_the_general_recipe_with_the_reason(
    make_notebook_cache: Callable[..., featcache.Cache], options: dict[str, Any], why: str
) -> None:
    rows = {"train": learnable_rows(1601, seed=1), "test": learnable_rows(60, seed=2)}

    name, head, train, notes = taken(make_notebook_cache(splits=rows, **options), reg="l2")

    assert name == "general"
    assert head == HeadSpec(hidden=(50, 20), reg="l2", weight_decay=1e-4)
    assert train == TrainSpec(lr=1e-3, max_epochs=100, patience=5, select="best")
    assert notes == [
        f"recipe general, because {why}: --hidden 50,20 --lr 0.001 --max-epochs 100 --patience 5 "
        f"--select best"
    ]


@pytest.mark.parametrize(
    ("n_rows", "has_val", "batch_size", "patience"),
    [
        (1601, False, 64, 5),  # 1,281 rows train: 21 steps
        (1500, False, 64, 10),  # 1,200: 19 steps
        (1217, True, 64, 5),  # 20 steps
        (200, False, 16, 10),  # 10 steps
        (20, False, 64, 100),  # 1 step
    ],
)
def test_general_patience_counts_epochs_of_at_least_20_steps(
    make_cache: MakeCache, n_rows: int, has_val: bool, batch_size: int, patience: int
) -> None:
    splits = {"train": learnable_rows(n_rows, seed=1), "test": learnable_rows(9, seed=2)}
    if has_val:
        splits["val"] = learnable_rows(30, seed=3)
    cache = featcache.open_cache(make_cache(splits=splits))
    notes: list[str] = []

    chosen = pick_recipe("auto", cache, TrainSpec(batch_size=batch_size))
    [(_, train)] = chosen.completed([(HeadSpec(), TrainSpec())], given=(), on_note=notes.append)

    assert train.patience == patience
    assert ("epochs of 20 steps at least" in notes[0]) == (patience > 5)


def test_a_recipe_can_be_asked_for(make_notebook_cache: Callable[..., featcache.Cache]) -> None:
    notebooks = make_notebook_cache("mobilenet_v3_large", name="cache/cifar10/a.h5")
    other = make_notebook_cache("resnet18", name="cache/cifar10/b.h5")

    assert taken(notebooks, "general")[2].max_epochs == 100
    assert taken(notebooks, "notebook")[2].max_epochs == 50
    name, head, train, [note] = taken(other, "notebook")
    assert (name, head.hidden, train.lr, train.max_epochs) == ("notebook", (50, 20), 1e-5, 5)
    assert note.startswith("recipe notebook, because it was asked for: ")


def test_an_unknown_recipe_is_refused(train: Train) -> None:
    with pytest.raises(UsageError, match=r"--recipe is 'genral'.*Did you mean 'general'"):
        train(recipe="genral")


def test_what_is_given_by_hand_wins(cache: featcache.Cache, tmp_path: Path) -> None:
    notes: list[str] = []
    given: dict[str, Any] = {"hidden": (4,), "lr": 1e-2, "select": "last"}

    result = featcache.train_head(
        cache, **given, max_epochs=2, runs_dir=tmp_path / "runs", on_note=notes.append
    )

    head = featcache.load_head(result.path)
    assert (head.spec.hidden, head.train.lr, head.train.select) == ((4,), 1e-2, "last")
    assert (head.train.max_epochs, head.train.patience) == (2, 35)
    [note] = [note for note in notes if note.startswith("recipe ")]
    assert note == (
        "recipe general, because the cache is of folder:toys, not of the notebook's cifar10: "
        "--patience 35 (patience is 5 epochs of 20 steps at least; one of this cache has 3)"
    )
    assert result.choices["recipe"] == (
        "general (the cache is of folder:toys, not of the notebook's cifar10)"
    )


def test_the_name_of_a_run_hashes_values_and_not_the_recipe(
    cache: featcache.Cache, tmp_path: Path
) -> None:
    notes: list[str] = []
    by_recipe = featcache.train_head(cache, runs_dir=tmp_path / "runs")

    by_hand = featcache.train_head(
        cache,
        recipe="notebook",
        hidden=(50, 20),
        lr=1e-3,
        max_epochs=100,
        patience=35,
        select="best",
        runs_dir=tmp_path / "runs",
        on_note=notes.append,
    )

    assert by_hand.path == by_recipe.path
    assert not [note for note in notes if note.startswith("recipe ")]  # nothing is taken from it


def test_a_run_made_before_there_were_recipes_keeps_its_name(tmp_path: Path) -> None:
    pixels = featcache.extract(
        "digits", backbone="pixels", image_size=8, cache_dir=tmp_path / "cache"
    )

    result = featcache.train_head(
        pixels.path,
        lr=1e-3,
        max_epochs=1,
        patience=0,
        select="last",
        runs_dir=tmp_path / "runs",
    )

    assert pixels.path.name == "pixels-5cc65242.h5"
    assert result.path.name == "pixels-none-7acfc102"


def test_a_sweep_has_the_recipe_of_a_single_head(cache: featcache.Cache, tmp_path: Path) -> None:
    notes: list[str] = []
    runs = tmp_path / "runs"

    swept = featcache.sweep(
        cache, reg=("none", "l2"), max_epochs=3, runs_dir=runs, on_note=notes.append
    )

    alone = [
        featcache.train_head(cache, reg=r, max_epochs=3, runs_dir=runs) for r in ("none", "l2")
    ]
    assert {a.runs[0].outcome for a in alone} == {"reused"}
    assert {a.path for a in alone} == {s.runs[0] for s in swept.settings}
    assert len([note for note in notes if note.startswith("recipe general, because")]) == 1


def test_a_sweep_tells_apart_what_the_notebook_has_for_each_regularisation(
    make_notebook_cache: Callable[..., featcache.Cache], tmp_path: Path
) -> None:
    notes: list[str] = []

    featcache.sweep(
        make_notebook_cache(),
        reg=("none", "l2", "dropout"),
        max_epochs=1,
        runs_dir=tmp_path / "runs",
        on_note=notes.append,
    )

    told = [note.partition(", because")[0] for note in notes if note.startswith("recipe ")]
    assert told == [
        "recipe notebook with --reg none",
        "recipe notebook with --reg l2,dropout",
    ]


def test_digits_are_learnt_with_no_option_at_all(tmp_path: Path) -> None:
    pixels = featcache.extract(
        "digits", backbone="pixels", image_size=8, cache_dir=tmp_path / "cache"
    )

    [run] = featcache.train_head(pixels.path, runs_dir=tmp_path / "runs").runs

    assert run.test_acc is not None
    assert run.test_acc > 0.85  # with the notebook's constants it ends near 0.25


def shuffled_labels(rows: Rows) -> Rows:
    """Take away what there is to learn."""
    return replace(rows, labels=np.random.default_rng(5).permutation(rows.labels))


def test_a_head_that_is_no_better_than_the_majority_class_is_told(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    splits = {
        "train": shuffled_labels(learnable_rows(90, seed=1)),
        "test": learnable_rows(60, seed=2),
    }
    notes: list[str] = []

    result = featcache.train_head(
        make_cache(splits=splits),
        recipe="notebook",
        max_epochs=1,
        seeds=2,
        runs_dir=tmp_path / "runs",
        on_note=notes.append,
    )

    assert len(result.remarks) == 2
    acc = result.runs[1].test_acc
    assert acc is not None
    low, high = wilson_interval(acc, 60)
    assert result.remarks[1] == (
        f"seed 1: test_acc {acc:.4f} is no better than to say 'ant', the largest class, of every "
        f"image (0.3333): its 95% interval is {low:.4f} to {high:.4f}, of 60 images. Try --recipe "
        f"general, or a higher --lr."
    )
    assert notes[-2:] == list(result.remarks)


def test_an_evaluation_says_so_too(make_cache: MakeCache, tmp_path: Path) -> None:
    splits = {
        "train": shuffled_labels(learnable_rows(90, seed=1)),
        "test": learnable_rows(60, seed=2),
    }
    notes: list[str] = []
    options: dict[str, Any] = {"lr": 1e-9, "max_epochs": 1, "runs_dir": tmp_path / "runs"}
    runs = featcache.train_head(make_cache(splits=splits), seeds=2, **options).runs

    evaluation = featcache.evaluate(runs[0].path, on_note=notes.append)
    compared = featcache.compare(runs[0].path, runs[1].path, on_note=notes.append)

    acc = evaluation.acc
    assert evaluation.remarks == (
        f"test_acc {acc.value:.4f} is no better than to say 'ant', the largest class, of every "
        f"image (0.3333): its 95% interval is {acc.low:.4f} to {acc.high:.4f}, of 60 images.",
    )
    assert evaluation.remarks[0] in notes
    assert [len(each.remarks) for each in compared.evaluations] == [1, 1]
    assert f"{runs[1].path.name}: {compared.evaluations[1].remarks[0]}" in notes


def test_an_evaluation_of_a_head_that_has_learnt_says_nothing(train: Train) -> None:
    assert featcache.evaluate(train(max_epochs=60).path).remarks == ()


def test_without_test_images_the_validation_tells(make_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_cache(splits={"train": shuffled_labels(learnable_rows(90, seed=1))})

    result = featcache.sweep(cache, lr=(1e-12,), max_epochs=2, patience=1, runs_dir=tmp_path / "r")

    assert result.remarks[0].startswith("val_acc 0.")
    assert "of 18 images" in result.remarks[0]


def test_a_last_epoch_that_was_still_the_best_is_told_by_the_general_recipe_alone(
    cache: featcache.Cache, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"lr": 1e-2, "max_epochs": 3, "select": "best"}
    general = featcache.train_head(cache, **options, runs_dir=tmp_path / "runs")
    notebook = featcache.train_head(cache, **options, recipe="notebook", runs_dir=tmp_path / "runs")

    assert general.remarks == (
        "The last epoch, 3, was still the best by val_loss: the head may learn more with "
        "--max-epochs 6.",
    )
    assert notebook.remarks == ()


def test_a_head_that_has_learnt_needs_no_remark(train: Train) -> None:
    assert train(max_epochs=60).remarks == ()


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    # By hand; at 0 of n the upper end is z^2 / (n + z^2), at n of n the lower is n / (n + z^2).
    [(0.5, 10, 0.2366, 0.7634), (0.0, 10, 0.0, 0.2775), (1.0, 4, 0.5101, 1.0)],
)
def test_the_wilson_interval_is_wilsons_formula(
    share: float, n: int, low: float, high: float
) -> None:
    assert wilson_interval(share, n) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
