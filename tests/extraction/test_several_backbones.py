from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.errors import InterruptedRunError, UsageError
from featcache.extraction.pace import Pace, at_pace
from featcache.images.image_files import FolderImages
from tests.conftest import SMALL_BACKBONE
from tests.extraction.conftest import specs
from tests.extraction.interruptions import StopAfter, interrupt


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
