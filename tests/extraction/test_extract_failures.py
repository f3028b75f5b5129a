from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featcache.backbones.load import load_backbone
from featcache.errors import (
    DeviceError,
    DiskFullError,
    MismatchError,
    NonFiniteError,
    StorageError,
    UsageError,
    WeightsError,
)
from featcache.extraction.progress import Progress
from tests.conftest import SMALL_BACKBONE, save_image
from tests.extraction.conftest import Extract


def backbone_state() -> dict[str, torch.Tensor]:
    module = load_backbone(SMALL_BACKBONE, weights="random").module
    assert module is not None
    return module.state_dict()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_file_that_vanishes_in_mid_run_stops_it_and_loses_no_row(
    extract: Extract, image_folder: Path, n_workers: int
) -> None:
    victim = image_folder / "test" / "cat" / "9.png"
    content = victim.read_bytes()

    def vanish(progress: Progress) -> None:
        if progress.stage == "extract":
            victim.unlink(missing_ok=True)

    with pytest.raises(StorageError, match=r"9\.png could be read when the dataset was hashed"):
        extract(n_workers=n_workers, on_progress=vanish)
    victim.write_bytes(content)
    result = extract(n_workers=n_workers)

    assert result.outcome == "resumed"
    assert not result.failures


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_image_that_changes_after_it_was_hashed_stops_the_run(
    extract: Extract, image_folder: Path, small_blocks: None, n_workers: int
) -> None:
    victim = image_folder / "train" / "dog" / "298.png"
    before = victim.read_bytes()

    def change(progress: Progress) -> None:
        if progress.stage == "digest" and progress.n_done == progress.n_total:
            save_image(victim, 4711)

    with pytest.raises(MismatchError, match=r"298\.png is not the file .*All acknowledged rows"):
        extract(n_workers=n_workers, on_progress=change)
    victim.write_bytes(before)
    resumed = extract(n_workers=n_workers)

    assert resumed.outcome == "resumed"
    assert 0 < resumed.n_rows_computed < 310
    fresh = extract(n_workers=n_workers, cache_dir=image_folder.parent / "fresh")
    assert resumed.path.read_bytes() == fresh.path.read_bytes()


def test_adapted_needs_batchnorm(extract: Extract) -> None:
    with pytest.raises(UsageError, match="squeezenet1_1 has no BatchNorm"):
        extract(backbone="squeezenet1_1", bn="adapted", limit=2)
    with pytest.raises(UsageError, match="--bn adapted needs a backbone"):
        extract(backbone="pixels", weights="DEFAULT", bn="adapted")


def test_a_disk_too_small_is_refused_before_any_work(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000})())

    with pytest.raises(DiskFullError, match=r"needs 714\.2 kB in .*614\.2 kB are missing") as err:
        extract()

    assert err.value.exit_code == 14
    assert not (tmp_path / "cache").exists()


def test_a_disk_too_small_is_refused_beside_a_larger_cache_too(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract()
    stages: list[str] = []
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000})())

    with pytest.raises(DiskFullError, match=r"needs 714\.2 kB in .*614\.2 kB are missing"):
        extract(bn="adapted", on_progress=lambda progress: stages.append(progress.stage))

    assert set(stages) <= {"digest", "weights"}  # not the pass that adapts BatchNorm
    assert extract().outcome == "reused"


def test_a_folder_that_cannot_be_made_is_a_storage_error(extract: Extract, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="Cannot write"):
        extract(cache_dir=tmp_path / "file")


def test_nan_in_the_weights_names_the_tensor(extract: Extract, tmp_path: Path) -> None:
    state = backbone_state()
    state["features.3.block.0.0.weight"][0] = float("nan")
    torch.save(state, tmp_path / "broken.pth")

    with pytest.raises(WeightsError, match=r"features\.3\.block\.0\.0\.weight"):
        extract(weights=str(tmp_path / "broken.pth"))


def test_features_that_overflow_name_the_images(extract: Extract, tmp_path: Path) -> None:
    state = backbone_state()
    state["features.12.1.bias"] += 1e5
    torch.save(state, tmp_path / "loud.pth")

    with pytest.raises(NonFiniteError, match=r"beyond float16.*'train/cat/001\.png'.*27 more"):
        extract(weights=str(tmp_path / "loud.pth"), store_dtype="float16")
    state["features.12.1.bias"] -= 1e5
    state["features.12.0.weight"] *= 1e-12
    torch.save(state, tmp_path / "silent.pth")
    with pytest.raises(NonFiniteError, match=r"all below float16's least.*27 more"):
        extract(weights=str(tmp_path / "silent.pth"), store_dtype="float16")
    state["features.12.1.bias"] += 3e38
    torch.save(state, tmp_path / "louder.pth")
    with pytest.raises(NonFiniteError, match=r"NaN or infinite features: image 'train/cat"):
        extract(weights=str(tmp_path / "louder.pth"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_size": 0}, "--image-size is 0, but must be at least 1"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"backbone": "vgg61"}, "Did you mean 'vgg19', 'vgg16', 'vgg13'"),
        ({"bn": "frosen"}, "Did you mean 'frozen'"),
        ({"precision": "fp8"}, r"Did you mean 'fp\d+'"),
        ({"backbone": "vgg16", "image_size": 16}, "vgg16.*32"),
        ({"device": "gpu"}, "none of: auto, cpu, cuda, cuda:N"),
        ({"precision": "tf32", "device": "cpu"}, "tf32 exists only on CUDA"),
    ],
)
def test_bad_arguments_are_usage_errors(
    extract: Extract, options: dict[str, object], text: str
) -> None:
    with pytest.raises(UsageError, match=text) as err:
        extract(**options)

    assert err.value.exit_code == 2


def test_a_missing_cuda_device_is_a_device_error(extract: Extract) -> None:
    with pytest.raises(DeviceError, match="sees 0 CUDA device") as err:
        extract(device="cuda:7" if not torch.cuda.is_available() else "cuda:77")

    assert err.value.exit_code == 16
