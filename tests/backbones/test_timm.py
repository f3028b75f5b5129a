"""timm's models as backbones: features are timm's own, and nothing is loaded loosely."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("timm", reason="the extra timm is not installed; `dev` has it")

import timm
from huggingface_hub.utils import get_session
from timm.data import create_transform, resolve_data_config
from timm.models import list_models, list_pretrained
from timm.models._hub import save_for_hf

import featcache
from featcache.backbones.families import check_backbone_options
from featcache.backbones.load import load_backbone
from featcache.backbones.timm_licences import licence_notes
from featcache.backbones.timm_list import timm_rows
from featcache.backbones.timm_weights import find_model
from featcache.config import ExtractSpec
from featcache.core import timm_names
from featcache.core.backbone_kinds import backbone_slug, written_name
from featcache.core.random_state import seeded
from featcache.errors import (
    UnknownNameError,
    UnsafeFileError,
    UsageError,
    WeightsError,
    WeightsUnavailableError,
)
from featcache.extraction.result import ExtractResult

Extract = Callable[..., ExtractResult]
VIT, CNN = "timm:test_vit", "timm:test_efficientnet"


@pytest.fixture
def extract_timm(extract: Extract) -> Extract:
    """`extract` at the size and with the transform that timm publishes."""
    return partial(extract, backbone=VIT, image_size=None, limit=4, batch_size=2, compile="never")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of the hub's client."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def saved(folder: Path, architecture: str, **arguments: Any) -> torch.nn.Module:
    """Write a model as timm writes it for the hub."""
    with seeded(7):
        model = timm.create_model(architecture, **arguments)
    save_for_hf(model, folder, safe_serialization=True)
    return model


def on_hub(hub: Path, repository: str, files: Path, revision: str = "a" * 40) -> None:
    """Put files where the hub's client would have put those of a repository."""
    place = hub / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    snapshot = place / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in files.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())


def images_of(cache: featcache.Cache, root: Path) -> list[Image.Image]:
    return [Image.open(root / name).convert("RGB") for name in cache["test"].ids]


@pytest.mark.parametrize("architecture", ["test_vit", "test_convnext", "test_efficientnet"])
def test_cached_rows_are_those_of_timms_own_model_and_transform(
    extract_timm: Extract, image_folder: Path, architecture: str
) -> None:
    result = extract_timm(backbone=f"timm:{architecture}", weights="random", seed=3)

    cache = featcache.open_cache(result.path)
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=0).eval()
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    inputs = torch.stack([transform(image) for image in images_of(cache, image_folder)])
    with torch.no_grad():
        fresh = model(inputs).numpy()
    stored = cache["test"].features[:]
    assert np.abs(stored - fresh).max() <= 1e-4 * np.abs(fresh).max()
    assert result.path.name.startswith(f"timm-{architecture}-")
    assert cache.provenance["backbone"] == f"timm:{architecture}"
    assert cache.provenance["timm"] == timm.__version__


def test_what_decides_the_features_is_in_the_identity(extract_timm: Extract) -> None:
    notes: list[str] = []

    small = extract_timm(weights="random", on_note=notes.append)
    large = extract_timm(weights="random", image_size=192)

    identity = featcache.open_cache(small.path).identity
    assert identity["library"] == "timm"
    assert identity["architecture"] == {"name": "test_vit", "arguments": {}}
    assert (identity["layer"], identity["pool"]) == ("pre-logits", "cls")
    assert identity["preprocess"]["crop"] == 160
    other = featcache.open_cache(large.path).identity
    assert other["architecture"]["arguments"] == {"img_size": 192}
    assert "pooling: cls" in notes
    told = next(note for note in notes if note.startswith("images prepared as for the weights"))
    assert "resize 168, crop 160, bicubic, mean 0.5 0.5 0.5" in told


def test_a_cache_of_timms_is_reused_repaired_and_found_by_its_name(
    extract_timm: Extract, tmp_path: Path
) -> None:
    result = extract_timm(weights="random", seed=3, limit=12)
    before = result.path.read_bytes()
    cache = featcache.open_cache(result.path)
    damaged = bytearray(before)
    offset = before.index(cache["test"].features[0].tobytes())
    damaged[offset] ^= 1
    result.path.write_bytes(damaged)

    repaired = featcache.repair_cache(result.path)
    again = extract_timm(weights="random", seed=3, limit=12)
    trained = featcache.train_head(
        dataset=cache.provenance["dataset"],
        backbone=VIT,
        max_epochs=1,
        val_fraction=0.5,
        cache_dir=tmp_path / "cache",
        runs_dir=tmp_path / "runs",
    )

    assert repaired.n_rows_computed > 0
    assert result.path.read_bytes() == before
    assert again.outcome == "reused"
    assert trained.path.name.startswith("timm-test_vit-none-")


