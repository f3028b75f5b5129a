"""One cache by several workers: what they claim and refuse, and when their leader gives up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

import featcache
from featcache.core.reporting import silent
from featcache.core.side_files import partial_path
from featcache.core.workers.messages import (
    FAILED,
    REFUSED,
    claimed_key,
    next_key,
    written_error,
)
from featcache.errors import (
    DeviceError,
    InterruptedRunError,
    MismatchError,
)
from featcache.extraction.job import Job
from featcache.extraction.opening import identified, open_images
from featcache.extraction.plan import Plan, make_plan
from featcache.scale.devices.claiming import compute
from featcache.scale.devices.watching import Watch
from featcache.scale.devices.work import Work
from featcache.store import Block, CacheWriter
from featcache.store.sharing import hand_over
from tests.conftest import save_image
from tests.scale.kinds import Kind, kinds

FIRST_BLOCK = 4  # rows


def made(spec: featcache.ExtractSpec, **options: Any) -> featcache.ExtractResult:
    """What one process makes."""
    return featcache.extract(**{**asdict(spec), **options})


@pytest.fixture
def whole(kind: Kind, tmp_path: Path) -> bytes:
    """The file of one process."""
    return kind.whole(tmp_path / "whole").path.read_bytes()


@pytest.fixture
def begun(spec: featcache.ExtractSpec) -> Path:
    """The final name of a cache of which the first block is acknowledged."""

    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.stage == "extract" and progress.n_done >= FIRST_BLOCK:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        made(spec, on_progress=press_ctrl_c)
    [summary] = featcache.list_caches(spec.cache_dir)
    return summary.path.with_suffix("")


@pytest.fixture
def plan(spec: featcache.ExtractSpec) -> Plan:
    """What the leader has decided."""
    images = open_images(spec, on_note=silent)
    sha256, images = identified(images, spec, None, on_progress=silent, on_note=silent)
    return make_plan(spec, images, on_progress=silent, on_note=silent, dataset_sha256=sha256)


@pytest.fixture
def store() -> Store:
    """What workers share, within this process."""
    return HashStore()


@pytest.fixture
def writer(begun: Path, plan: Plan) -> Iterator[CacheWriter]:
    """The leader's."""
    with CacheWriter.resume(begun, plan.rows()) as writer:
        yield writer


def work_on(plan: Plan, n: int = 1) -> Work:
    return Work(
        spec=json.loads(json.dumps(asdict(plan.spec))),
        cache=str(plan.path),
        dataset_sha256=plan.identity["dataset_sha256"],
        devices=("cpu",) * n,
        n_workers=0,
        n_threads=1,
        port=0,
        leader=0,
        path=(),
    )


def watch_of(plan: Plan, writer: CacheWriter, store: Store, notes: list[str]) -> Watch:
    job = Job.resume(plan, writer, on_progress=silent, on_note=silent)
    return Watch(job, writer, store, n_workers=2, on_note=notes.append)


def claim(store: Store, attempt: int, *blocks: Block) -> None:
    slots = "".join(f"{block.slot}," for block in blocks)
    store.append(claimed_key(attempt), slots)  # type: ignore[attr-defined]


@pytest.mark.enable_socket  # the workers' store, on the loopback address
def test_two_workers_make_the_file_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    [kind] = [k for k in kinds(tmp_path) if k.name == "adapted BatchNorm, float16"]
    whole = kind.whole(tmp_path / "whole")
    notes: list[str] = []

    result = featcache.extract_on_devices(
        kind.spec(tmp_path / "cache"), devices="cpu:2", on_note=notes.append
    )

    assert result.path.read_bytes() == whole.path.read_bytes()
    assert (result.outcome, result.n_rows_computed) == ("computed", whole.n_rows)
    assert result.failures == whole.failures
    assert "2 workers: cpu, cpu" in notes
    assert capfd.readouterr().out == ""


def test_workers_compute_what_is_pending_and_deal_the_blocks(
    begun: Path, plan: Plan, writer: CacheWriter, store: Store, whole: bytes
) -> None:
    n_pending = len(writer.pending())
    hand_over(writer, plan.rows())

    compute(work_on(plan, 2), store, rank=0, attempt=0)
    compute(work_on(plan, 2), store, rank=1, attempt=0)
    writer.finish()

    assert n_pending == 5
    assert store.get(claimed_key(0)).count(b",") == n_pending
    assert int(store.get(next_key(0))) == len(writer.manifest.blocks()) + 2
    assert begun.read_bytes() == whole


def test_another_start_of_the_workers_counts_anew(
    begun: Path, plan: Plan, writer: CacheWriter, store: Store, whole: bytes
) -> None:
    hand_over(writer, plan.rows())
    store.add(next_key(0), 100)  # all were claimed, and none was computed

    compute(work_on(plan), store, rank=0, attempt=0)
    n_left = len(_pending(writer))
    compute(work_on(plan), store, rank=0, attempt=1)
    writer.finish()

    assert n_left == 5
    assert begun.read_bytes() == whole


def _pending(writer: CacheWriter) -> list[Block]:
    writer.refresh()
    return writer.pending()


