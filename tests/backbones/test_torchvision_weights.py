import hashlib
import os
import urllib.error
from pathlib import Path

import pytest
import torch
from torchvision import models

import featcache
from featcache.backbones.describe import describe_backbone
from featcache.backbones.families import family_of
from featcache.backbones.load import load_backbone
from featcache.backbones.torchvision_weights import (
    fetch_pretrained,
    find_pretrained,
    list_pretrained,
    weights_preprocess,
)
from featcache.errors import (
    StorageError,
    UnknownNameError,
    UsageError,
    WeightsError,
    WeightsUnavailableError,
)
from featcache.images import stat_index


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """torch.hub's folder of weights files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """squeezenet1_1's DEFAULT weights, "published" as a file whose URL needs no network."""
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    file = (tmp_path / "w.pth").rename(tmp_path / f"squeezenet1_1-{digest[:8]}.pth")
    entry = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(entry, "url", file.as_uri())
    return file


def test_default_weights_come_first():
    names = [entry.name for entry in list_pretrained("mobilenet_v3_large")]

    assert names == ["IMAGENET1K_V2", "IMAGENET1K_V1"]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("DEFAULT", "IMAGENET1K_V2"),
        ("IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("ResNet50_Weights.IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("ResNet50_Weights.DEFAULT", "IMAGENET1K_V2"),
    ],
)
def test_weights_are_found_by_short_and_full_names(weights, name):
    entry = find_pretrained("resnet50", weights)

    assert entry is not None
    assert entry.name == name


@pytest.mark.parametrize("weights", ["mine.pth", "runs/best", "w.safetensors", "../IMAGENET1K_V1"])
def test_paths_are_told_from_names(weights):
    assert find_pretrained("resnet50", weights) is None


@pytest.mark.parametrize("weights", ["IMAGENET1K_V3", "VGG16_Weights.IMAGENET1K_V1", "default2"])
def test_unknown_weights_are_answered_with_the_models_list(weights):
    with pytest.raises(UnknownNameError, match=r"of resnet50:.*IMAGENET1K_V2, IMAGENET1K_V1"):
        find_pretrained("resnet50", weights)


def test_absent_weights_without_network_name_the_folder_and_the_ways_out(hub, monkeypatch):
    def offline(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)

    with pytest.raises(WeightsUnavailableError) as caught:
        load_backbone("mobilenet_v3_large")

    text = str(caught.value)
    assert "IMAGENET1K_V2 of mobilenet_v3_large are not on this machine" in text
    assert "https://download.pytorch.org/models/mobilenet_v3_large-5c1a4163.pth" in text
    assert f"place it in {hub}" in text
    assert "--weights PATH" in text
    assert "--weights random" in text
    assert list(hub.iterdir()) == []


def test_weights_are_fetched_once_and_silently(hub, published, capfd):
    before = describe_backbone("squeezenet1_1").weights_on_disk

    backbone = load_backbone("squeezenet1_1")
    published.unlink()
    again = load_backbone("squeezenet1_1", weights="IMAGENET1K_V1")

    assert (before, describe_backbone("squeezenet1_1").weights_on_disk) == ((), ("IMAGENET1K_V1",))
    assert backbone.weights == "IMAGENET1K_V1"
    assert backbone.weights_sha256 == again.weights_sha256
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in hub.iterdir()] == [published.name]


def test_published_weights_and_their_file_by_path_are_the_same_backbone(published):
    by_name = load_backbone("squeezenet1_1")
    by_path = load_backbone("squeezenet1_1", weights=str(published))

    assert by_name.weights_sha256 == by_path.weights_sha256


def test_download_with_other_bytes_is_refused_and_not_kept(hub, published):
    published.write_bytes(b"another file")

    with pytest.raises(
        WeightsError, match=r"is not IMAGENET1K_V1 of squeezenet1_1.*Nothing was kept"
    ):
        load_backbone("squeezenet1_1")

    assert list(hub.iterdir()) == []


def test_damaged_file_on_disk_is_named_for_deletion(hub, published):
    kept = fetch_pretrained(list_pretrained("squeezenet1_1")[0])
    os.truncate(kept, 1000)

    with pytest.raises(WeightsError, match=rf"{kept} is damaged.*Delete this file"):
        load_backbone("squeezenet1_1")