def test_the_notebooks_preparation_can_be_asked_for(extract_timm: Extract) -> None:
    result = extract_timm(weights="random", preprocess="notebook")

    stored = featcache.open_cache(result.path).identity["preprocess"]

    assert stored["resize"] == [160, 160]
    assert stored["crop"] is None


def test_a_folder_that_timm_wrote_is_loaded_strictly_and_leaves_no_path(
    extract_timm: Extract, tmp_path: Path
) -> None:
    folder = tmp_path / "secret place" / "My Model"
    model = saved(folder, "test_vit", num_classes=5).eval()
    name = f"timm:local-dir:{folder}"

    result = extract_timm(backbone=name, weights="DEFAULT")

    loaded = load_backbone(name)
    batch = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        assert torch.equal(loaded.module(batch), expected)
    assert result.path.name.startswith("local-My_Model-")
    assert b"secret place" not in result.path.read_bytes()
    with pytest.raises(UsageError, match=r"made with a model in a folder 'My Model'.*--backbone"):
        damage(result.path)
        featcache.repair_cache(result.path)
    assert featcache.repair_cache(result.path, backbone=name).n_rows_computed > 0


def damage(path: Path) -> None:
    """Change one bit of a cache's first test row."""
    content = bytearray(path.read_bytes())
    offset = content.index(featcache.open_cache(path)["test"].features[0].tobytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_repository_of_the_hub_is_taken_from_this_machine_with_its_revision(
    extract_timm: Extract, hub: Path, tmp_path: Path
) -> None:
    saved(tmp_path / "files", "test_vit")
    on_hub(hub, "Acme/Nice-ViT", tmp_path / "files")
    notes: list[str] = []

    result = extract_timm(
        backbone="timm:hf-hub:Acme/Nice-ViT", weights="DEFAULT", on_note=notes.append
    )

    provenance = featcache.open_cache(result.path).provenance
    assert result.path.name.startswith("hub-Acme-Nice-ViT-")
    assert provenance["backbone"] == "timm:hf-hub:Acme/Nice-ViT"
    assert (provenance["hub"], provenance["revision"]) == ("Acme/Nice-ViT", "a" * 40)
    assert "weights: DEFAULT (model.safetensors of Acme/Nice-ViT at aaaaaaaaaaaa)" in notes
    assert "licence of the weights: apache-2.0" in notes


def test_weights_of_timms_own_list_are_found_on_this_machine(hub: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "files", "test_vit").eval()
    on_hub(hub, "timm/test_vit.r160_in1k", tmp_path / "files")

    loaded = load_backbone(VIT)

    batch = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        assert torch.equal(loaded.module(batch), expected)
    [row] = [row for row in timm_rows("timm:test_vit.") if row.name == "timm:test_vit.r160_in1k"]
    assert (row.n_features, row.pooling, row.is_here) == (64, "cls", True)


@pytest.mark.parametrize("backbone", [VIT, "timm:hf-hub:acme/nothing@v1"])
def test_without_a_network_the_error_says_what_is_missing_and_both_ways_out(
    hub: Path, backbone: str
) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        load_backbone(backbone)

    text = str(caught.value)
    repository = "acme/nothing" if "acme" in backbone else "timm/test_vit.r160_in1k"
    assert f"of {repository} was looked for in {hub}" in text
    assert f"`hf download {repository}" in text
    assert "timm:local-dir:FOLDER" in text


def test_a_hub_that_gives_no_answer_is_asked_once_and_quietly(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = type(get_session())
    errors = sys.modules[client.__module__.partition(".")[0]]  # which library it is of, it decides
    asked = []

    def send(_: object, request: Any, **options: Any) -> None:
        asked.append(request.url)
        raise errors.ConnectError("no route to it")

    monkeypatch.setattr(client, "send", send)

    with pytest.raises(WeightsUnavailableError, match=r"did not give it \(no route to it\)"):
        load_backbone(VIT)

    assert len(asked) == 1
    assert "etry" not in "".join(capfd.readouterr())


def test_a_folder_whose_weights_lack_a_tensor_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "test_vit")
    state = model.state_dict()
    del state["norm.weight"]
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match=r"does not fill timm:local-dir.*norm\.weight"):
        load_backbone(f"timm:local-dir:{tmp_path}")


def test_a_folder_with_nan_in_its_weights_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path, "test_vit")
    state = model.state_dict()
    state["norm.weight"][0] = float("nan")
    save_file(state, tmp_path / "model.safetensors")

    with pytest.raises(WeightsError, match=r"holds NaN or infinite numbers in norm\.weight"):
        load_backbone(f"timm:local-dir:{tmp_path}")


