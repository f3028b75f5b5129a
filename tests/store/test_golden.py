import runpy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.store import (
    open_cache,
    read_reference,
    read_state,
    read_trunk_statistics,
    verify_cache,
)

HERE = Path(__file__).parent
V1, V2 = (HERE / "golden" / f"v{number}.h5" for number in (1, 2))
BOTH = pytest.mark.parametrize("path", [V1, V2], ids=["v1", "v2"])


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "make_golden.py"))


@BOTH
def test_every_format_is_read_with_every_value(path: Path) -> None:
    cache = open_cache(path)

    train, test = cache["train"], cache["test"]
    assert list(cache.splits) == ["train", "test"]
    assert cache.class_names == ("ant", "bee")
    assert cache.identity == {"backbone": "toy", "format": 1, "store_dtype": "float32"}
    assert cache.provenance == {"dataset": "golden"}
    assert cache.fingerprint.startswith("576f6bb0c9160f98")
    assert cache.n_features == 3
    assert train.features.tolist() == [
        [0, 0.25, 0.5],
        [0.75, 1, 1.25],
        [1.5, 1.75, 2],
        [0, 0, 0],
        [3, 3.25, 3.5],
    ]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert train.valid.tolist() == [True, True, True, False, True]
    assert train.failures == {"bee/3.png": "image file is truncated"}
    assert train.ids == ["ant/0.png", "ant/1.png", "bee/Käfer.png", "bee/3.png", "bee/4.png"]
    assert test.features.tolist() == [[0, 0.25, 0.5], [0.75, 1, 1.25]]
    assert test.labels is not None
    assert test.labels.tolist() == [1, 0]
    assert test.failures == {}
    assert test.ids == ["0", "1"]


@BOTH
def test_the_statistics_of_every_format_are_read(path: Path) -> None:
    statistics = read_trunk_statistics(path)

    assert {n: s.tolist() for n, s in statistics.items()} == {
        "bn.running_mean": [0.5, -1.25],
        "bn.running_var": [2.0, 3.0],
    }
    assert {s.dtype for s in statistics.values()} == {np.dtype("float32")}


def test_what_the_second_format_adds_is_read_and_the_first_has_none_of_it() -> None:
    old, new = open_cache(V1)["train"], open_cache(V2)["train"]
    reference = read_reference(V2)

    assert (read_state(V1).manifest.version, read_state(V2).manifest.version) == (1, 2)
    assert old.image_sha256 is None
    assert read_reference(V1) is None
    assert new.image_sha256 is not None
    assert bytes(new.image_sha256[0]) == sha256(b"ant/0.png").digest()
    assert bytes(new.image_sha256[3]) == bytes(32)
    assert reference is not None
    assert reference.tolist() == [[0.25, 0.5, -2], [1, 0, 8]]


@BOTH
def test_the_golden_files_are_sound(path: Path) -> None:
    report = verify_cache(path)

    assert report.is_sound
    assert (report.n_rows_checked, report.n_blocks_checked, report.n_missing) == (7, 4, 0)


@BOTH
def test_the_writer_of_today_gives_the_bytes_of_the_golden_file(
    tmp_path: Path, script: dict[str, Any], path: Path
) -> None:
    write_golden: Callable[[Path, int], None] = script["write_golden"]

    write_golden(tmp_path / path.name, int(path.stem[1:]))

    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