def test_a_worker_claims_no_block_once_another_has_refused(
    plan: Plan, writer: CacheWriter, store: Store
) -> None:
    hand_over(writer, plan.rows())
    store.set(REFUSED, written_error(MismatchError("no")))

    compute(work_on(plan), store, rank=0, attempt=0)

    assert len(_pending(writer)) == 5


def test_a_worker_refuses_an_image_that_changed_since_it_was_hashed(
    tmp_path: Path, plan: Plan, writer: CacheWriter, store: Store
) -> None:
    hand_over(writer, plan.rows())
    save_image(tmp_path / "images/test/cat/16.png", 99)

    with pytest.raises(MismatchError, match=r"16\.png"):
        compute(work_on(plan), store, rank=0, attempt=0)


def test_a_worker_refuses_images_that_are_listed_otherwise(
    tmp_path: Path, plan: Plan, writer: CacheWriter, store: Store
) -> None:
    hand_over(writer, plan.rows())
    (tmp_path / "images/test/cat/16.png").rename(tmp_path / "images/test/cat/other.png")

    with pytest.raises(MismatchError, match=r"of split 'test' are others than when .* was begun"):
        compute(work_on(plan), store, rank=0, attempt=0)


def test_a_worker_refuses_to_go_on_where_it_computes_other_rows(
    plan: Plan, writer: CacheWriter, store: Store
) -> None:
    [first] = writer.acknowledged()
    rows = writer.read_rows(first.split, first.start, first.stop) + np.uint8(1)
    writer.write_block(first, rows, np.ones(len(rows), np.bool_))
    writer.commit()
    hand_over(writer, plan.rows())

    with pytest.raises(MismatchError, match="holds other features for train rows 0 to 3"):
        compute(work_on(plan), store, rank=0, attempt=0)

    assert len(_pending(writer)) == 5


def test_forgotten_blocks_and_what_is_known_of_pending_rows_are_handed_over(
    begun: Path, plan: Plan, writer: CacheWriter, store: Store, whole: bytes
) -> None:
    [first] = writer.acknowledged()
    ids = writer.manifest.splits["test"].columns["ids"]
    with partial_path(begun).open("r+b") as file:
        file.seek(writer.manifest.splits["train"].columns["features"].offset)
        file.write(b"damage")
        file.seek(ids.offset)
        file.write(b"damage")
    assert writer.recheck() == [first]

    hand_over(writer, plan.rows())
    compute(work_on(plan), store, rank=0, attempt=0)
    writer.finish()

    assert begun.read_bytes() == whole


def test_a_block_whose_worker_dies_three_times_ends_the_run(
    plan: Plan, writer: CacheWriter, store: Store
) -> None:
    notes: list[str] = []
    watch = watch_of(plan, writer, store, notes)
    second, third = writer.pending()[:2]
    watch.before_start()
    for attempt, blocks in enumerate([(second, third), (second,)]):
        claim(store, attempt, *blocks)
        watch.before_start()
    claim(store, 2, second)

    with pytest.raises(DeviceError, match=r"3 times while they computed rows train 4 to 7\. 4 of"):
        watch.before_start()

    assert notes == ["a worker ended; all are started again, and go on"] * 2


def test_workers_that_die_before_their_first_row_end_the_run_with_what_they_said(
    plan: Plan, writer: CacheWriter, store: Store
) -> None:
    watch = watch_of(plan, writer, store, [])
    for _ in range(3):
        watch.before_start()
    store.set(FAILED, "no memory")

    with pytest.raises(DeviceError, match=r"ended \(no memory\) 3 times before they had computed"):
        watch.before_start()


def test_workers_that_get_on_may_die_as_often_as_they_like(
    begun: Path, plan: Plan, writer: CacheWriter, store: Store
) -> None:
    watch = watch_of(plan, writer, store, [])

    for attempt, block in enumerate(writer.pending()):
        watch.before_start()
        claim(store, attempt, block)
        with CacheWriter.resume(begun, plan.rows()) as worker:
            n_rows = block.stop - block.start
            rows = np.zeros((n_rows, *plan.row_shape), np.uint8)
            worker.write_block(block, rows, np.ones(n_rows, np.bool_))
            worker.commit()
    watch.before_start()

    assert not _pending(writer)


def test_one_device_goes_on_with_the_threads_that_a_file_was_begun_with(
    tmp_path: Path,
) -> None:
    [kind] = [k for k in kinds(tmp_path) if k.name == "a network"]
    spec = kind.spec(tmp_path / "cache")

    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.stage == "extract":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        made(spec, on_progress=press_ctrl_c)  # on one thread
    notes: list[str] = []
    torch.set_num_threads(2)
    try:
        with pytest.raises(MismatchError, match="threads"):
            made(spec)
        result = featcache.extract_on_devices(spec, devices="cpu", on_note=notes.append)
        n_threads = torch.get_num_threads()
    finally:
        torch.set_num_threads(1)

    assert result.outcome == "resumed"
    assert "threads 1: with which the file was begun" in notes
    assert n_threads == 2
    assert result.path.read_bytes() == kind.whole(tmp_path / "whole").path.read_bytes()
