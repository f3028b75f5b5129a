"""Parity holds for a right cache, and falls short for every kind of wrong one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import featcache
from featcache.backbones.load import load_backbone
from featcache.core.preprocess import Preprocess
from featcache.errors import MismatchError, UsageError
from featcache.images.datasets import load_dataset
from featcache.notebook.active_units import ActiveUnits
from featcache.notebook.end_to_end import ImageRows, WholeModel, whole_model
from featcache.notebook.parity import ParityReport
from featcache.notebook.parity_checks import ParityCheck

BACKBONE, SIZE, LIMIT = "resnet18", 32, 32
Parity = Callable[..., ParityReport]
_QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "limit": LIMIT}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache that parity makes: 32 digits of each split."""
    folder = tmp_path_factory.mktemp("parity")
    featcache.extract(
        "digits",
        backbone=BACKBONE,
        weights="random",
        image_size=SIZE,
        precision="fp32",
        limit=LIMIT,
        cache_dir=folder,
    )
    return folder


@pytest.fixture
def parity(made: Path, tmp_path: Path) -> Parity:
    shutil.copytree(made, tmp_path / "cache")
    return partial(
        featcache.parity,
        dataset="digits",
        backbone=BACKBONE,
        weights="random",
        image_size=SIZE,
        cache_dir=tmp_path / "cache",
        **_QUICK,
    )


@pytest.fixture
def column(tmp_path: Path, parity: Parity) -> Callable[..., npt.NDArray[Any]]:
    """A column of the cache, to be written into."""

    def column(split: str, name: str, backbone: str = BACKBONE) -> npt.NDArray[Any]:
        caches = featcache.list_caches(tmp_path / "cache")
        [summary] = [c for c in caches if c.backbone == backbone]
        rows = featcache.open_cache(summary.path)[split]
        extent = rows._columns[name]
        return np.memmap(summary.path, extent.dtype, "r+", extent.offset, extent.shape)

    return column


Column = Callable[..., npt.NDArray[Any]]


def figure(report: ParityReport, what: str) -> ParityCheck:
    [check] = [check for check in report.checks if what in check.what]
    return check


@pytest.mark.parametrize("reg", ["none", "l1l2", "dropout"])
def test_it_holds(parity: Parity, reg: str) -> None:
    report = parity(reg=reg, epochs=2, levels=(2,) if reg != "none" else (1, 2, 3), seeds=2)

    assert report.holds
    assert figure(report, "step's loss").figure < 1e-5
    assert "8 steps over 32 images" in figure(report, "step's loss").detail


def test_a_head_that_memory_cannot_hold_is_refused(parity: Parity) -> None:
    with pytest.raises(UsageError, match=r"A head with --hidden 1000000000000 on 512 features has"):
        parity(hidden=10**12)


def test_adapted_batch_norm_holds_in_its_own_mode(tmp_path: Path) -> None:
    report = featcache.parity(
        dataset="digits",
        backbone=BACKBONE,
        weights="random",
        bn="adapted",
        image_size=SIZE,
        limit=64,
        epochs=1,
        cache_dir=tmp_path,
    )

    assert report.holds
    assert report.bn == "adapted"


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit", "timm:test_convnext"])
def test_it_holds_for_timms_models_at_another_size(tmp_path: Path, backbone: str) -> None:
    report = featcache.parity(
        dataset="digits",
        backbone=backbone,
        weights="random",
        image_size=96,
        cache_dir=tmp_path,
        **_QUICK,
    )

    assert report.holds
    assert figure(report, "largest feature").tolerance == 1e-4


def test_a_layer_that_enters_no_classifier_is_refused(tmp_path: Path) -> None:
    made = featcache.extract(
        "digits",
        backbone="timm:test_vit",
        weights="random",
        pool="mean",
        limit=4,
        cache_dir=tmp_path,
    )

    with pytest.raises(UsageError, match="layer pre-logits by the pooling mean"):
        featcache.parity(cache=made.path, levels=(1,))


def test_a_repository_of_the_hub_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(UsageError, match="from a repository or a folder"):
        featcache.parity(dataset="digits", backbone="timm:hf-hub:org/net")


def rows_of(*, preprocess: Preprocess, changed: bool) -> npt.NDArray[np.float32]:
    """Compute the training rows end to end, with other preprocessing or one other weight."""
    module = load_backbone(BACKBONE, weights="random", image_size=SIZE).module
    assert module is not None
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    if changed:
        state["conv1.weight"][0, 0, 0, 0] += 0.5
    model = whole_model(BACKBONE, state, torch.nn.Identity())
    split = load_dataset("digits", data_dir="data").limited(LIMIT).splits["train"]
    images = ImageRows(split, range(LIMIT), preprocess)
    with torch.inference_mode():
        return model(torch.stack([images[i][0] for i in range(LIMIT)])).numpy()


