"""Exported files give what PyTorch gives: each is loaded again as its users load it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import featcache
from featcache.deployment.exports.export import ExportedModel
from featcache.errors import CorruptError
from tests.deployment.heads_of_digits import (
    by_pillow,
    digits,
    head_on,
    probabilities,
    rebuilt,
    treated,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")

Images = npt.NDArray[np.uint8]
Run = Callable[[Images], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """An exported head.

    Attributes:
        run: Its run.
        made: Its file.
        given: The test images as the file takes them.
        wanted: Their probabilities by PyTorch.
    """

    run: Path
    made: ExportedModel
    given: Images
    wanted: npt.NDArray[np.float64]

    @property
    def tolerance(self) -> float:
        """What a probability may differ by: of `any`, whose resizing is not Pillow's, more."""
        return 1e-3 if self.made.input == "any" else 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, Path]:
    """A head with BatchNorm and crops behind it, one of another treatment, one of a plain VGG."""
    return {
        "mobilenet": head_on(folder, "mobilenet_v3_small"),
        "resnet": treated(head_on(folder, "timm:test_resnet", image_size=64), "standard"),
        "vgg": treated(head_on(folder, "vgg11"), "l2"),
    }


def exported(folder: Path, runs: dict[str, Path], name: str, out: str, **options: Any) -> Case:
    run = runs[name]
    notes: list[str] = []
    made = featcache.export(
        run, out=folder / out, cache_dir=folder / "cache", on_note=notes.append, **options
    )
    images = digits()
    prepared = by_pillow(images, rebuilt(run).preprocess)
    given = prepared if options.get("input", "crop") == "crop" else images
    return Case(run, made, given, probabilities(run, prepared))


@pytest.fixture(scope="module")
def onnx(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "vgg", "vgg.onnx")


@pytest.fixture(scope="module")
def onnx_of_8x8(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "resnet", "resnet.onnx", input="8x8")


@pytest.fixture(scope="module")
def onnx_of_any(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "resnet", "any.onnx", input="any")


@pytest.fixture(scope="module")
def pt2(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "resnet", "resnet.pt2", format="pt2")


@pytest.fixture(scope="module")
def tensors(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "mobilenet", "mobilenet.safetensors", format="safetensors")


@pytest.fixture(scope="module")
def hub(folder: Path, runs: dict[str, Path]) -> Case:
    return exported(folder, runs, "mobilenet", "hub", format="hf", unchecked=True)


CASES = ("onnx", "onnx_of_8x8", "onnx_of_any", "pt2", "tensors", "hub")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def opened(case: Case) -> Run:
    """Load a file as its users do."""
    model = case.made.model
    if case.made.format == "onnx":
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    if case.made.format == "pt2":
        module = torch.export.load(model).module()
    else:
        module = featcache.load_exported(case.made.path)
        return lambda images: module(images).numpy()  # arrays as Pillow's images give them
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_360_images_get_the_class_and_the_probabilities_of_pytorch(case: Case) -> None:
    found = opened(case)(case.given)

    assert found.dtype == np.float32
    assert (found.argmax(1) == case.wanted.argmax(1)).all()
    assert len(found) == 360
    np.testing.assert_allclose(found, case.wanted, rtol=0, atol=case.tolerance)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_a_batch_may_have_any_number_of_images(case: Case) -> None:
    run = opened(case)

    for n in (1, 7, 64):
        np.testing.assert_allclose(
            run(case.given[:n]), case.wanted[:n], rtol=0, atol=case.tolerance
        )


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_a_new_process_checked_the_file_and_the_description_says_so(case: Case) -> None:
    about = json.loads(case.made.about.read_text())

    if case.made.format == "hf":
        assert case.made.check is about["check"] is None
        assert "was not checked" in case.made.card.read_text()
        return
    check = case.made.check
    assert check is not None
    assert (check.n_images, check.n_same_top1, check.batch_sizes) == (64, 64, (1, 7, 56))
    assert check.difference <= case.tolerance
    assert about["check"]["difference"] == check.difference
    assert check.told in case.made.card.read_text()
    assert about["sha256"] == case.made.sha256


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_file_says_what_it_is_and_names_no_path_of_this_machine(
    case: Case, folder: Path
) -> None:
    about = metadata_of(case.made)

    head = featcache.load_head(case.run)
    assert about["class_names"] == list(head.class_names)
    assert about["fingerprints"]["cache"] == head.cache_fingerprint
    assert about["licence"] == "none: no published weights are in it"
    assert about["versions"]["featcache"] == featcache.__version__
    assert about["takes"]["shape"][0] == about["gives"]["shape"][0] == "batch"
    for path in (case.made.model, case.made.about, case.made.card):
        content = path.read_bytes()
        assert str(folder).encode() not in content
        assert str(Path(featcache.__file__).parent).encode() not in content


def metadata_of(made: ExportedModel) -> dict[str, Any]:
    if made.format == "onnx":
        session = onnxruntime.InferenceSession(made.model, providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map["featcache"]
    elif made.format == "pt2":
        extra = {"featcache.json": ""}
        torch.export.load(made.model, extra_files=extra)
        said = extra["featcache.json"]
    else:
        with safe_open(made.model, framework="np") as file:
            said = file.metadata()["featcache"]
    about: dict[str, Any] = json.loads(said)
    return about


@pytest.mark.parametrize("kinds", [("onnx", "onnx_of_8x8", "onnx_of_any"), ("pt2", "hub")])
def test_the_code_of_the_cards_runs_in_a_new_process(
    kinds: tuple[str, ...], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    cases: list[Case] = [request.getfixturevalue(kind) for kind in kinds]
    code = ["import os"]
    for kind, case in zip(kinds, cases, strict=True):
        here = tmp_path / kind
        (here / "photos").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(digits()[i]).save(here / "photos" / f"{i}.png")
        Image.fromarray(digits()[0]).save(here / "photo.jpg", format="png")
        for path in (case.made.model, case.made.about):
            (here / path.name).symlink_to(path)
        snippets = re.findall(r"```python\n(.*?)```", case.made.card.read_text(), re.DOTALL)
        assert len(snippets) == 3
        code += [f"os.chdir({str(here)!r})", *(f"exec({snippet!r}, {{}})" for snippet in snippets)]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stderr == ""
    lines = iter(done.stdout.splitlines())
    for case in cases:
        one, *many, whole, said = (next(lines) for _ in range(6))
        names = [str(case.wanted[i].argmax()) for i in (0, 0, 1, 2)]
        assert [one.split()[0], *(line.split()[1] for line in many)] == names
        assert abs(float(one.split()[1]) - case.wanted[0].max()) < 1e-5
        assert whole == "whole"
        assert said.startswith("['0', '1', '2'")


def flipped(path: Path, folder: Path) -> Path:
    """Copy a file with one bit in its middle changed."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    copy = folder / path.name
    copy.write_bytes(content)
    return copy


def test_a_flipped_bit_of_tensors_is_refused(tensors: Case, tmp_path: Path) -> None:
    damaged = flipped(tensors.made.model, tmp_path)

    with pytest.raises(CorruptError, match="is damaged, or no file that featcache export wrote"):
        featcache.load_exported(damaged)
