"""What export refuses, and that nothing is left of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import featcache
from featcache.config import SolverSpec
from featcache.deployment.exports.check import CheckReport, check_file
from featcache.deployment.exports.check_images import CheckImages, batches
from featcache.deployment.exports.targets import target_of
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    MismatchError,
    StorageError,
    UsageError,
    WeightsError,
)
from featcache.heads.head_file import save_head
from tests.conftest import save_image
from tests.deployment.heads_of_digits import head_on

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")

Export = Callable[..., featcache.ExportedModel]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on a small backbone, which no test changes."""
    return head_on(tmp_path_factory.mktemp("run"), "timm:test_resnet")


@pytest.fixture
def export(run: Path, tmp_path: Path) -> Export:
    """`featcache.export` of the head into `tmp_path/out`, as tensors, which needs no graph."""

    def export(run: Path = run, **options: Any) -> featcache.ExportedModel:
        options.setdefault("out", tmp_path / "out" / "x.safetensors")
        options.setdefault("format", "safetensors")
        return featcache.export(run, cache_dir=run.parents[2] / "cache", **options)

    return export


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Save the head again, with other attributes."""

    def copied(**changes: Any) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        save_head(folder, replace(featcache.load_head(run), **changes))
        return folder

    return copied


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "--format is 'tflite', but must be one of onnx, pt2"),
        ({"input": "0x32"}, "--input is '0x32', but height and width must be from 1 to 16384"),
        ({"input": "999999x2"}, "must be from 1 to 16384"),
        ({"input": "32"}, "must be crop, any, or a height and a width like 480x640"),
        ({"input": "32x"}, "must be crop, any, or a height and a width like 480x640"),
        ({"input": "32x32"}, "resizes inside a graph, but --format safetensors has none"),
        ({"input": "any"}, "--input any resizes by an operator of ONNX"),
        ({"tolerance": -1}, "--tolerance is -1, but must be a finite number of at least 0"),
        ({"unchecked": True, "check": "photos"}, "--unchecked leaves out the check"),
        ({"out": "x.onnx"}, r"ends with \.safetensors\. Nothing was started\. Use --format onnx"),
        ({"out": "x"}, r"Write it as: --out x\.safetensors"),
        ({"out": "my head"}, r"Write it as: --out 'my head\.safetensors'"),
        ({"out": "x.pt2", "format": "hf"}, "but --format hf makes a folder"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    export: Export, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(**options)


@pytest.mark.parametrize("name", ["x.safetensors", "x.safetensors.json", "x.safetensors.md"])
def test_no_file_is_replaced(export: Export, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")

    with pytest.raises(UsageError, match=f"{name} exists. Nothing was written. .* --overwrite"):
        export(unchecked=True)

    assert left(tmp_path / "out") == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_overwrite_replaces_the_three_files_and_leaves_others(
    export: Export, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("config.json", "README.md", "model.safetensors", ".gitattributes"):
        (hub / name).write_text("before")

    made = export(out=hub, format="hf", overwrite=True, unchecked=True)

    assert left(hub) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert (hub / ".gitattributes").read_text() == "before"
    assert json.loads((hub / "config.json").read_text())["sha256"] == made.sha256
    assert (hub / "README.md").read_text().startswith("---\nlibrary_name: featcache\n")


def test_a_target_that_cannot_be_written_is_found_before_the_work(
    export: Export, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"Cannot write .*file/x\.safetensors: File exists"):
        export(out=tmp_path / "file" / "x.safetensors", unchecked=True)


def test_a_head_of_neighbours_is_refused(export: Export, copied: Callable[..., Path]) -> None:
    knn = copied(solver=SolverSpec(solver="knn"), arrays={})

    with pytest.raises(UsageError, match=r"asks the rows of its cache \(knn\).*logreg takes"):
        export(knn, unchecked=True)


def test_a_damaged_head_is_refused(
    export: Export, copied: Callable[..., Path], tmp_path: Path
) -> None:
    folder = copied()
    content = bytearray((folder / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "head.safetensors").write_bytes(content)

    with pytest.raises(CorruptError, match="its SHA-256 differs"):
        export(folder, unchecked=True)

    assert left(tmp_path / "out") == []


def test_a_run_that_is_not_there_is_exit_10(export: Export, tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="nosuch"):
        featcache.export("nosuch", out=tmp_path / "x.onnx", runs_dir=tmp_path)


def test_a_backbone_whose_weights_are_gone_is_refused(
    export: Export, copied: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth"):
        export(weights=tmp_path / "gone.pth", unchecked=True)

    assert left(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("folder:/nosuch/pets", "The images of folder:/nosuch/pets, .* are not at hand"),
        ("cifar10", "The images of cifar10, .* are not at hand"),
        ("python:made", "The images of python:made, .* are not at hand"),
    ],
)
def test_without_images_to_check_with_export_is_refused(
    export: Export, copied: Callable[..., Path], dataset: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{message}.*--check FOLDER.*--unchecked"):
        export(copied(dataset=dataset), data_dir=tmp_path / "none")


def test_too_few_images_are_refused_with_their_number(export: Export, tmp_path: Path) -> None:
    for i in range(3):
        save_image(tmp_path / "photos" / f"{i}.png", i)

    with pytest.raises(
        UsageError, match=r"photos \(all\) has 3 images\. .* but 64 images are needed"
    ):
        export(check=tmp_path / "photos")

    assert left(tmp_path / "out") == []


def test_a_size_that_the_images_do_not_have_names_one_that_they_have() -> None:
    dataset = featcache.load_dataset("digits", data_dir="data")
    images = CheckImages("digits", (dataset.splits["test"],), (32, 32))
    wanted = r"64 images of 32x32 pixels are needed .* \(others have 8x8\)"

    with pytest.raises(UsageError, match=wanted):
        images.require_enough()
    with pytest.raises(UsageError, match=f"Of 360 images of digits .test., 0 can be.*{wanted}"):
        list(images.taken(featcache.Preprocess.notebook(64)))


def test_images_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    for i in range(70):
        save_image(tmp_path / f"{i:02d}.png", i)
    for i in (0, 33):
        (tmp_path / f"{i:02d}.png").write_bytes(b"no image")
    split = featcache.load_dataset(f"images:{tmp_path}", data_dir="data").splits["all"]

    taken = list(
        CheckImages(f"images:{tmp_path}", (split,), None).taken(featcache.Preprocess.notebook(8))
    )

    assert len(taken) == 64


def test_images_come_in_batches_of_one_size_first_one_then_seven() -> None:
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 5))
    images = [small, large] * 10

    given = [pair[0].shape for pair in batches(
        images, featcache.Preprocess.notebook(4), takes_crops=False
    )]  # fmt: skip

    assert given == [(1, 8, 8, 3), (1, 5, 9, 3), (7, 8, 8, 3), (7, 5, 9, 3), (2, 8, 8, 3),
                     (2, 5, 9, 3)]  # fmt: skip


def means_of_channels() -> bytes:
    """A network whose three probabilities are the means of red, green and blue."""
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3])
    means = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["probabilities"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "means", [images], [means], [axes])
    opset = [helper.make_opsetid("", 20)]
    content: bytes = helper.make_model(
        graph, opset_imports=opset, ir_version=10
    ).SerializeToString()
    return content


def test_a_file_that_gives_other_probabilities_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(means_of_channels())
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)

    def eager(prepared: Any, off: float) -> Any:
        return prepared.mean((1, 2)) + off

    def check(off: float) -> CheckReport:
        return checked(path, path.read_bytes(), images, lambda prepared: eager(prepared, off))

    report = check(0.0)

    assert (report.n_images, report.n_same_top1, report.batch_sizes) == (8, 8, (8,))
    assert report.difference < 1e-3
    with pytest.raises(MismatchError, match=r"other probabilities than PyTorch: 8 of 8 images get"):
        check(0.1)
    with pytest.raises(MismatchError, match=r"differ by at most inf"):
        check(float("nan"))


def test_a_file_that_no_process_can_load_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no network")

    with pytest.raises(MismatchError, match=r"a new process cannot use it: .*ONNXRuntimeError"):
        checked(path, path.read_bytes())


def test_a_byte_that_changed_on_the_disk_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"flipped")

    with pytest.raises(CorruptError, match="other bytes on the disk than were written"):
        checked(path, b"written")


def checked(
    path: Path, content: bytes, images: Any = None, eager: Callable[[Any], Any] = len
) -> CheckReport:
    """Check a file that should hold `content` with images that it takes as they are."""
    images = np.zeros((1, 4, 4, 3), np.uint8) if images is None else images
    return check_file(
        path,
        [(images, images)],
        eager,
        format="onnx",
        sha256=hashlib.sha256(content).hexdigest(),
        images="one",
        tolerance=0.01,
    )


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    target = target_of(tmp_path / "out" / "x.onnx", format="onnx", overwrite=False)

    def write(file: Any) -> dict[Path, bytes]:
        file.write(b"half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.write(write)

    assert left(tmp_path / "out") == []


def test_what_belongs_to_a_model_that_failed_goes_with_it(tmp_path: Path) -> None:
    target = target_of(tmp_path / "x.onnx", format="onnx", overwrite=False)

    def write(file: Any) -> dict[Path, bytes]:
        target.model.touch()  # somebody else takes the name meanwhile
        return {target.about: b"{}", target.card: b"card"}

    with pytest.raises(UsageError, match=r"x\.onnx exists"):
        target.write(write)

    assert left(tmp_path) == ["x.onnx"]


def test_an_old_model_that_stays_is_not_described_as_the_new_one(tmp_path: Path) -> None:
    target = target_of(tmp_path / "x.onnx", format="onnx", overwrite=True)
    for path in (target.model, target.about, target.card):
        path.write_text("before")

    def write(file: Any) -> dict[Path, bytes]:
        file.write(b"after")
        target.model.unlink()
        target.model.mkdir()  # so that the last step fails
        return {target.about: b"after", target.card: b"after"}

    with pytest.raises(StorageError, match="Nothing describes it now"):
        target.write(write)

    assert left(tmp_path) == ["x.onnx"]


def test_files_that_are_replaced_stay_if_the_new_ones_fail(tmp_path: Path) -> None:
    target = target_of(tmp_path / "x.onnx", format="onnx", overwrite=True)
    for path in (target.model, target.about, target.card):
        path.write_text("before")

    with pytest.raises(ZeroDivisionError):
        target.write(lambda file: {target.about: b"after", target.card: bytes(1 // 0)})

    assert left(tmp_path) == ["x.onnx", "x.onnx.json", "x.onnx.md"]
    assert target.about.read_text() == "before"


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    target = target_of(tmp_path / "hub", format="hf", overwrite=False)

    with pytest.raises(ZeroDivisionError):
        target.write(lambda file: {target.about: bytes(1 // 0)})

    assert left(tmp_path) == ["hub"]


def test_without_onnx_the_line_that_installs_it_is_told(run: Path, tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys
for name in ("onnx", "onnxscript", "onnxruntime"):
    sys.modules[name] = None
import featcache
try:
    featcache.export({str(run)!r}, out={str(tmp_path / "x.onnx")!r})
except featcache.FeatcacheError as err:
    print(err.exit_code, err, "torch" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.startswith("2 ONNX files need onnx, onnxscript, onnxruntime, but onnx and")
    assert 'Install them with: pip install "featcache[onnx]" False' in done.stdout
