import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from featcache.backbones.batchnorm import adapt_batch_norm
from featcache.backbones.describe import describe_backbone, list_backbones
from featcache.backbones.load import load_backbone
from featcache.backbones.torchvision_models import build_backbone
from featcache.core.backbone_names import backbone_name, backbone_names
from featcache.core.tensor_files import state_digest
from featcache.errors import UnknownNameError, UsageError, WeightsError

SHARED = Path(__file__).parents[3] / "shared/weights/mobilenet_v2-imagenet1k-features.pth"

# Per family: features (in_features of the first linear layer in torchvision's source) and the
# multiply-adds of the classifier that is cut off.
FAMILIES = {
    "alexnet": (9216, 9216 * 4096 + 4096 * 4096 + 4096 * 1000),
    "convnext_tiny": (768, 768_000),
    "densenet121": (1024, 1_024_000),
    "efficientnet_b0": (1280, 1_280_000),
    "googlenet": (1024, 1_024_000),
    "inception_v3": (2048, 2_048_000),
    "maxvit_t": (512, 512 * 512 + 512_000),
    "mnasnet0_5": (1280, 1_280_000),
    "mobilenet_v2": (1280, 1_280_000),
    "mobilenet_v3_small": (576, 576 * 1024 + 1_024_000),
    "regnet_x_400mf": (400, 400_000),
    "resnet18": (512, 512_000),
    "shufflenet_v2_x0_5": (1024, 1_024_000),
    "squeezenet1_1": (512 * 13 * 13, 512 * 1000 * 13 * 13),
    "swin_t": (768, 768_000),
    "swin_v2_t": (768, 768_000),
    "vgg11": (25088, 25088 * 4096 + 4096 * 4096 + 4096 * 1000),
    "vit_b_32": (768, 768_000),
}


def images(size: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3))


def state_of(name: str, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return models.get_model(name, weights=None).state_dict()


def test_names_are_pixels_and_all_classification_models():
    names = backbone_names()

    assert names[0] == "pixels"
    assert len(names) >= 81
    assert {"vgg16", "mobilenet_v3_large", "vit_b_16"} <= set(names)
    assert not [n for n in names if "rcnn" in n or "quantized" in n or "raft" in n]


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"backbone 'vgg61'.*'vgg16'.*featcache backbones"):
        backbone_name("vgg61")


def test_importing_the_module_does_not_import_torchvision():
    code = "import sys, featcache.backbones.load; sys.exit('torchvision' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)

    assert done.returncode == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_width_and_work_agree_with_torchvision(name):
    n_features, classifier_macs = FAMILIES[name]
    weights = models.get_model_weights(name).DEFAULT
    published_gmac = weights.meta["_ops"]

    described = describe_backbone(name, weights.transforms().crop_size[0])

    assert described.n_features == n_features
    assert described.gflop / 2 + classifier_macs / 1e9 == pytest.approx(
        published_gmac, rel=0.01, abs=0.001
    )


@pytest.mark.skipif("FEATCACHE_ALL_BACKBONES" not in os.environ, reason="takes a minute")
def test_every_backbone_gives_what_its_first_linear_layer_takes():
    rows = {row.name: row for row in list_backbones()}

    assert list(rows) == backbone_names()
    for name in rows.keys() - {"pixels", "squeezenet1_0", "squeezenet1_1"}:
        assert rows[name].n_features == first_linear_width(name, rows[name].n_params), name


def first_linear_width(name: str, n_backbone_params: int) -> int:
    if name.startswith("regnet"):  # its constructor needs real tensors, up to 2.6 GB of them
        n_params = models.get_model_weights(name).DEFAULT.meta["num_params"]
        return (n_params - n_backbone_params) // 1000 - 1
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **options)
    head = next(m for n, m in model.named_children() if n in ("classifier", "fc", "head", "heads"))
    return next(int(m.in_features) for m in head.modules() if isinstance(m, nn.Linear))


def test_notebook_backbones_have_the_notebooks_figures():
    vgg16, mobilenet = describe_backbone("vgg16"), describe_backbone("mobilenet_v3_large")

    assert (vgg16.n_features, round(vgg16.gflop, 2)) == (25088, 30.69)
    assert (mobilenet.n_features, round(mobilenet.gflop, 3)) == (960, 0.428)
    assert vgg16.n_params == 14_714_688  # VGG-16 without its three linear layers
    assert vgg16.activation_bytes_per_image == 2 * 64 * 224 * 224 * 4  # its second convolution
    assert vgg16.weights[0] == "IMAGENET1K_V1"
    assert mobilenet.weights[0] == "IMAGENET1K_V2"


def test_pixels_are_described_without_torchvision_weights():
    described = describe_backbone("pixels", 224)

    assert described.n_features == 150_528
    assert (described.n_params, described.gflop, described.weights) == (0, 0.0, ())


