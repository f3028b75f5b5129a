import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.store import open_cache, read_trunk_statistics, verify_cache

HERE = Path(__file__).parent
V1 = HERE / "golden" / "v1.h5"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "make_golden.py"))


def test_the_first_format_is_read_with_every_value() -> None:
    cache = open_cache(V1)

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
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert train.valid.tolist() == [True, True, True, False, True]
    assert train.failures == {"bee/3.png": "image file is truncated"}
    assert train.ids == ["ant/0.png", "ant/1.png", "bee/Käfer.png", "bee/3.png", "bee/4.png"]
    assert test.features.tolist() == [[0, 0.25, 0.5], [0.75, 1, 1.25]]
    assert test.labels.tolist() == [1, 0]
    assert test.failures == {}
    assert test.ids == ["0", "1"]


def test_the_statistics_of_the_first_format_are_read() -> None:
    statistics = read_trunk_statistics(V1)

    assert {n: s.tolist() for n, s in statistics.items()} == {
        "bn.running_mean": [0.5, -1.25],
        "bn.running_var": [2.0, 3.0],
    }
    assert {s.dtype for s in statistics.values()} == {np.dtype("float32")}


def test_the_golden_file_is_sound() -> None:
    report = verify_cache(V1)

    assert report.is_sound
    assert (report.n_rows_checked, report.n_blocks_checked, report.n_missing) == (7, 4, 0)


def test_the_writer_of_today_gives_the_bytes_of_the_golden_file(
    tmp_path: Path, script: dict[str, Any]
) -> None:
    write_golden: Callable[[Path], None] = script["write_golden"]

    write_golden(tmp_path / "v1.h5")

    assert (tmp_path / "v1.h5").read_bytes() == V1.read_bytes()
