"""Two images that never change tell whether a backbone is still the same function."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featcache
from featcache.backbones import families
from featcache.backbones.load import load_backbone
from featcache.backbones.torchvision_family import Torchvision
from featcache.core.random_state import seeded
from featcache.errors import InterruptedRunError, MismatchError
from featcache.extraction import job
from featcache.extraction.progress import Progress
from featcache.extraction.reference_rows import reference_images, require_same_function
from featcache.store import partial_path, read_reference, read_state
from tests.conftest import SMALL_BACKBONE
from tests.extraction.conftest import Extract
from tests.extraction.interruptions import interrupt
from tests.store.version_1 import as_version_1

OTHER = r"computes something else now, from the same weights: its reference rows differ by"
LITTLE = r"The versions are the same \(featcache .*, torch .*\), so the backbone's own code"


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As a release of torch would that computes hard-swish otherwise."""

    def forward(self: nn.Hardswish, inputs: Tensor) -> Tensor:
        return nn.functional.silu(inputs)

    monkeypatch.setattr(nn.Hardswish, "forward", forward)
    return monkeypatch


def reference_of(path: Path) -> bytes:
    rows = read_reference(path)
    assert rows is not None
    assert rows.shape == (2, read_state(path).manifest.reference.shape[1])  # type: ignore[union-attr]
    return rows.tobytes()


def test_the_images_are_the_same_for_ever() -> None:
    images = reference_images((32, 24))

    digest = hashlib.sha256(images.tobytes()).hexdigest()

    assert (images.shape, images.dtype) == ((2, 32, 24, 3), np.uint8)
    assert digest == "9df84f2acd18f7b902d2d3579000529a215d0fd4dbc600b532998fd9c42eb55f"
    assert [image.min() for image in images] == [0, 0]
    assert min(len(np.unique(image)) for image in images) > 100