def test_listing_is_lazy_and_starts_with_pixels():
    rows = list_backbones(64)

    first, second = next(rows), next(rows)

    assert (first.name, second.name) == ("pixels", "alexnet")
    assert second.image_size == 64


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vgg16", 16, "smallest it takes is 32 px.*Use --image-size 32"),
        ("inception_v3", 64, "smallest it takes is 75 px"),
        ("squeezenet1_1", 16, "smallest it takes is 17 px"),
        ("maxvit_t", 448, "made for 224 px.*Use --image-size 224"),
        ("vit_b_16", 96, "takes images of 224 or 384 px exactly"),
        ("vit_b_32", 384, "takes images of 224 px exactly"),
    ],
)
def test_size_that_a_backbone_does_not_take_is_refused_with_one_that_it_does(name, size, message):
    with pytest.raises(UsageError, match=message):
        describe_backbone(name, size)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "convnext_tiny"],
)
def test_features_are_what_enters_torchvisions_classifier(name):
    torch.manual_seed(5)
    whole = models.get_model(name, weights=None).eval()
    seen: list[Tensor] = []
    head = whole.fc if hasattr(whole, "fc") else whole.classifier
    first = next((m for m in head.modules() if isinstance(m, nn.Linear)), head)
    first.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(1)))

    backbone = load_backbone(name, weights="random", seed=5, image_size=64)
    with torch.inference_mode():
        features = backbone.module(images(64))
        whole(images(64))

    assert features.shape == (2, backbone.n_features)
    assert torch.equal(features, seen[0])


def test_vgg_features_are_channel_major_in_any_memory_format():
    backbone = build_backbone("vgg11", image_size=64, meta=True).to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        parameter.normal_(std=0.05)
    with torch.inference_mode():
        expected = backbone.avgpool(backbone.features(images(64))).reshape(2, 512 * 7 * 7)

        features = backbone(images(64))
        backbone.to(memory_format=torch.channels_last)
        features_last = backbone(images(64).to(memory_format=torch.channels_last))

    assert torch.equal(features, expected)
    assert (features_last - expected).abs().max() < 1e-4 * expected.abs().max()


def test_auxiliary_heads_are_no_part_of_the_backbone():
    backbone = load_backbone("googlenet", weights="random", image_size=64)

    names = list(backbone.module.state_dict())

    assert not [n for n in names if n.startswith(("aux", "fc"))]
    assert backbone.module.transform_input
    with torch.inference_mode():
        assert backbone.module(images(64)).shape == (2, 1024)


def test_backbone_is_frozen_and_a_forward_pass_changes_nothing():
    backbone = load_backbone("mobilenet_v3_small", weights="random")

    with torch.inference_mode():
        backbone.module(images(64, n=4))

    assert not backbone.module.training
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert state_digest(backbone.module.state_dict()) == backbone.weights_sha256
    assert backbone.has_batchnorm


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()

    zero, again, one = (load_backbone("squeezenet1_1", weights="random", seed=s) for s in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    assert zero.weights_sha256 == again.weights_sha256 != one.weights_sha256
    assert one.weights == "random (seed 1)"
    assert not one.has_batchnorm


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mnasnet0_5", "densenet121"])
def test_file_of_the_whole_model_gives_the_same_backbone_as_its_parts_in_memory(tmp_path, name):
    state = state_of(name, seed=2)
    torch.save(state, tmp_path / "mine.pth")

    backbone = load_backbone(name, weights=str(tmp_path / "mine.pth"))

    loaded = backbone.module.state_dict()
    assert backbone.weights == "mine.pth"
    assert all(torch.equal(t, state[n]) for n, t in loaded.items())
    assert backbone.weights_sha256 == state_digest({n: state[n] for n in loaded})
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_file_of_features_alone_gives_the_same_backbone(tmp_path):
    torch.manual_seed(2)
    whole = models.squeezenet1_1(weights=None)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    torch.save(whole.features.state_dict(), tmp_path / "features.pth")

    digests = {
        load_backbone("squeezenet1_1", weights=str(tmp_path / file)).weights_sha256
        for file in ("whole.pth", "features.pth")
    }

    assert len(digests) == 1


def test_file_with_a_classifier_of_another_task_is_accepted(tmp_path):
    state = state_of("resnet18") | {"fc.weight": torch.ones(10, 512), "fc.bias": torch.ones(10)}
    torch.save(state, tmp_path / "w.pth")

    backbone = load_backbone("resnet18", weights=str(tmp_path / "w.pth"))

    assert backbone.n_features == 512


def test_file_of_another_model_is_refused(tmp_path):
    torch.save(state_of("squeezenet1_1"), tmp_path / "w.pth")

    with pytest.raises(WeightsError, match=r"does not fit the backbone of torchvision's resnet18"):
        load_backbone("resnet18", weights=str(tmp_path / "w.pth"))


def test_pixels_have_no_module_and_no_weights():
    backbone = load_backbone("pixels")

    assert backbone.module is None
    assert (backbone.n_features, backbone.weights, backbone.has_batchnorm) == (
        150_528,
        "none",
        False,
    )
    with pytest.raises(UsageError, match="'pixels' has no weights"):
        load_backbone("pixels", weights="random")


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="the real weights are not beside the repository")
def test_real_backbone_loads_and_its_statistics_adapt():
    backbone = load_backbone("mobilenet_v2", weights=str(SHARED), image_size=64)
    with torch.inference_mode():
        frozen = backbone.module(images(64))

    adapt_batch_norm(backbone.module, [images(64, n=4)])

    with torch.inference_mode():
        adapted = backbone.module(images(64))
    assert frozen.shape == adapted.shape == (2, 1280)
    assert frozen.isfinite().all()
    assert not torch.allclose(frozen, adapted)


def test_a_url_as_weights_is_refused_as_one() -> None:
    with pytest.raises(WeightsError, match="is a URL"):
        load_backbone("resnet18", weights="https://example.org/resnet18.pth")
