from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import featcache
from featcache.backbones.in_flight import InFlight
from featcache.backbones.load import load_backbone
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import silent
from featcache.core.tensor_files import state_digest
from featcache.errors import (
    CorruptError,
    DeviceError,
    DiskFullError,
    InterruptedRunError,
    LockedError,
    MismatchError,
    NonFiniteError,
    StorageError,
    UsageError,
    WeightsError,
)
from featcache.extraction.extract import open_images
from featcache.extraction.job import Job
from featcache.extraction.pace import Pace, at_pace
from featcache.extraction.plan import make_plan
from featcache.extraction.progress import Progress
from featcache.extraction.result import ExtractResult
from featcache.extraction.run import make_caches
from featcache.images.batches import ImageBatch
from featcache.images.image_files import FolderImages
from featcache.images.splits import Split
from featcache.store import CacheWriter, SplitRows, locked, read_state
from tests import paces
from tests.conftest import SMALL_BACKBONE, save_image
from tests.faults.hostile_files import resigned
from tests.reference_transform import reference_transform
from tests.weights_files import save_weights

Extract = Callable[..., ExtractResult]


class StopAfter:
    """A progress callback that presses Ctrl-C after some extracted batches."""

    def __init__(self, n_batches: int) -> None:
        self.n_left = n_batches

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "extract":
            self.n_left -= 1
            if self.n_left < 0:
                raise KeyboardInterrupt


def interrupt(extract: Extract, n_batches: int, **options: object) -> None:
    with pytest.raises(InterruptedRunError):
        extract(on_progress=StopAfter(n_batches), **options)


def specs(
    source: str, names: tuple[str, ...], options: Mapping[str, Any]
) -> list[featcache.ExtractSpec]:
    """What `extract` is asked with these options, for each backbone."""
    asked = {n: str(v) if isinstance(v, Path) else v for n, v in options.items()}
    return [featcache.ExtractSpec(**{**asked, "dataset": source, "backbone": n}) for n in names]


