import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from featcache.backbones.state_dict import fit_state_dict, read_state_dicts
from featcache.backbones.unwrapping import find_backbone
from featcache.core.tensor_files import state_digest
from featcache.errors import FeatcacheError, UnsafeFileError, WeightsError


class RunsCode:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.mark),))


def small_state() -> dict[str, Tensor]:
    return {
        "features.0.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "features.1.running_mean": torch.ones(2),
        "features.1.num_batches_tracked": torch.tensor(3),
    }


def read_state_dict(path: Path | str, like: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    states = read_state_dicts(path)
    return find_backbone(states, like or small_state(), source=str(path))[0].state


def fit(state: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    like = {n: t.to("meta") for n, t in small_state().items()}
    return fit_state_dict(state, like, source="w.pth", backbone="toy", **options)  # type: ignore[arg-type]


def flip_one_bit(state: dict[str, Tensor]) -> None:
    state["features.0.weight"].view(torch.uint8)[1, 5] ^= 1


def rename(state: dict[str, Tensor]) -> None:
    state["features.1.num_batches"] = state.pop("features.1.num_batches_tracked")


def change_dtype(state: dict[str, Tensor]) -> None:
    state["features.1.running_mean"] = state["features.1.running_mean"].view(torch.int32)


def change_shape(state: dict[str, Tensor]) -> None:
    state["features.0.weight"] = state["features.0.weight"].reshape(3, 2)


def change_order(state: dict[str, Tensor]) -> None:
    state["features.0.weight"] = state.pop("features.0.weight")


@pytest.mark.parametrize("change", [flip_one_bit, rename, change_dtype, change_shape, change_order])
def test_digest_differs_after_any_change(change):
    state = small_state()

    change(state)

    assert state_digest(state) != state_digest(small_state())


def test_digest_is_the_same_on_every_machine_and_in_every_memory_format():
    image = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)

    rows = state_digest({"w": image})
    channels_last = state_digest({"w": image.to(memory_format=torch.channels_last)})

    assert rows == channels_last
    assert rows == "780ff9b9be5f4611a42ebd08d0717e91908c76fa94ebe42f58fd91826265b2f4"


def test_digest_takes_scalars_empty_tensors_and_half_precision():
    state = {"a": torch.tensor(1), "b": torch.empty(0, 3), "c": torch.ones(2).bfloat16()}

    digest = state_digest(state)

    assert len(digest) == 64


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_wrapped_state_dicts_are_unwrapped(tmp_path, prefix, nest):
    state = {prefix + n: t for n, t in small_state().items()}
    torch.save({nest: state, "epoch": 3} if nest else state, tmp_path / "w.pth")

    read = read_state_dict(tmp_path / "w.pth")

    assert state_digest(read) == state_digest(small_state())


def test_safetensors_and_old_and_new_torch_files_hold_the_same(tmp_path):
    save_file(small_state(), tmp_path / "w.safetensors")
    torch.save(small_state(), tmp_path / "new.pth")
    torch.save(small_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    read = [read_state_dict(tmp_path / n) for n in ("w.safetensors", "new.pth", "old.pth")]

    assert len({state_digest(dict(sorted(state.items()))) for state in read}) == 1


def test_old_densenet_names_are_modernised(tmp_path):
    old = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(2)}
    torch.save(old, tmp_path / "w.pth")
    new = {"features.denseblock1.denselayer1.norm1.weight": torch.ones(2)}

    read = read_state_dict(tmp_path / "w.pth", new)

    assert list(read) == ["features.denseblock1.denselayer1.norm1.weight"]


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.pth"), "café.pth"])
def test_names_of_any_bytes_are_read(tmp_path, name):
    torch.save(small_state(), tmp_path / "plain.pth")
    (tmp_path / "plain.pth").rename(tmp_path / name)

    assert read_state_dict(tmp_path / name).keys() == small_state().keys()


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "resnet18.pth").touch()

    with pytest.raises(WeightsError, match=r"no file of weights at .*Did you mean resnet18\.pth\?"):
        read_state_dict(tmp_path / "resnet81.pth")


def test_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "w.pth").touch()

    with pytest.raises(WeightsError, match="is empty"):
        read_state_dict(tmp_path / "w.pth")


