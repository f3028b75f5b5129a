from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import featcache
from featcache.errors import CacheMissingError, CorruptError, MismatchError, UnsafeFileError
from featcache.heads.backbone_record import sampled
from featcache.heads.head_file import load_head, save_head
from featcache.heads.trained_head import TrainedHead
from featcache.training.train_result import TrainResult
from tests.feature_caches import CLASS_NAMES, N_FEATURES


@pytest.fixture
def run(train: Callable[..., TrainResult]) -> Path:
    return train().path


def test_a_head_comes_back_with_all_that_says_what_it_is_for(
    run: Path, cache: featcache.Cache
) -> None:
    head = load_head(run)

    assert head.class_names == CLASS_NAMES
    assert (head.spec.hidden, head.train.lr, head.n_features) == ((8,), 1e-2, N_FEATURES)
    assert (head.dataset, head.backbone) == ("folder:toys", "toy")
    assert head.cache_fingerprint == cache.fingerprint
    assert head.cache_identity == cache.identity
    assert (head.n_epochs, head.is_finished) == (4, True)
    assert head.split["val"] == {"split": "train", "n_rows": 40}
    assert head.versions["torch"] == torch.__version__


def test_plain_pytorch_reads_the_weights(run: Path, cache: featcache.Cache) -> None:
    plain = nn.Sequential(nn.Linear(N_FEATURES, 8), nn.ReLU(), nn.Linear(8, 3))
    plain.load_state_dict(safetensors.torch.load_file(run / "head.safetensors"))

    features = torch.from_numpy(cache["test"].features.copy())
    assert torch.equal(plain(features), load_head(run).module()(features))


def test_the_json_beside_it_repeats_its_description_for_people(run: Path) -> None:
    description = json.loads((run / "head.json").read_text())

    assert (
        description["layers"][0] == f"Linear(in_features={N_FEATURES}, out_features=8, bias=True)"
    )
    assert description["train"]["split_seed"] == 42
    assert description["cache"]["identity"]["backbone"] == "toy"


@pytest.mark.parametrize("said", [{"dataset": 5}, {"cache_fingerprint": 5}])
def test_a_signed_head_that_says_what_is_no_text_is_refused(
    run: Path, said: dict[str, Any]
) -> None:
    save_head(run, replace(load_head(run), **said))

    with pytest.raises(CorruptError, match=r"describes a head that it does not hold \(.* where"):
        load_head(run)


@pytest.mark.parametrize("name", ["head.safetensors", "weights.safetensors"])
def test_a_pickle_is_refused_whatever_its_name_and_never_run(tmp_path: Path, name: str) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / name).write_bytes(pickle.dumps(Payload()))

    with pytest.raises(UnsafeFileError, match="is a pickle or a zip archive, whatever its name"):
        load_head(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_a_torch_save_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    torch.save({"0.weight": torch.zeros(3)}, path)

    with pytest.raises(UnsafeFileError, match="could run code"):
        load_head(path)


@pytest.mark.parametrize("content", [b"", b"not a head at all", b"\x08\0\0\0\0\0\0\0garbage!"])
def test_bytes_that_are_no_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)

    with pytest.raises(CorruptError, match="is not a safetensors file, or is damaged"):
        load_head(path)


def test_other_peoples_safetensors_are_no_head(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    safetensors.torch.save_file({"0.weight": torch.zeros(3)}, path)

    with pytest.raises(CorruptError, match="but not of a featcache head"):
        load_head(path)


def test_a_head_cut_short_is_refused(run: Path) -> None:
    path = run / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CorruptError, match="or is damaged"):
        load_head(path)


def rewritten(run: Path, **changes: object) -> Path:
    """Save the head again with another description."""
    path = run / "head.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["featcache"])
    state = safetensors.torch.load_file(path)
    metadata = {"featcache": json.dumps({**description, **changes})}
    safetensors.torch.save_file(state, path, metadata=metadata)
    return path


def test_a_head_of_another_format_says_who_wrote_it(run: Path) -> None:
    path = rewritten(run, format=2)

    with pytest.raises(
        MismatchError, match=r"format 2, and this featcache reads format 1.*\(0.1.0"
    ):
        load_head(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_features": 13},
        {"class_names": ["a", "b"]},
        {"head": {"hidden": [9], "reg": "none", "l1": 0, "weight_decay": 0, "dropout": []}},
        {"head": {"hidden": [8], "reg": "magic", "l1": 0, "weight_decay": 0, "dropout": []}},
        {"train": {"surprise": 1}},
        {"cache": 3},
    ],
)
def test_a_description_of_another_head_is_refused(run: Path, changes: dict[str, object]) -> None:
    path = rewritten(run, **changes)

    with pytest.raises(CorruptError, match="describes a head that it does not hold"):
        load_head(path)


def test_a_missing_head_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="Train one with: featcache train-head"):
        load_head(tmp_path)


def test_a_fifo_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    os.mkfifo(path)

    with pytest.raises(UnsafeFileError, match="is not a regular file"):
        load_head(path)


ADAPTED = {"norm.running_mean": torch.ones(2).numpy(), "norm.running_var": torch.ones(2).numpy()}


def with_record(run: Path, **changes: Any) -> TrainedHead:
    """Save the head with adapted statistics of a backbone, and reference rows."""
    head = load_head(run)
    assert head.record is not None
    reference = torch.arange(6.0).view(2, 3).numpy()
    record = replace(head.record, statistics=ADAPTED, reference=reference, **changes)
    save_head(run, replace(head, record=record))
    return load_head(run)


def test_a_head_keeps_what_builds_its_backbone_again(run: Path, cache: featcache.Cache) -> None:
    head = with_record(run)

    assert head.record is not None
    assert head.record.provenance == cache.provenance
    assert {name: array.tolist() for name, array in head.record.statistics.items()} == {
        "norm.running_mean": [1, 1],
        "norm.running_var": [1, 1],
    }
    assert head.record.reference is not None
    assert head.record.reference.tolist() == [[0, 1, 2], [3, 4, 5]]
    tensors = safetensors.torch.load_file(run / "head.safetensors")
    assert {n for n in tensors if n not in head.state} == {f"backbone.{n}" for n in ADAPTED}


def test_of_many_reference_features_some_evenly_spaced_ones_are_kept() -> None:
    rows = sampled(torch.arange(2000.0).view(2, 1000).numpy())

    assert rows.shape == (2, 256)
    assert rows[0, :3].tolist() == [0, 3, 7]
    assert rows[1, -1] == 1996


def test_a_head_without_a_record_of_its_backbone_is_one_of_0_1(run: Path) -> None:
    save_head(run, replace(load_head(run), record=None))

    assert load_head(run).record is None