def test_a_reused_extraction_does_not_read_weights_that_are_known(
    hub, published, tmp_path, monkeypatch
):
    monkeypatch.setattr(stat_index, "_MARGIN_NS", -(10**12))  # else the file is too new
    hashed = []
    digest = hashlib.file_digest

    def counted(file, name):
        hashed.append(Path(file.name).name)
        return digest(file, name)

    options = {"backbone": "squeezenet1_1", "image_size": 32, "limit": 4}
    place = {"cache_dir": tmp_path / "cache"}
    made = [featcache.extract("digits", **options, **place) for _ in range(2)]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    # A command that is new, but for a cache that is there: its identity is computed.
    made.append(featcache.extract("digits", **options, **place, precision="fp32"))

    assert [one.outcome for one in made] == ["computed", "reused", "reused"]
    assert published.name not in hashed


def test_a_reused_extraction_refuses_a_file_of_weights_that_was_damaged_since(
    hub, published, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    options = {"backbone": "squeezenet1_1", "image_size": 32, "limit": 4}
    made = featcache.extract("digits", **options, cache_dir=tmp_path / "c")
    [file] = hub.iterdir()
    # In the classifier, which the features do not depend on: the cache would be the same.
    state = torch.load(file)
    state["classifier.1.weight"][0] += 1
    torch.save(state, file)

    with pytest.raises(WeightsError, match=rf"{file} is damaged.*Delete this file"):
        featcache.extract("digits", **options, cache_dir=tmp_path / "c")

    assert featcache.verify_cache(made.path).is_sound


def test_a_damaged_file_starts_no_extraction(hub, published, tmp_path):
    kept = fetch_pretrained(list_pretrained("squeezenet1_1")[0])
    content = kept.read_bytes()
    middle = len(content) // 2
    kept.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])

    with pytest.raises(WeightsError, match=rf"{kept} is damaged.*Delete this file"):
        featcache.extract(
            "digits", backbone="squeezenet1_1", image_size=32, limit=4, cache_dir=tmp_path / "c"
        )

    assert not (tmp_path / "c").exists()


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path, published):
    (tmp_path / "torch").write_text("a file where the folder should be")

    with pytest.raises(StorageError, match=r"could not be written.*TORCH_HOME"):
        load_backbone("squeezenet1_1")


def test_vision_transformer_weights_of_another_size_are_refused_before_the_download():
    with pytest.raises(
        UsageError, match=r"IMAGENET1K_V1 of vit_b_16 take images of 224 px exactly"
    ):
        load_backbone("vit_b_16", image_size=384)


def test_transform_at_its_own_size_is_torchvisions():
    preprocess = weights_preprocess("mobilenet_v3_large", "DEFAULT", 224)

    assert (preprocess.resize, preprocess.crop, preprocess.interpolation) == (232, 224, "bilinear")
    assert preprocess.mean == (0.485, 0.456, 0.406)
    assert preprocess.std == (0.229, 0.224, 0.225)


def test_transform_differs_between_weights_and_keeps_their_interpolation():
    first = weights_preprocess("resnet50", "IMAGENET1K_V1", 224)
    second = weights_preprocess("resnet50", "IMAGENET1K_V2", 224)

    assert (first.resize, second.resize) == (256, 232)
    assert weights_preprocess("efficientnet_b0", "DEFAULT", 224).interpolation == "bicubic"


def test_transform_scales_with_the_image_size():
    preprocess = weights_preprocess("vgg16", "DEFAULT", 112)

    assert (preprocess.resize, preprocess.crop) == (128, 112)


@pytest.mark.parametrize("weights", ["random", "mine.pth"])
def test_weights_without_a_transform_take_the_defaults(weights):
    assert weights_preprocess("vgg16", weights, 224) == weights_preprocess("vgg16", "DEFAULT", 224)


def test_pixels_have_no_transform():
    with pytest.raises(UsageError, match="'pixels' has no weights, so no transform"):
        family_of("pixels").preprocess("pixels", "DEFAULT", 224)