def test_a_right_cache_is_written_again_without_notice(parity: Parity, column: Column) -> None:
    column("train", "features")[:] = rows_of(preprocess=Preprocess.notebook(SIZE), changed=False)

    assert parity().holds


def test_rows_shifted_by_one_are_caught(parity: Parity, column: Column) -> None:
    rows = column("train", "features")
    rows[:] = np.roll(rows, 1, axis=0)

    report = parity()

    assert not figure(report, "largest feature").holds
    assert not figure(report, "step's loss").holds


def test_two_labels_swapped_are_caught(parity: Parity, column: Column) -> None:
    labels = column("train", "labels")
    assert labels[3] != labels[4]
    labels[[3, 4]] = labels[[4, 3]]

    report = parity()

    assert figure(report, "labels that differ").figure == 2
    assert not figure(report, "step's loss").holds


def test_one_weight_changed_is_caught(parity: Parity, column: Column) -> None:
    column("train", "features")[:] = rows_of(preprocess=Preprocess.notebook(SIZE), changed=True)

    report = parity()

    assert not figure(report, "largest feature").holds
    assert not figure(report, "step's loss").holds


def test_imagenets_normalisation_is_caught(parity: Parity, column: Column) -> None:
    imagenet = Preprocess(
        resize=(SIZE, SIZE), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    column("train", "features")[:] = rows_of(preprocess=imagenet, changed=False)

    report = parity()

    assert not figure(report, "largest feature").holds
    assert not figure(report, "step's loss").holds


def test_another_flatten_order_is_caught(tmp_path: Path, column: Column) -> None:
    # A backbone whose features are maps: 256 channels of 6 x 6.
    parity = partial(
        featcache.parity,
        dataset="digits",
        backbone="alexnet",
        weights="random",
        image_size=63,
        levels=(1,),
        cache_dir=tmp_path / "cache",
        **_QUICK,
    )
    assert parity().holds
    rows = column("test", "features", "alexnet")
    rows[:] = rows.reshape(-1, 256, 6, 6).transpose(0, 2, 3, 1).reshape(len(rows), -1)

    assert not figure(parity(), "largest feature").holds


def test_another_order_of_test_rows_is_caught(parity: Parity, column: Column) -> None:
    rows = column("test", "features")
    rows[:] = rows[::-1].copy()

    report = parity()

    assert figure(report, "step's loss").holds
    assert not figure(report, "test_loss").holds


@pytest.mark.parametrize("n_wrong", [0, 1])
def test_one_prediction_in_32_that_differs_falls_short(
    parity: Parity, monkeypatch: pytest.MonkeyPatch, n_wrong: int
) -> None:
    whole = WholeModel.logits

    def logits(self: WholeModel, rows: ImageRows, batch_size: int) -> torch.Tensor:
        right = whole(self, rows, batch_size)
        right[:n_wrong] = -right[:n_wrong]
        return right

    monkeypatch.setattr(WholeModel, "logits", logits)

    check = figure(parity(levels=(2,)), "equal predictions")

    assert check.figure == 1 - n_wrong / 32
    assert check.holds == (n_wrong == 0)


def test_a_feature_that_is_no_number_does_not_hold(parity: Parity, column: Column) -> None:
    column("test", "features")[0, 0] = np.nan

    assert not figure(parity(levels=(1,)), "largest feature").holds


def test_no_number_does_not_hold() -> None:
    assert not ParityCheck(1, "x", float("nan"), 1e-4, False, "").holds
    assert not ParityCheck(2, "x", float("nan"), 0.999, True, "").holds


def test_it_is_found_where_a_hidden_unit_is_on_in_one_training_only() -> None:
    sides = []
    for offset in (0.0, 1e-7):
        head = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        torch.nn.init.ones_(head[0].weight)
        torch.nn.init.zeros_(head[0].bias)
        sides.append(ActiveUnits(head))
        for x in (1.0, -1.0, offset):
            head(torch.tensor([[x]]))
        head.eval()(torch.tensor([[offset - 1e-8]]))

    assert sides[0].first_difference(sides[1]) == 3
    assert sides[0].first_difference(sides[0]) is None


def test_a_training_that_parts_at_a_kink_says_at_which_step(parity: Parity, column: Column) -> None:
    rows = column("train", "features")
    rows[:] = rows * (1 + 1e-2 * np.random.default_rng(0).standard_normal(rows.shape))

    check = figure(parity(levels=(2,), epochs=2), "step's loss")

    assert re.search(r"at step [1-8] a hidden unit is on for an image on one side", check.detail)
    assert not check.holds


def test_the_backbone_of_the_other_side_stays_as_it_is_while_the_head_trains() -> None:
    head = torch.nn.Sequential(torch.nn.Linear(576, 2), torch.nn.Dropout(0.5))
    module = load_backbone("mobilenet_v3_small", weights="random", image_size=SIZE).module
    assert module is not None
    model = whole_model("mobilenet_v3_small", module.state_dict(), head)

    frozen = WholeModel(model, head, featcache.HeadSpec(), lr=1e-3).train()

    assert head.training
    assert not any(m.training for m in model.features.modules())
    assert [n for n, p in frozen.named_parameters() if p.requires_grad] != []
    assert not any(p.requires_grad for p in model.features.parameters())


def test_as_the_notebook_tells_where_its_mode_lands(tmp_path: Path) -> None:
    report = featcache.parity(
        dataset="digits",
        backbone=BACKBONE,
        weights="random",
        image_size=SIZE,
        as_notebook=True,
        cache_dir=tmp_path,
        **_QUICK,
    )

    assert report.holds
    frozen, adapted = report.beside_notebook
    assert (frozen.bn, adapted.bn) == ("frozen", "adapted")
    assert frozen.notebook_test_loss == adapted.notebook_test_loss
    # It is another function than either: only a drift that is really there shows.
    assert frozen.loss_difference > 1e-4
    assert adapted.loss_difference > 1e-4
    assert frozen.test_loss != adapted.test_loss


@pytest.mark.parametrize(
    ("options", "made_as", "tolerance"),
    [
        ({"store_dtype": "float16"}, "fp32 stored as float16", 1e-4 + 2**-10),
        ({"precision": "bf16"}, "bf16 stored as float32", 5e-2),
    ],
)
def test_a_less_exact_cache_is_held_to_its_own_tolerance(
    tmp_path: Path, options: dict[str, Any], made_as: str, tolerance: float
) -> None:
    path = featcache.extract(
        "digits",
        backbone=BACKBONE,
        weights="random",
        image_size=SIZE,
        limit=LIMIT,
        cache_dir=tmp_path,
        **options,
    ).path

    report = featcache.parity(path, weights="random", **_QUICK)

    assert report.holds
    assert made_as in figure(report, "largest feature").detail
    assert figure(report, "largest feature").tolerance == pytest.approx(tolerance)
    assert figure(report, "step's loss").tolerance == pytest.approx(tolerance)
    assert figure(report, "equal predictions").tolerance == pytest.approx(1 - tolerance)
    # The figure is that of the less exact cache, not of one computed anew in fp32.
    assert figure(report, "largest feature").figure > 1e-4


class TestACacheThatIsThere:
    def test_holds_on_a_part_of_its_rows_and_makes_no_room_for_the_others(
        self, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [summary] = featcache.list_caches(made)
        monkeypatch.delattr("featcache.features.rows.room_for")

        report = featcache.parity(summary.path, weights="random", **(_QUICK | {"limit": 16}))

        assert report.holds
        assert report.backbone == BACKBONE
        assert "2 steps over 16 images" in figure(report, "step's loss").detail

    def test_is_refused_with_other_weights(self, made: Path, tmp_path: Path) -> None:
        [summary] = featcache.list_caches(made)
        state = load_backbone(BACKBONE, weights="random", seed=1, image_size=SIZE).module
        assert state is not None
        torch.save(state.state_dict(), tmp_path / "other.pth")

        with pytest.raises(MismatchError, match=r"made with the weights random.* --weights"):
            featcache.parity(summary.path, weights=str(tmp_path / "other.pth"))

    def test_knows_that_its_weights_were_random(self, made: Path) -> None:
        [summary] = featcache.list_caches(made)

        assert featcache.parity(summary.path, levels=(1,), **_QUICK).holds

    def test_is_refused_with_other_images(self, made: Path, tmp_path: Path) -> None:
        [summary] = featcache.list_caches(made)
        folder = tmp_path / "images"
        for split in ("train", "test"):
            for name in ("a", "b"):
                (folder / split / name).mkdir(parents=True)
                Image.new("RGB", (8, 8)).save(folder / split / name / "1.png")

        with pytest.raises(
            MismatchError, match=r"images than those of folder:.*: class 0 is .* --dataset"
        ):
            featcache.parity(summary.path, weights="random", dataset=f"folder:{folder}")

    def test_says_itself_how_it_was_made(self, made: Path) -> None:
        [summary] = featcache.list_caches(made)

        with pytest.raises(UsageError, match="--bn, --as-notebook cannot be said beside it"):
            featcache.parity(summary.path, bn="adapted", as_notebook=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "pixels"}, "runs no network, so there is nothing to compare"),
        ({"levels": (1, 4)}, "--levels is 1,4, but must be of 1, 2, 3"),
        ({"epochs": 0}, "--epochs is 0, but must be at least 1"),
        ({"lr": 0.0}, "--lr is 0"),
        ({"backbone": "convnext_tiny"}, "parity knows where the classifier is in"),
        ({"backbone": "vgg11", "as_notebook": True}, "--as-notebook leaves BatchNorm in training"),
        ({"image_size": 0}, "--image-size is 0"),
    ],
)
def test_what_cannot_be_compared_is_told(
    parity: Parity, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parity(**options)