def test_a_folder_with_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "test_vit")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"state_dict": {}, "trap": partial(print, "ran")}, tmp_path / "pytorch_model.bin")

    with pytest.raises(UnsafeFileError, match="would run code"):
        load_backbone(f"timm:local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "asks for checkpoint_path"),
        ({"architecture": "no_such_model"}, "names 'no_such_model'"),
        ({"model_args": {"embed_dim": "seven"}}, "cannot be built for images of 160 px"),
        ({"pretrained_cfg": []}, "does not describe a model of timm's"),
    ],
)
def test_a_configuration_that_asks_for_something_else_is_refused(
    tmp_path: Path, said: dict[str, Any], refusal: str
) -> None:
    saved(tmp_path, "test_vit")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))

    with pytest.raises((WeightsError, UsageError), match=refusal):
        load_backbone(f"timm:local-dir:{tmp_path}", weights="random")


def test_a_file_of_weights_fills_a_model_without_its_classifier(tmp_path: Path) -> None:
    with seeded(5):
        model = timm.create_model("test_efficientnet", num_classes=3)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")

    loaded = load_backbone(CNN, weights=str(tmp_path / "mine.pth"))

    batch = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(batch), pre_logits=True)
        assert torch.equal(loaded.module(batch), expected)
    assert loaded.weights == "mine.pth"


def test_networks_that_differ_in_one_buffer_outside_the_state_dict_have_other_digests() -> None:
    name = "timm:vit_small_patch16_dinov3"

    loaded = load_backbone(name, weights="random")

    from featcache.backbones.timm_models import whole_state
    from featcache.core.tensor_files import state_digest

    module = loaded.module
    assert "rope.periods" not in module.state_dict()
    before = module.rope.periods.clone()
    module.rope.periods += 1
    assert state_digest(module.state_dict()) != loaded.weights_sha256
    assert state_digest(whole_state(module)) != loaded.weights_sha256
    module.rope.periods.copy_(before)
    assert state_digest(whole_state(module)) == loaded.weights_sha256
    assert loaded.identity["pool"] == "mean"


def test_names_are_known_without_timm_and_are_those_of_its_registry() -> None:
    for name in (*list_models(), *list_pretrained()):
        timm_names.check_timm_name(f"timm:{name}")

    assert timm_names._in_sources().keys() == set(list_models())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timm:resnet81", "timm:resnet18"),
        ("timm:resnet18.a1_in2k", "timm:resnet18.a1_in1k"),
        ("timm:vit_base_patch16_224_in21k", "timm:vit_base_patch16_224"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"Unknown backbone '{name}'.*'{nearest}"):
        check_backbone_options(name, "DEFAULT", None)


@pytest.mark.parametrize("name", ["timm:hf-hub:nothing", "timm:local-dir:", "timm:"])
def test_a_name_that_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_backbone_options(name, "random", None)


def test_a_size_that_a_model_does_not_take_is_refused_with_the_one_it_was_made_for() -> None:
    with pytest.raises(UsageError, match=r"images of 100 px.*Use --image-size 160"):
        featcache.describe_backbone(VIT, 100)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_names, "find_spec", lambda _: None)

    with pytest.raises(UsageError, match=r"needs timm.*pip install 'featcache\[timm\]'"):
        check_backbone_options(VIT, "DEFAULT", None)


@pytest.mark.parametrize(
    ("typed", "written", "slug"),
    [
        ("timm:ResNet18.A1_in1k", "timm:resnet18.a1_in1k", "timm-resnet18.a1_in1k"),
        ("timm:hf-hub:Org/Name@v1.0", "timm:hf-hub:Org/Name@v1.0", "hub-Org-Name"),
        ("TIMM:local-dir:/A b/C d", "timm:local-dir:/A b/C d", "local-C_d"),
        ("timm:local-dir:" + "x" * 200, "timm:local-dir:" + "x" * 200, "local-" + "x" * 94),
        ("VGG16", "vgg16", "vgg16"),
    ],
)
def test_names_of_files_keep_what_file_systems_take(typed: str, written: str, slug: str) -> None:
    assert ExtractSpec(backbone=typed).backbone == written_name(typed) == written
    assert backbone_slug(written) == slug


def test_licences_and_the_trap_of_clip_are_told() -> None:
    dinov3 = licence_notes(find_model("timm:vit_small_patch16_dinov3.lvd1689m"))
    clip = licence_notes(find_model("timm:vit_base_patch32_clip_224.openai"))
    non_commercial = licence_notes(find_model("timm:vit_base_patch16_224.mae"))

    assert dinov3 == ("licence of the weights: dinov3-license",)
    assert "trained with QuickGELU" in clip[-1]
    assert "timm:vit_base_patch32_clip_quickgelu_224.openai" in clip[-1]
    assert non_commercial == (
        "warning: the licence of these weights is cc-by-nc-4.0: not for commercial use",
    )
