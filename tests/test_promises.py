"""What a release may not change: the names of caches and runs that people have on their disks."""

from __future__ import annotations

from pathlib import Path

import featcache


def test_caches_and_runs_keep_the_names_that_they_were_made_under(tmp_path: Path) -> None:
    place = {"cache_dir": tmp_path / "cache", "data_dir": tmp_path / "data"}

    pixels = featcache.extract("digits", backbone="pixels", image_size=8, **place).path
    trunk = featcache.extract(
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
    assert trunk == tmp_path / "cache/digits/mobilenet_v3_small-23f6a214.h5"
    assert run == tmp_path / "runs/digits/pixels-none-7acfc102"
