from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.models import MobileNet_V3_Large_Weights, Swin_V2_T_Weights, VGG16_Weights
from torchvision.models import ViT_B_16_Weights as ViTWeights

from featcache.core.preprocess import Preprocess
from featcache.errors import UsageError
from featcache.images.batches import Span, after_loading, load_batches
from featcache.images.decode_batches import resize_image
from featcache.images.image_files import FolderImages
from featcache.images.splits import ArrayImages, Split
from featcache.images.transform import (
    BatchPreprocessor,
    _look_up,
    normalise_table,
)
from tests.reference_transform import reference_transform

CPU = torch.device("cpu")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: threads that wait for each other take minutes."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def weights_like(resize: int, crop: int, interpolation: str = "bilinear") -> Preprocess:
    return Preprocess(
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


PREPROCESSINGS = {
    "notebook-224": Preprocess.notebook(224),
    "notebook-64": Preprocess.notebook(64),
    "bicubic-224": Preprocess(resize=(224, 224), interpolation="bicubic"),
    "oblong": Preprocess(resize=(40, 56), std=(0.3, 0.25, 0.2)),
    "weights-224": weights_like(232, 224),
    "weights-64": weights_like(71, 64),
    "weights-bicubic-224": weights_like(257, 224, "bicubic"),
    "weights-bicubic-64": weights_like(64, 64, "bicubic"),
}
SIZES = [(s, s) for s in (1, 8, 28, 32, 64, 96, 100, 224, 256)]
SIZES += [(375, 500), (500, 375), (300, 100), (1, 7), (9, 1)]


def hard_images(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make noise, a checkerboard of 0 and 255, and gradients, as (3, H, W, 3)."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    ramp = (x * 255 // max(width - 1, 1)).astype(np.uint8)
    planes = [(x + y) % 2 * 255, ramp]
    patterns = [np.stack([p, np.flip(p), 255 - p], axis=-1).astype(np.uint8) for p in planes]
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([noise, *patterns])


def reference(images: npt.NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    transform = reference_transform(preprocess)
    return torch.stack([transform(Image.fromarray(image)) for image in images])


def batched(images: npt.NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    prepare = BatchPreprocessor(preprocess, images.shape[1:3], CPU)
    return prepare(torch.from_numpy(images))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_a_batch_is_bitwise_what_torchvision_makes_of_each_image(
    name: str, size: tuple[int, int]
) -> None:
    images = hard_images(*size)

    result = batched(images, PREPROCESSINGS[name])

    assert torch.equal(result, reference(images, PREPROCESSINGS[name]))


@settings(max_examples=100, deadline=None)
@given(
    in_size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    out_size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    crop=st.none() | st.integers(1, 80),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    shorter_side=st.booleans(),
)
def test_a_batch_is_bitwise_equal_at_any_size(
    in_size: tuple[int, int],
    out_size: tuple[int, int],
    crop: int | None,
    interpolation: str,
    shorter_side: bool,
) -> None:
    if crop is not None or shorter_side:
        crop = min(crop or 80, *out_size)
    preprocess = Preprocess(
        resize=min(out_size) if shorter_side else out_size,
        crop=crop,
        interpolation=interpolation,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    images = hard_images(*in_size)

    result = batched(images, preprocess)

    assert torch.equal(result, reference(images, preprocess))


@pytest.mark.parametrize(
    "weights",
    [
        MobileNet_V3_Large_Weights.IMAGENET1K_V2,
        VGG16_Weights.IMAGENET1K_V1,
        VGG16_Weights.IMAGENET1K_FEATURES,
        Swin_V2_T_Weights.IMAGENET1K_V1,
        ViTWeights.IMAGENET1K_SWAG_E2E_V1,
    ],
    ids=str,
)
def test_the_reference_is_bitwise_the_transform_of_the_weights(weights) -> None:  # type: ignore[no-untyped-def]
    theirs = weights.transforms()
    preprocess = Preprocess(
        resize=theirs.resize_size[0],
        crop=theirs.crop_size[0],
        interpolation=theirs.interpolation.value,
        mean=tuple(theirs.mean),
        std=tuple(theirs.std),
    )
    images = [Image.fromarray(hard_images(*size)[0]) for size in [(32, 32), (375, 500)]]

    ours = reference_transform(preprocess)

    assert all(torch.equal(ours(image), theirs(image)) for image in images)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_images_resized_one_by_one_and_normalised_together_equal_the_reference(name: str) -> None:
    preprocess = PREPROCESSINGS[name]
    images = [hard_images(*size)[0] for size in [(1, 1), (32, 32), (375, 500), (500, 375)]]

    resized = np.stack([resize_image(Image.fromarray(i), preprocess) for i in images])
    result = batched(resized, preprocess.after_resize)

    expected = [reference(image[None], preprocess)[0] for image in images]
    assert torch.equal(result, torch.stack(expected))


def test_a_float_resize_would_not_pass_these_tests() -> None:
    images = hard_images(32, 32)
    preprocess = Preprocess.notebook(224)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()

    resized = torch.nn.functional.interpolate(pixels, 224, mode="bilinear", antialias=True)
    result = resized.round().div(255).sub(0.5).div(0.5)

    differs = result != reference(images, preprocess)
    assert differs[0].float().mean() > 0.05


@pytest.mark.parametrize("name", ["notebook-64", "weights-64"])
def test_the_table_and_the_arithmetic_agree_on_every_byte(name: str) -> None:
    preprocess = PREPROCESSINGS[name].after_resize
    every_byte = np.resize(np.arange(256, dtype=np.uint8), (1, 64, 64, 1)).repeat(3, axis=3)
    table = normalise_table(preprocess)
    looked_up = torch.empty(1, 64, 64 * 3)

    _look_up(torch.from_numpy(every_byte).flatten(2), table, looked_up)

    by_arithmetic = batched(every_byte, preprocess)
    assert torch.equal(looked_up.view(1, 64, 64, 3).permute(0, 3, 1, 2), by_arithmetic)
    assert torch.equal(by_arithmetic, reference(every_byte, preprocess))


@pytest.mark.parametrize("n", [0, 1, 3, 20], ids="n={}".format)
def test_the_result_is_float32_in_channels_last_at_every_batch_size(n: int) -> None:
    images = np.resize(hard_images(32, 32), (n, 32, 32, 3))

    result = batched(images, Preprocess.notebook(224))

    assert result.shape == (n, 3, 224, 224)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert n == 0 or torch.equal(result[-1:], reference(images[-1:], Preprocess.notebook(224)))


def test_one_preprocessor_serves_batches_that_shrink_and_grow() -> None:
    preprocess = weights_like(257, 224, "bicubic")
    images = hard_images(32, 32)
    prepare = BatchPreprocessor(preprocess, (32, 32), CPU)

    results = [prepare(torch.from_numpy(images[:n])) for n in (2, 1, 3)]

    expected = reference(images, preprocess)
    for result in results:
        assert torch.equal(result, expected[: len(result)])


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 32, 32, 3),
        torch.zeros(2, 32, 31, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
    ],
    ids=["float", "size", "channels-first", "one-image"],
)
def test_images_of_another_type_or_shape_are_refused(images: Tensor) -> None:
    prepare = BatchPreprocessor(Preprocess.notebook(64), (32, 32), CPU)

    with pytest.raises(UsageError, match=r"`images` is .*; expected \(\d+, 32, 32, 3\) uint8"):
        prepare(images)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (weights_like(64, 65), "crop of 65 does not fit"),
        (Preprocess(resize=(64, 64), interpolation="nearest"), "one of bilinear, bicubic"),
        (Preprocess(resize=64), "needs a crop"),
        (Preprocess(resize=(0, 64)), "at least 1"),
        (Preprocess(resize=(8, 8), std=(0.5, 0.0, 0.5)), "std"),
    ],
    ids=["crop", "interpolation", "no-crop", "empty", "std"],
)
def test_a_preprocessing_that_cannot_be_done_is_refused_before_any_image(
    preprocess: Preprocess, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        BatchPreprocessor(preprocess, (32, 32), CPU)
    with pytest.raises(UsageError, match=message):
        resize_image(Image.new("RGB", (32, 32)), preprocess)


def test_an_image_that_is_not_rgb_is_refused() -> None:
    with pytest.raises(UsageError, match="mode L; expected RGB"):
        resize_image(Image.new("L", (32, 32)), Preprocess.notebook(64))


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="0 x 32"):
        BatchPreprocessor(Preprocess.notebook(64), (0, 32), CPU)


def test_a_preprocessor_that_first_ran_in_inference_mode_serves_outside_it() -> None:
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        prepare = BatchPreprocessor(Preprocess.notebook(16), in_size=(8, 8), device=CPU)
        inside = prepare(images)

    outside = prepare(images)

    assert not outside.is_inference()
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("where", ["in memory", "in files"])
def test_what_loading_leaves_undone_makes_the_reference_of_files_and_of_arrays(
    where: str, tmp_path: Path
) -> None:
    preprocess = weights_like(20, 16)
    pixels = hard_images(16, 16)  # of the network's own size, and yet to be resized
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = FolderImages(str(tmp_path), ("0.png", "1.png", "2.png"))
    images = ArrayImages(pixels) if where == "in memory" else files
    split = Split("train", images, np.zeros(3, np.int64), ["0", "1", "2"])

    [batch] = load_batches(split, [Span(0, 3)], preprocess=preprocess, n_workers=0)
    result = batched(batch.images, after_loading(split, preprocess))

    assert torch.equal(result, reference(pixels, preprocess))
