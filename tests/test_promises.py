"""What a release may not change: caches, heads and names that people have on their disks.

The files in golden/ were written by the version before featcache had rooms (0.1, one folder of
modules), by these commands; nothing of them may be written again:

    featcache extract --dataset digits --backbone pixels --image-size 8 --limit 24
    featcache extract --dataset digits --backbone mobilenet_v3_small --weights random
        --image-size 32 --limit 8
    featcache train-head --cache cache/digits/pixels-521fe234.h5 --lr 1e-3 --max-epochs 1
        --patience 0 --select last --hidden 4
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import featcache

GOLDEN = Path(__file__).parent / "golden"
ROWS = {
    "pixels-521fe234": "2ea2451663980758ea6d591ba594830db9c1773f9e203601c642671c26033b35",
    "mobilenet_v3_small-23f6a214": (
        "b3ff91612831a0c57a6fb645cd19485c1ccc2711374f6cf52a1c1a59024bb522"
    ),
}
ASKED: dict[str, dict[str, Any]] = {
    "pixels-521fe234": {"backbone": "pixels", "image_size": 8, "limit": 24},
    "mobilenet_v3_small-23f6a214": {
        "backbone": "mobilenet_v3_small",
        "weights": "random",
        "image_size": 32,
        "limit": 8,
    },
}
RUN = "pixels-none-a35450fe"


def placed(name: str, folder: Path) -> Path:
    """Put a golden cache where `extract` would have written it."""
    path = folder / "cache" / "digits" / f"{name}.h5"
    path.parent.mkdir(parents=True)
    shutil.copy(GOLDEN / name / "v1.h5", path)
    return path


def test_caches_and_runs_keep_the_names_that_they_were_made_under(tmp_path: Path) -> None:
    place = {"cache_dir": tmp_path / "cache", "data_dir": tmp_path / "data"}

    pixels = featcache.extract("digits", backbone="pixels", image_size=8, **place).path
    backbone = featcache.extract(
        "digits",
        backbone="mobilenet_v3_small",
        weights="random",
        image_size=32,
        limit=8,
        compile="never",
        **place,
    ).path
    run = featcache.train_head(
        pixels, lr=1e-3, max_epochs=1, patience=0, select="last", runs_dir=tmp_path / "runs"
    ).path

    assert pixels == tmp_path / "cache/digits/pixels-5cc65242.h5"
    assert backbone == tmp_path / "cache/digits/mobilenet_v3_small-23f6a214.h5"
    assert run == tmp_path / "runs/digits/pixels-none-7acfc102"


@pytest.mark.parametrize("name", ASKED)
def test_a_cache_of_version_0_1_is_sound_and_used_as_it_is(name: str, tmp_path: Path) -> None:
    path = placed(name, tmp_path)

    report = featcache.verify_cache(path)
    again = featcache.extract("digits", **ASKED[name], cache_dir=tmp_path / "cache")

    assert (report.n_blocks_checked, report.damages) == (report.n_blocks, ())
    assert (again.outcome, again.path) == ("reused", path)
    assert path.read_bytes() == (GOLDEN / name / "v1.h5").read_bytes()
    cache = featcache.open_cache(path)
    rows = b"".join(cache[split].features[:].tobytes() for split in ("train", "test"))
    assert hashlib.sha256(rows).hexdigest() == ROWS[name]


def test_pixels_of_version_0_1_are_computed_again_to_the_byte(tmp_path: Path) -> None:
    old = featcache.open_cache(placed("pixels-521fe234", tmp_path))

    new = featcache.open_cache(
        featcache.extract("digits", **ASKED["pixels-521fe234"], cache_dir=tmp_path / "new").path
    )

    assert new.fingerprint == old.fingerprint
    for split in ("train", "test"):
        assert new[split].features[:].tobytes() == old[split].features[:].tobytes()
        assert list(new[split].ids) == list(old[split].ids)
        assert new[split].labels.tolist() == old[split].labels.tolist()


def test_a_head_of_version_0_1_is_loaded_reused_and_evaluated(tmp_path: Path) -> None:
    cache = placed("pixels-521fe234", tmp_path)
    run = tmp_path / "runs" / "digits" / RUN
    shutil.copytree(GOLDEN / RUN, run)
    told = json.loads((GOLDEN / RUN / "result.json").read_text())

    head = featcache.load_head(run)
    again = featcache.train_head(
        cache,
        lr=1e-3,
        max_epochs=1,
        patience=0,
        select="last",
        hidden=4,
        runs_dir=tmp_path / "runs",
    )
    evaluated = featcache.evaluate(run, cache=cache)

    assert {name: tuple(tensor.shape) for name, tensor in head.state.items()} == {
        "0.weight": (4, 192),
        "0.bias": (4,),
        "2.weight": (10, 4),
        "2.bias": (10,),
    }
    assert [(r.path, r.outcome) for r in again.runs] == [(run, "reused")]
    assert again.runs[0].test_acc == told["test_acc"] == pytest.approx(evaluated.acc.value)
    for name in ("head.safetensors", "head.json"):
        assert (run / name).read_bytes() == (GOLDEN / RUN / name).read_bytes()
