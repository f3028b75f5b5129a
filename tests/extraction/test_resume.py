from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import featcache
from featcache.backbones.in_flight import InFlight
from featcache.errors import InterruptedRunError, MismatchError
from featcache.extraction.job import Job
from featcache.images.batches import ImageBatch
from featcache.images.splits import Split
from featcache.store import CacheWriter, SplitRows, read_state
from tests import paces
from tests.extraction.conftest import Extract
from tests.extraction.interruptions import StopAfter, interrupt


def test_resume_from_every_block_is_byte_identical(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()

    for n_batches in range(1, 10, 2):
        folder = tmp_path / f"cut-{n_batches}"
        interrupt(extract, n_batches, cache_dir=folder)
        resumed = extract(cache_dir=folder)

        assert resumed.outcome == "resumed"
        assert resumed.n_rows_computed < 310 or n_batches < 2
        assert resumed.path.read_bytes() == whole


def test_interruption_says_what_is_kept_and_keeps_it(extract: Extract, small_blocks: None) -> None:
    with pytest.raises(
        InterruptedRunError, match=r"128 of 310 rows are kept in .*\.partial"
    ) as err:
        extract(on_progress=StopAfter(4))

    assert err.value.exit_code == 130
    notes: list[str] = []
    result = extract(on_note=notes.append)
    assert result.n_rows_computed == 310 - 128
    assert "resuming: 128 rows kept, 64 recomputed and found the same" in notes


@pytest.mark.parametrize("n_ahead", [1, 3])
def test_batches_launched_ahead_change_no_byte(
    extract: Extract,
    small_blocks: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_ahead: int,
) -> None:
    """As on a GPU; here a batch is computed when it is launched."""
    whole = extract(cache_dir=tmp_path / "one by one").path.read_bytes()
    events: list[str] = []
    launch, rows = Job.launch, InFlight.rows

    def launched(job: Job, split: Split, batch: ImageBatch, out: torch.Tensor) -> InFlight:
        events.append("launch")
        return launch(job, split, batch, out)

    def taken(flight: InFlight) -> torch.Tensor:
        if flight.ids is not None:  # not the probe's
            events.append("rows")
        return rows(flight)

    monkeypatch.setattr(Job, "launch", launched)
    monkeypatch.setattr(InFlight, "rows", taken)
    with paces.small_blocks(n_ahead=n_ahead):
        interrupt(extract, 6)
        resumed = extract()

    assert resumed.outcome == "resumed"
    assert resumed.n_rows_computed < 310
    assert resumed.path.read_bytes() == whole
    assert events[: n_ahead + 3] == ["launch"] * (n_ahead + 1) + ["rows", "launch"]
    assert events.count("launch") == events.count("rows") + n_ahead  # lost to the interruption


def test_adapted_statistics_are_stored_and_used_again_on_resume(
    extract: Extract, tmp_path: Path, small_blocks: None
) -> None:
    whole = extract(bn="adapted", cache_dir=tmp_path / "whole")
    interrupt(extract, 3, bn="adapted")
    stages: list[str] = []
    resumed = extract(bn="adapted", on_progress=lambda p: stages.append(p.stage))

    assert "adapt" not in stages
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    statistics = featcache.store.read_trunk_statistics(whole.path)
    assert statistics["features.0.1.running_mean"].shape == (16,)
    assert not np.allclose(statistics["features.0.1.running_mean"], 0)
    frozen = extract(cache_dir=tmp_path / "whole")
    assert frozen.path != whole.path


def test_another_batch_size_is_another_numeric_class(extract: Extract, small_blocks: None) -> None:
    interrupt(extract, 4)

    with pytest.raises(
        MismatchError, match=r"different .*batch_size: found 32, wanted 16.*--mix-numerics"
    ):
        extract(batch_size=16)
    mixed = extract(batch_size=16, mix_numerics=True)

    assert mixed.outcome == "resumed"
    assert featcache.describe_cache(mixed.path).n_foreign_blocks == 4


def test_automatic_batch_size_resumes_on_the_stored_grid(
    extract: Extract, small_blocks: None
) -> None:
    interrupt(extract, 4)

    assert extract(batch_size=None).outcome == "resumed"


def test_canaries_catch_stored_rows_that_cannot_be_computed_again(
    extract: Extract, image_folder: Path, small_blocks: None
) -> None:
    interrupt(extract, 4)
    [partial] = featcache.list_caches(extract.keywords["cache_dir"])  # type: ignore[attr-defined]
    _, images = featcache.load_dataset(f"folder:{image_folder}", data_dir=".").identified()
    plan_rows = {
        name: SplitRows(split.labels, split.ids, split.image_sha256())
        for name, split in images.splits.items()
    }
    with CacheWriter.resume(partial.path.with_suffix(""), plan_rows) as writer:
        block = writer.acknowledged()[0]
        rows = writer.read_rows(block.split, block.start, block.stop).copy()
        rows[3, 5] += 1e-3
        writer.write_block(block, rows, np.ones(len(rows), np.bool_))
        writer.commit()

    with pytest.raises(MismatchError, match="holds other features for train rows 0 to 31"):
        extract()


@pytest.mark.parametrize("column", ["features", "labels", "valid", "ids", "image_sha256"])
def test_damaged_rows_of_a_partial_file_are_computed_again(
    extract: Extract, tmp_path: Path, small_blocks: None, column: str
) -> None:
    whole = extract(cache_dir=tmp_path / "whole").path.read_bytes()
    interrupt(extract, 4)
    [partial] = featcache.list_caches(tmp_path / "cache")
    with h5py.File(partial.path, "r") as h5:
        offset = h5[f"train/{column}"].id.get_offset()
    with partial.path.open("r+b") as file:
        file.seek(offset + 10)
        file.write(b"\xff")

    notes: list[str] = []
    resumed = extract(on_note=notes.append)

    assert "train rows 0 to 63 were damaged on the disk; they are computed again" in notes
    assert resumed.path.read_bytes() == whole


def test_another_block_size_changes_ledger_and_manifest_alone(
    extract: Extract, tmp_path: Path
) -> None:
    usual = extract()
    with paces.small_blocks(1):
        interrupt(extract, 4, cache_dir=tmp_path / "small")
    small = extract(cache_dir=tmp_path / "small")  # goes on with its own

    found = [featcache.open_cache(result.path) for result in (usual, small)]
    sizes = [read_state(result.path).manifest.rows_per_block for result in (usual, small)]
    assert sizes == [512, 32]
    assert small.outcome == "resumed"
    assert found[0].fingerprint == found[1].fingerprint
    for one, other in zip(found[0].splits.values(), found[1].splits.values(), strict=True):
        assert one.features.tobytes() == other.features.tobytes()
        assert one.labels.tobytes() == other.labels.tobytes()
        assert one.ids == other.ids
