"""What an extraction will cost, before it starts."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

import featcache
from featcache.errors import UsageError
from featcache.store import read_state
from tests.conftest import SMALL_BACKBONE
from tests.paces import blocks_of
from tests.scale.kinds import Kind

BILLION = 10**9


def network(**options: object) -> featcache.ExtractSpec:
    return featcache.ExtractSpec(
        backbone=SMALL_BACKBONE, image_size=32, batch_size=256, device="cpu", **options
    )


def test_a_billion_rows_take_no_time_and_no_memory() -> None:
    given = {"images_per_s": 2500, "decoded_per_s": 250, "image_nbytes": 110_000}
    featcache.forecast(network(), rows=1, **given)  # imports
    tracemalloc.start()

    found = featcache.forecast(network(), rows=BILLION, **given)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.seconds < 1
    assert peak < 200e6
    assert found.n_blocks * found.rows_per_block >= BILLION
    assert found.n_blocks <= 1 << 20
    assert found.nbytes > BILLION * 576 * 4
    assert found.device_hours == pytest.approx(BILLION / found.rate / 3600)
    assert (found.n_shares - 1) * 2 < found.device_hours <= found.n_shares * 2
    assert found.array == f"0-{found.n_shares - 1}"
    assert found.command.endswith(f"--share /{found.n_shares}")
    assert "30,000,000 that fit into the memory" in found.remarks[0]


def test_the_command_of_the_shares_holds_what_was_typed(tmp_path: Path) -> None:
    spec = replace(network(), data_dir=str(tmp_path), batch_size=32)

    found = featcache.forecast(
        spec, rows=1000, images_per_s=2500, decoded_per_s=250, image_nbytes=110_000
    )

    assert f"--data-dir {tmp_path}" in found.command
    assert "--batch-size 32" in found.command


def test_work_of_one_machine_is_not_shared_out() -> None:
    given = {"images_per_s": 1000, "decoded_per_s": 1000, "image_nbytes": 1000}

    small, large = (featcache.forecast(network(), rows=n, **given) for n in (1000, 10**7))

    assert small.n_shares == 1
    assert "--share" not in small.command
    assert large.command.endswith(f"--share /{large.n_shares}")


def test_rows_of_no_dataset_are_image_files_and_no_dataset_is_made_up() -> None:
    given = {"images_per_s": 10, "decoded_per_s": 10, "image_nbytes": 1000, "rows": 1000}

    unnamed, own = (
        featcache.forecast(spec, **given)
        for spec in (network(), network(dataset="folder:/data/pets"))
    )

    assert "--dataset folder:/path/to/images " in unnamed.command
    assert "counted as image files. Replace folder:/path/to/images" in unnamed.remarks[0]
    assert "--dataset folder:/data/pets " in own.command
    assert not any("image files" in remark for remark in own.remarks)


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        ({"images_per_s": 10}, "--images-per-s is for networks"),
        ({"decoded_per_s": 10}, "--decoded-per-s is for image files, but .* digits"),
        ({"image_nbytes": 10}, "--image-nbytes is for image files"),
    ],
)
def test_rates_of_what_is_not_done_are_refused(rate: dict[str, int], told: str) -> None:
    spec = featcache.ExtractSpec(dataset="digits", backbone="pixels", limit=10)

    with pytest.raises(UsageError, match=told):
        featcache.forecast(spec, **rate)


def test_what_is_slowest_is_named(tmp_path: Path) -> None:
    given = {"rows": 1000, "image_nbytes": 1000}

    slow_backbone = featcache.forecast(network(), images_per_s=10, decoded_per_s=1e6, **given)
    slow_decoding = featcache.forecast(network(), images_per_s=1e6, decoded_per_s=10, **given)

    assert slow_backbone.bound_by == "the backbone"
    assert slow_decoding.bound_by == "decoding"
    assert slow_decoding.cores_per_device == pytest.approx(1e5)
    assert slow_backbone.rate == pytest.approx(10, rel=0.01)
    assert slow_backbone.read_per_s == pytest.approx(slow_backbone.rate * 1000)
    per_row = slow_backbone.written_per_s / slow_backbone.rate
    assert per_row == pytest.approx(576 * 4 + 8 + 1 + 80 + 48 + 32)


def test_every_view_runs_through_the_backbone_and_is_written() -> None:
    given = {"rows": 1000, "image_nbytes": 1000, "images_per_s": 10, "decoded_per_s": 1e6}

    plain, views = (featcache.forecast(network(views=n), **given) for n in (1, 4))

    assert views.n_features == plain.n_features
    assert views.device_hours == pytest.approx(4 * plain.device_hours, rel=0.01)
    assert views.nbytes - plain.nbytes == pytest.approx(3 * 1000 * 576 * 4, rel=0.01)


def test_the_blocks_of_a_forecast_are_those_of_the_cache(kind: Kind, tmp_path: Path) -> None:
    spec = kind.spec(tmp_path / "cache")

    found = featcache.forecast(spec, decoded_per_s=1, image_nbytes=1, share="/3")
    manifest = read_state(kind.whole(tmp_path / "cache").path).manifest

    assert (found.n_blocks, found.rows_per_block) == (manifest.n_blocks, manifest.rows_per_block)
    assert (found.rows, found.n_features) == (19, 192)
    assert (found.n_shares, found.rows_per_share) == (3, 8)
    assert manifest.file_size <= found.nbytes < manifest.file_size + 200_000


def test_rates_that_are_not_given_are_measured(kind: Kind, tmp_path: Path) -> None:
    notes: list[str] = []
    spec = replace(network(dataset=kind.dataset), batch_size=8)

    found = featcache.forecast(spec, on_note=notes.append)

    assert found.images_per_s is not None
    assert found.images_per_s > 0
    assert found.decoded_per_s is not None
    assert found.decoded_per_s > 0
    assert f"measuring {SMALL_BACKBONE} on cpu for seconds, with random weights" in notes
    assert "measuring how fast one core decodes" in notes


def test_images_in_memory_are_not_decoded_and_pixels_run_no_network() -> None:
    spec = featcache.ExtractSpec(dataset="digits", backbone="pixels", limit=100)

    found = featcache.forecast(spec)

    assert (found.images_per_s, found.decoded_per_s) == (None, None)
    assert (found.bound_by, found.device_hours) == ("the disk", 0)
    assert math.isinf(found.rate)
    assert found.n_features == 192


def test_more_rows_than_a_ledger_has_blocks_make_larger_blocks() -> None:
    given = {"images_per_s": 1, "decoded_per_s": 1, "image_nbytes": 1}

    with blocks_of(256):
        found = featcache.forecast(network(), rows=BILLION, **given)

    assert found.rows_per_block == 1024
    assert json.dumps(found.n_blocks) == "976563"