def test_url_is_refused():
    with pytest.raises(WeightsError, match="is a URL"):
        read_state_dict("https://example.org/w.pth")


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {}, {"lr": 0.1}, {"a": [1]}, None])
def test_content_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(WeightsError, match=r"holds no state dict.*torch\.save\(model\.state_dict"):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, writer, protocol):
    mark = tmp_path / "ran"
    if writer == "torch":
        torch.save(RunsCode(mark), tmp_path / "w.pth", pickle_protocol=protocol)
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(RunsCode(mark), protocol=protocol))

    with pytest.raises(UnsafeFileError, match="would run code") as caught:
        read_state_dict(tmp_path / "w.pth")

    assert caught.value.exit_code == 15
    assert not mark.exists()


def test_pickled_module_is_refused_by_name(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")

    with pytest.raises(UnsafeFileError, match=r"run code from it \(torch\.nn\.modules\.linear"):
        read_state_dict(tmp_path / "w.pth")


def test_torch_file_named_safetensors_is_explained(tmp_path):
    torch.save(small_state(), tmp_path / "w.safetensors")

    with pytest.raises(WeightsError, match=r"ends in \.safetensors, but cannot be read as such"):
        read_state_dict(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [b"hello world\n" * 9, b"<!DOCTYPE html>", b"\x00" * 99])
def test_file_of_another_kind_is_refused_without_unsafe_advice(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)

    with pytest.raises(WeightsError, match=r"cannot be read as a torch\.save file") as caught:
        read_state_dict(tmp_path / "w.pth")

    assert "weights_only" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 2000), flips=st.lists(st.integers(0, 2000), max_size=4))
@pytest.mark.parametrize("ending", ["pth", "old.pth", "safetensors"])
def test_damaged_file_ends_in_our_errors_only(tmp_path_factory, ending, cut, flips):
    path = tmp_path_factory.mktemp("damaged") / f"w.{ending}"
    if ending == "safetensors":
        save_file(small_state(), path)
    else:
        torch.save(small_state(), path, _use_new_zipfile_serialization=ending == "pth")
    damaged = bytearray(path.read_bytes())
    for i in flips:
        damaged[i % len(damaged)] ^= 0x55
    path.write_bytes(damaged[: len(damaged) - cut % len(damaged)])

    try:
        read = read_state_dict(path)
    except FeatcacheError:
        read = {}

    assert all(isinstance(t, Tensor) for t in read.values())


def test_fit_keeps_the_backbone_and_leaves_the_classifier():
    state = small_state() | {"classifier.0.weight": torch.full((9,), float("nan"))}

    fitted = fit(state, ignored=["classifier."])

    assert state_digest(fitted) == state_digest(small_state())


def test_fit_converts_half_precision_and_puts_names_in_the_backbones_order():
    state = {n: small_state()[n] for n in reversed(small_state())}
    state["features.0.weight"] = state["features.0.weight"].half()

    fitted = fit(state)

    assert state_digest(fitted) == state_digest(small_state())


def test_fit_fills_the_batch_count_that_old_files_lack():
    state = small_state()
    del state["features.1.num_batches_tracked"]

    fitted = fit(state)

    assert fitted["features.1.num_batches_tracked"].item() == 0


def test_fit_copies_so_that_a_changed_file_changes_nothing():
    state = small_state()

    fitted = fit(state)
    state["features.0.weight"].zero_()

    assert fitted["features.0.weight"].sum() == 15


def test_misfit_names_what_is_missing_surplus_and_of_another_shape():
    state = OrderedDict(small_state())
    del state["features.1.running_mean"]
    state["features.0.weight"] = torch.ones(3, 3)
    state |= {f"features.9.{i}": torch.ones(1) for i in range(7)}

    with pytest.raises(WeightsError) as caught:
        fit(state)

    text = str(caught.value)
    assert "w.pth does not fit the backbone of torchvision's toy" in text
    assert "1 missing (features.1.running_mean)" in text
    assert (
        "7 surplus (features.9.0, features.9.1, features.9.2, features.9.3, features.9.4, ..."
        in (text)
    )
    assert "features.0.weight expected (2, 3) float32, got (3, 3) float32" in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_numbers_of_another_kind_are_refused(dtype):
    state = small_state()
    state["features.0.weight"] = state["features.0.weight"].to(dtype)

    with pytest.raises(WeightsError, match=r"expected \(2, 3\) float32, got \(2, 3\) (int8|comp)"):
        fit(state)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused_by_name(value):
    state = small_state()
    state["features.0.weight"] = state["features.0.weight"].double()
    state["features.0.weight"][0, 0] = value

    with pytest.raises(WeightsError, match=r"NaN or infinite .* 1 tensor.*: features\.0\.weight"):
        fit(state)