def backbone_state() -> dict[str, torch.Tensor]:
    module = load_backbone(SMALL_BACKBONE, weights="random").module
    assert module is not None
    return module.state_dict()


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Blocks of two batches, so that a small dataset has several."""
    with paces.small_blocks():
        yield


def test_extract_computes_then_reuses(extract: Extract) -> None:
    first, second = extract(), extract()

    assert (first.outcome, first.n_rows, first.n_rows_computed) == ("computed", 310, 310)
    assert (second.outcome, second.n_rows_computed) == ("reused", 0)
    assert first.path == second.path
    assert first.path.name == f"{SMALL_BACKBONE}-{first.fingerprint[:8]}.h5"


@pytest.mark.parametrize(
    ("backbone", "preprocess"),
    [
        ("vgg16", "notebook"),
        ("mobilenet_v3_large", "notebook"),
        ("mobilenet_v2", "notebook"),
        ("mobilenet_v2", "weights"),
        ("resnet18", "weights"),
    ],
)
def test_rows_equal_a_plain_forward_of_one_image(
    extract: Extract, image_folder: Path, tmp_path: Path, backbone: str, preprocess: str
) -> None:
    weights = "random"
    if backbone == "vgg16":
        weights = str(save_weights(tmp_path / "vgg16.pth", backbone, image_size=64))
    result = extract(
        backbone=backbone, weights=weights, preprocess=preprocess, image_size=64, limit=6
    )

    cache = featcache.open_cache(result.path)
    module = load_backbone(backbone, weights=weights).module
    assert module is not None
    spec = dict(cache.identity["preprocess"])
    for name in ("resize", "mean", "std"):
        spec[name] = tuple(spec[name]) if isinstance(spec[name], list) else spec[name]
    transform = reference_transform(Preprocess(**spec))
    for split in cache.splits.values():
        for i, image_id in enumerate(split.ids):
            with Image.open(image_folder / image_id) as image, torch.inference_mode():
                expected = module(transform(image.convert("RGB"))[None])[0].numpy()
            difference = np.abs(split.features[i] - expected).max()
            assert difference <= 1e-4 * np.abs(expected).max()
            assert split.labels[i] == cache.class_names.index(Path(image_id).parts[1])


def test_resume_from_every_block_is_byte_identical(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()

    for n_batches in range(1, 10, 2):
        folder = tmp_path / f"cut-{n_batches}"
        interrupt(extract, n_batches, cache_dir=folder)
        resumed = extract(cache_dir=folder)

        assert resumed.outcome == "resumed"
        assert resumed.n_rows_computed < 310 or n_batches < 2
        assert resumed.path.read_bytes() == whole


def test_interruption_says_what_is_kept_and_keeps_it(extract: Extract, small_blocks: None) -> None:
    with pytest.raises(
        InterruptedRunError, match=r"128 of 310 rows are kept in .*\.partial"
    ) as err:
        extract(on_progress=StopAfter(4))

    assert err.value.exit_code == 130
    notes: list[str] = []
    result = extract(on_note=notes.append)
    assert result.n_rows_computed == 310 - 128
    assert "resuming: 128 rows kept, 64 recomputed and found the same" in notes


def test_a_row_does_not_depend_on_where_its_batch_ends(extract: Extract, tmp_path: Path) -> None:
    all_rows = featcache.open_cache(extract().path)["test"].features
    assert len(all_rows) == 10  # a short batch of a grid of 32

    alone = featcache.open_cache(extract(batch_size=10, cache_dir=tmp_path / "b").path)
    difference = np.abs(alone["test"].features - all_rows).max()
    assert difference <= 1e-5 * np.abs(all_rows).max()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_number_of_workers_changes_no_byte(
    extract: Extract, tmp_path: Path, n_workers: int
) -> None:
    alone = extract(cache_dir=tmp_path / "alone")
    helped = extract(cache_dir=tmp_path / "helped", n_workers=n_workers)

    assert helped.path.read_bytes() == alone.path.read_bytes()


@pytest.mark.parametrize("n_ahead", [1, 3])
def test_batches_launched_ahead_change_no_byte(
    extract: Extract,
    small_blocks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_ahead: int,
) -> None:
    """As on a GPU; here a batch is computed when it is launched."""
    whole = extract(cache_dir=tmp_path / "one by one").path.read_bytes()
    events: list[str] = []
    launch, rows = Job.launch, InFlight.rows

    def launched(job: Job, split: Split, batch: ImageBatch, out: torch.Tensor) -> InFlight:
        events.append("launch")
        return launch(job, split, batch, out)

    def taken(flight: InFlight) -> torch.Tensor:
        if flight.ids is not None:  # not the probe's
            events.append("rows")
        return rows(flight)

    monkeypatch.setattr(Job, "launch", launched)
    monkeypatch.setattr(InFlight, "rows", taken)
    with paces.small_blocks(n_ahead=n_ahead):
        interrupt(extract, 6)
        resumed = extract()

    assert resumed.outcome == "resumed"
    assert resumed.n_rows_computed < 310
    assert resumed.path.read_bytes() == whole
    assert events[: n_ahead + 3] == ["launch"] * (n_ahead + 1) + ["rows", "launch"]
    assert events.count("launch") == events.count("rows") + n_ahead  # lost to the interruption


def test_unreadable_images_are_marked_listed_and_not_in_the_way(
    extract: Extract, image_folder: Path
) -> None:
    (image_folder / "train" / "cat" / "000-empty.png").touch()
    (image_folder / "train" / "dog" / "zzz.jpg").write_bytes(b"not an image")

    result = extract(n_workers=2)

    assert result.n_rows == 312
    reasons = {failure.id: failure.reason for failure in result.failures}
    assert reasons == {"train/cat/000-empty.png": "empty file", "train/dog/zzz.jpg": "not an image"}
    train = featcache.open_cache(result.path)["train"]
    assert not train.valid[[0, 301]].any()
    assert train.valid[1:301].all()
    assert (train.features[0] == 0).all()
    assert extract().failures == result.failures


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


def test_any_h5py_user_reads_the_file(extract: Extract) -> None:
    path = extract().path

    with h5py.File(path) as h5:
        features, labels = h5["train/features"], h5["train/labels"]
        assert features.shape == (300, 576)
        assert np.bincount(labels[:]).tolist() == [150, 150]
        assert h5["train/ids"][0] == b"train/cat/001.png"
        assert h5["test/valid"][:].all()
        cached = featcache.open_cache(path)["train"].features
        assert (features[:] == cached).all()


def test_pixels_stores_the_images_themselves(extract: Extract, image_folder: Path) -> None:
    result = extract(backbone="pixels", weights="DEFAULT")

    train = featcache.open_cache(result.path)["train"]
    assert train.features.shape == (300, 32, 32, 3)
    assert train.features.dtype == np.uint8
    with Image.open(image_folder / train.ids[7]) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert (train.features[7] == expected).all()


def test_limit_takes_evenly_spaced_rows_of_every_class(extract: Extract) -> None:
    train = featcache.open_cache(extract(limit=6).path)["train"]

    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.ids[:2] == ["train/cat/001.png", "train/cat/101.png"]


def test_float16_halves_the_rows_and_rounds_them(extract: Extract) -> None:
    options = {"backbone": "resnet18", "limit": 20}

    single = featcache.open_cache(extract(**options).path)["train"].features
    half = featcache.open_cache(extract(**options, store_dtype="float16").path)["train"].features

    assert half.dtype == np.float16
    assert np.ptp(half) > 0.1
    assert (half == single.astype(np.float16)).all()


def test_extraction_changes_no_parameter_and_no_buffer(extract: Any) -> None:
    options = {**extract.keywords, "limit": 40}
    [spec] = specs(extract.args[0], (SMALL_BACKBONE,), options)
    images = open_images(spec, note=silent)
    plan = make_plan(spec, images, on_progress=silent, on_note=silent)

    make_caches([plan], progress=silent, note=silent)

    backbone = plan.backbone
    assert backbone.module is not None
    assert state_digest(backbone.module.state_dict()) == backbone.weights_sha256
    assert not backbone.module.training


def test_adapted_statistics_are_stored_and_used_again_on_resume(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    whole = extract(bn="adapted", cache_dir=tmp_path / "whole")
    interrupt(extract, 3, bn="adapted")
    stages: list[str] = []
    resumed = extract(bn="adapted", on_progress=lambda p: stages.append(p.stage))

    assert "adapt" not in stages
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    statistics = featcache.store.read_trunk_statistics(whole.path)
    assert statistics["features.0.1.running_mean"].shape == (16,)
    assert not np.allclose(statistics["features.0.1.running_mean"], 0)
    frozen = extract(cache_dir=tmp_path / "whole")
    assert frozen.path != whole.path


def test_adapted_needs_batchnorm(extract: Extract) -> None:
    with pytest.raises(UsageError, match="squeezenet1_1 has no BatchNorm"):
        extract(backbone="squeezenet1_1", bn="adapted", limit=2)
    with pytest.raises(UsageError, match="--bn adapted needs a backbone"):
        extract(backbone="pixels", weights="DEFAULT", bn="adapted")


def test_another_batch_size_is_another_numeric_class(extract: Extract, small_blocks: None) -> None:
    interrupt(extract, 4)

    with pytest.raises(
        MismatchError, match=r"different .*batch_size: found 32, wanted 16.*--mix-numerics"
    ):
        extract(batch_size=16)
    mixed = extract(batch_size=16, mix_numerics=True)

    assert mixed.outcome == "resumed"
    assert featcache.describe_cache(mixed.path).n_foreign_blocks == 4


def test_automatic_batch_size_resumes_on_the_stored_grid(
    extract: Extract, small_blocks: None
) -> None:
    interrupt(extract, 4)

    assert extract(batch_size=None).outcome == "resumed"


def test_canaries_catch_stored_rows_that_cannot_be_computed_again(
    extract: Extract, image_folder: Path, small_blocks: None
) -> None:
    interrupt(extract, 4)
    [partial] = featcache.list_caches(extract.keywords["cache_dir"])  # type: ignore[attr-defined]
    plan_rows = {
        name: SplitRows(split.labels, split.ids)
        for name, split in featcache.load_dataset(
            f"folder:{image_folder}", data_dir="."
        ).splits.items()
    }
    with CacheWriter.resume(partial.path.with_suffix(""), plan_rows) as writer:
        block = writer.acknowledged()[0]
        rows = writer.read_rows(block.split, block.start, block.stop).copy()
        rows[3, 5] += 1e-3
        writer.write_block(block, rows, np.ones(len(rows), np.bool_))
        writer.commit()

    with pytest.raises(MismatchError, match="holds other features for train rows 0 to 31"):
        extract()


@pytest.mark.parametrize("column", ["features", "labels", "valid", "ids"])
def test_damaged_rows_of_a_partial_file_are_computed_again(
    extract: Extract, tmp_path: Path, small_blocks: None, column: str
) -> None:
    whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()
    interrupt(extract, 4)
    [partial] = featcache.list_caches(tmp_path / "cache")
    with h5py.File(partial.path, "r") as h5:
        offset = h5[f"train/{column}"].id.get_offset()
    with partial.path.open("r+b") as file:
        file.seek(offset + 10)
        file.write(b"\xff")

    notes: list[str] = []
    resumed = extract(on_note=notes.append)

    assert "train rows 0 to 63 were damaged on the disk; they are computed again" in notes
    assert resumed.path.read_bytes() == whole


def test_a_changed_dataset_makes_another_cache_and_is_told(
    extract: Extract, image_folder: Path
) -> None:
    first = extract()
    save_image(image_folder / "train" / "cat" / "001.png", seed=77)
    notes: list[str] = []

    second = extract(on_note=notes.append)

    assert second.outcome == "computed"
    assert second.path != first.path
    assert any("dataset_sha256: found" in n and first.path.name in n for n in notes)


def test_a_file_of_another_identity_in_the_place_is_refused(
    extract: Extract, tmp_path: Path
) -> None:
    path = extract(limit=4).path
    other = extract(limit=4, image_size=40).path
    path.unlink()
    other.rename(path)

    with pytest.raises(
        MismatchError, match=r"preprocess\.resize: found \[40,40\], wanted \[32,32\]"
    ):
        extract(limit=4)
    assert path.exists()


def _other_shape(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["features"]["shape"] = [12, 192]


def _other_type(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["features"] |= {"shape": [12, 8, 4, 3], "dtype": "<f2"}


def _other_split(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["name"] = "other"


def _other_order(manifest: dict[str, Any]) -> None:
    manifest["splits"].reverse()


def _other_classes(manifest: dict[str, Any]) -> None:
    manifest["class_names"] = ["cat"]


@pytest.mark.parametrize("suffix", ["", ".partial"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_other_shape, r'train\.features: found \[12,192,"\|u1"\], wanted \[12,8,8,3,"\|u1"\]'),
        (_other_type, r'train\.features: found \[12,8,4,3,"<f2"\]'),
        (_other_split, r'splits: found \["other","test"\]'),
        (_other_order, r'splits: found \["test","train"\]'),
        (_other_classes, r'class_names: found \["cat"\], wanted \["cat","dog"\]'),
    ],
)
def test_a_file_of_the_same_identity_and_another_layout_is_refused(
    extract: Extract, suffix: str, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    asked = {"backbone": "pixels", "weights": "DEFAULT", "image_size": 8, "limit": 12}
    good = extract(**asked).path
    path = good.with_name(good.name + suffix)
    path.write_bytes(resigned(good.read_bytes(), edit))
    if suffix:
        good.unlink()
    before = path.read_bytes()

    with pytest.raises(CorruptError, match=f"claims to hold this cache, .* {message}"):
        extract(**asked)

    assert path.read_bytes() == before


def test_a_locked_cache_is_refused_and_untouched(extract: Extract, small_blocks: None) -> None:
    interrupt(extract, 4)
    [partial] = featcache.list_caches(extract.keywords["cache_dir"])  # type: ignore[attr-defined]
    before = partial.path.read_bytes()

    with (
        locked(partial.path.with_suffix("")),
        pytest.raises(LockedError, match=f"process {os.getpid()} on"),
    ):
        extract()

    assert partial.path.read_bytes() == before


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


def _two_or_three_batches(row_nbytes: int, batch_size: int, *, gflop: float) -> int:
    return batch_size * (2 if row_nbytes < 3_000 else 3)


@at_pace(Pace(rows_per_block=_two_or_three_batches))
def test_several_backbones_read_every_image_once_and_make_the_same_files(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two lengths; one backbone goes on, one is there, one has a grid of its own."""
    names = (SMALL_BACKBONE, "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5")
    options: dict[str, Any] = {
        "weights": "random",
        "image_size": 32,
        "n_workers": 0,
        "data_dir": tmp_path / "data",
    }
    source, alone = f"folder:{image_folder}", partial(featcache.extract, f"folder:{image_folder}")
    sizes = {"mobilenet_v2": 8}
    singly = [
        alone(backbone=n, batch_size=sizes.get(n), cache_dir=tmp_path / "alone", **options)
        for n in names
    ]
    options["cache_dir"] = tmp_path / "together"
    interrupt(alone, 7, backbone="mobilenet_v2", batch_size=8, **options)
    alone(backbone="squeezenet1_1", **options)
    decoded: list[int] = []
    decode = FolderImages.decode
    monkeypatch.setattr(
        FolderImages, "decode", lambda self, row: decoded.append(row) or decode(self, row)
    )
    told: list[str] = []

    together = featcache.extract_all(specs(source, names, options), on_note=told.append)

    assert [r.outcome for r in together] == ["computed", "resumed", "reused", "computed"]
    for one, other in zip(together, singly, strict=True):
        assert one.path.name == other.path.name
        assert one.path.read_bytes() == other.path.read_bytes()
    assert any(note.startswith("2 passes over the images") for note in told)
    n_kept = 310 - together[1].n_rows_computed
    assert 0 < n_kept < 310
    assert len(decoded) == 310 + (310 - n_kept) + 2 * 8  # and a batch of the two canaries