def test_a_new_cache_keeps_the_features_of_both_images(extract: Extract) -> None:
    backbone = load_backbone(SMALL_BACKBONE, weights="random", image_size=32).module
    inputs = torch.from_numpy(reference_images((32, 32))).permute(0, 3, 1, 2) / 255
    assert backbone is not None
    with torch.inference_mode():
        wanted = backbone((inputs - 0.5) / 0.5).numpy()

    stored = read_reference(extract(limit=2).path)

    assert stored is not None
    assert np.abs(stored - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_they_depend_on_no_batch_size(extract: Extract, tmp_path: Path) -> None:
    first = extract(limit=2).path
    second = extract(limit=2, batch_size=16, cache_dir=tmp_path / "b").path

    assert reference_of(first) == reference_of(second)


def test_where_no_network_runs_there_are_none(extract: Extract) -> None:
    path = extract(backbone="pixels", weights="DEFAULT", batch_size=None, limit=2).path

    assert read_reference(path) is None


def test_a_patched_forward_does_not_resume_and_the_right_one_does(
    extract: Extract, tmp_path: Path, small_blocks: None, patched: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as right:
        right.setattr(nn.Hardswish, "forward", _right_forward)
        whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()
        interrupt(extract, 4)
    [partial] = (tmp_path / "cache").rglob("*.partial")
    before = partial.read_bytes()

    with pytest.raises(MismatchError, match=rf"{OTHER} .* at most 0\.001\. {LITTLE}"):
        extract()

    assert partial.read_bytes() == before
    patched.undo()
    assert extract().path.read_bytes() == whole


_right_forward = nn.Hardswish.forward


def test_damaged_ones_are_not_made_again_by_a_patched_forward(
    extract: Extract, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()
    interrupt(extract, 4)
    [partial] = (tmp_path / "cache").rglob("*.partial")
    with partial.open("r+b") as file:
        file.seek(read_state(partial).manifest.parts["reference"].extent.offset)
        file.write(b"\xff")
    with monkeypatch.context() as patched:
        patched.setattr(nn.Hardswish, "forward", lambda self, inputs: torch.relu(inputs))

        with pytest.raises(MismatchError, match="holds other features for train rows"):
            extract()

    assert extract().path.read_bytes() == whole


def test_a_patched_forward_does_not_repair(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = extract(limit=8).path
    features = read_state(path).manifest.splits["train"].columns["features"]
    with path.open("r+b") as file:
        file.seek(features.offset)
        file.write(b"\xff")
    damaged = path.read_bytes()
    monkeypatch.setattr(nn.Hardswish, "forward", lambda self, inputs: torch.relu(inputs))

    with pytest.raises(MismatchError, match=OTHER):
        featcache.repair_cache(path, n_workers=0)
    assert path.read_bytes() == damaged


class SeenByReferenceRows(Torchvision):
    """Backbones whose code may change without a version: as those of timm and one's own."""

    is_known_by_files = False


@pytest.mark.parametrize("bn", ["frozen", "adapted"])
def test_a_patched_forward_does_not_reuse(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, bn: str
) -> None:
    monkeypatch.setattr(families, "FAMILIES", (SeenByReferenceRows(),))
    path = extract(limit=70, bn=bn).path
    assert extract(limit=70, bn=bn).outcome == "reused"
    before = path.read_bytes()
    monkeypatch.setattr(nn.Hardswish, "forward", lambda self, inputs: torch.relu(inputs))

    with pytest.raises(MismatchError, match=rf"{OTHER} .* {LITTLE}"):
        extract(limit=70, bn=bn)
    assert path.read_bytes() == before


def test_another_torchvision_that_computes_something_else_does_not_reuse(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {**job.library_versions(), "torchvision": "0.1"}
    with monkeypatch.context() as earlier:
        earlier.setattr(job, "library_versions", lambda: before)  # in provenance alone
        extract(limit=4)
    assert extract(limit=4, rehash=True).outcome == "reused"
    monkeypatch.setattr(nn.Hardswish, "forward", lambda self, inputs: torch.relu(inputs))

    with pytest.raises(MismatchError, match=rf"{OTHER} .* torchvision was 0\.1 then and is"):
        extract(limit=4, rehash=True)


def test_a_patched_forward_of_timm_does_not_reuse(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")
    asked = {"backbone": "timm:test_vit", "image_size": None, "batch_size": 4, "limit": 4}
    path = extract(**asked).path
    assert extract(**asked).outcome == "reused"
    before = path.read_bytes()
    monkeypatch.setattr(nn.GELU, "forward", lambda self, inputs: torch.relu(inputs))

    with pytest.raises(MismatchError, match=rf"{OTHER} .* timm {timm.__version__}\b"):
        extract(**asked)
    assert path.read_bytes() == before


class Net(nn.Module):
    """(B, 3, s, s) -> (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.conv(batch).mean((2, 3))


class Edited(Net):
    """The same weights."""

    def forward(self, batch: Tensor) -> Tensor:
        return self.conv(batch).amax((2, 3))


def test_a_function_of_ones_own_that_was_edited_does_not_reuse(tmp_path: Path) -> None:
    def extract(module: nn.Module) -> featcache.ExtractResult:
        backbone = featcache.Backbone(module, name="net")
        options = {"image_size": 8, "limit": 4, "cache_dir": tmp_path}
        return featcache.extract("digits", backbone=backbone, **options)

    path = extract(Net()).path
    before = path.read_bytes()

    with pytest.raises(MismatchError, match=rf"{OTHER} .* {LITTLE}"):
        extract(Edited())
    assert path.read_bytes() == before
    assert extract(Net()).outcome == "reused"


def test_a_patched_forward_is_not_compared_by_parity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"backbone": SMALL_BACKBONE, "weights": "random", "image_size": 32, "limit": 8}
    path = featcache.extract("digits", **options, cache_dir=tmp_path).path
    monkeypatch.setattr(nn.Hardswish, "forward", lambda self, inputs: torch.relu(inputs))

    with pytest.raises(MismatchError, match=OTHER):
        featcache.parity(path, levels=(1,))


def test_a_run_that_stopped_before_them_writes_them_when_it_goes_on(
    extract: Extract, tmp_path: Path
) -> None:
    whole = extract(bn="adapted", cache_dir=tmp_path / "whole").path.read_bytes()

    def stop(progress: Progress) -> None:
        if progress.stage == "adapt":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        extract(bn="adapted", on_progress=stop)
    [partial] = (tmp_path / "cache").rglob("*.partial")
    state = read_state(partial)
    assert state.manifest.parts["reference"].slot not in state.slots

    assert extract(bn="adapted").path.read_bytes() == whole


def test_damaged_ones_are_made_again(extract: Extract) -> None:
    path = extract(limit=8).path
    sound = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(read_state(path).manifest.parts["reference"].extent.offset)
        file.write(b"\xff")

    report = featcache.repair_cache(path, n_workers=0)

    assert path.read_bytes() == sound
    assert report.mended == ("the backbone's reference rows",)


def test_a_partial_file_of_version_1_is_finished_as_version_1(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    whole = as_version_1(extract(cache_dir=tmp_path / "whole").path)
    interrupt(extract, 4)
    [partial] = (tmp_path / "cache").rglob("*.partial")
    as_version_1(partial)

    resumed = extract()

    assert (resumed.outcome, partial_path(resumed.path)) == ("resumed", partial)
    assert read_state(resumed.path).manifest.version == 1
    assert resumed.path.read_bytes() == whole.read_bytes()


def test_versions_that_changed_are_named(tmp_path: Path) -> None:
    stored = np.ones((2, 3), np.float32)
    then = {"torch": "2.14", "timm": "1.0.31", "dataset": "digits"}

    with pytest.raises(MismatchError, match=r"timm was 1\.0\.31 then and is 1\.0\.32 now\. Noth"):
        require_same_function(
            tmp_path,
            stored,
            stored * 1.5,
            precision="fp32",
            then=then,
            now={**then, "timm": "1.0.32"},
        )


@pytest.mark.parametrize(
    ("precision", "difference", "is_same"),
    [("fp32", 9e-4, True), ("fp32", 2e-3, False), ("bf16", 4e-2, True), ("fp16", 6e-2, False)],
)
def test_the_tolerance_is_of_the_largest_feature(
    tmp_path: Path, precision: str, difference: float, is_same: bool
) -> None:
    stored = np.array([[0, 1, 100], [0, 0, 0]], np.float32)
    fresh = stored + np.float32(100 * difference)

    def compare() -> bool:
        require_same_function(tmp_path, stored, fresh, precision=precision, then={}, now={})
        return True

    if is_same:
        assert compare()
    else:
        with pytest.raises(MismatchError, match=OTHER):
            compare()


@pytest.mark.parametrize("fresh", [[[1, np.nan]], [[np.inf, np.inf]], [[1, 1], [1, 1]]])
def test_what_is_no_number_on_one_side_is_another_function(
    tmp_path: Path, fresh: list[list[float]]
) -> None:
    stored = np.array([[np.inf, 1]], np.float32)

    require_same_function(tmp_path, stored, stored, precision="fp16", then={}, now={})
    with pytest.raises(MismatchError, match="differ by inf"):
        require_same_function(
            tmp_path, stored, np.array(fresh, np.float32), precision="fp16", then={}, now={}
        )