def test_another_block_size_changes_ledger_and_manifest_alone(
    extract: Extract, tmp_path: Path
) -> None:
    usual = extract()
    with paces.small_blocks(1):
        interrupt(extract, 4, cache_dir=tmp_path / "small")
    small = extract(cache_dir=tmp_path / "small")  # goes on with its own

    found = [featcache.open_cache(result.path) for result in (usual, small)]
    sizes = [read_state(result.path).manifest.rows_per_block for result in (usual, small)]
    assert sizes == [512, 32]
    assert small.outcome == "resumed"
    assert found[0].fingerprint == found[1].fingerprint
    for one, other in zip(found[0].splits.values(), found[1].splits.values(), strict=True):
        assert one.features.tobytes() == other.features.tobytes()
        assert one.labels.tobytes() == other.labels.tobytes()
        assert one.ids == other.ids


def test_what_goes_on_before_the_first_row_is_told(extract: Extract) -> None:
    stages = []

    extract(on_progress=lambda progress: stages.append((progress.stage, progress.n_total)))

    begun = list(dict.fromkeys(stages))
    assert begun[-5:-1] == [("weights", 0), ("probe", 0), ("engines", 0), ("extract", 300)]


def test_several_backbones_stopped_and_begun_again(extract: Any) -> None:
    source, options = extract.args[0], extract.keywords
    names = (SMALL_BACKBONE, "mobilenet_v2")

    with pytest.raises(InterruptedRunError) as err:
        featcache.extract_all(specs(source, names, options), on_progress=StopAfter(4))
    results = featcache.extract_all(specs(source, names, options))

    assert str(err.value).count("of 310 rows are kept in") == 2
    assert [r.outcome for r in results] == ["resumed", "resumed"]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "names no backbone"),
        (("vgg16", "vgg16"), "names vgg16, vgg16; give one or more, each once"),
        (("vgg16", "alxnet"), "alexnet"),
        (("vgg16", "pixels"), "pixels runs no network, so it cannot be extracted together"),
    ],
)
def test_several_backbones_refuse_what_cannot_be(names: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        featcache.extract_all([featcache.ExtractSpec(backbone=name) for name in names])


def test_caches_of_one_call_are_of_the_same_images() -> None:
    one = featcache.ExtractSpec(backbone="vgg16", limit=5)

    with pytest.raises(UsageError, match="must have the same dataset"):
        featcache.extract_all([one, featcache.ExtractSpec(backbone="alexnet", limit=6)])
