"""Blocks that are dealt to several writers of one file, and a part of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.core.reporting import silent
from featcache.extraction.fill import Target, fill
from featcache.extraction.job import Job
from featcache.extraction.plan import Plan, Whole, make_plan
from featcache.store import Block, CacheWriter
from tests.extraction.conftest import specs


@pytest.fixture
def plan(image_folder: Path, tmp_path: Path) -> Plan:
    """The 310 images themselves, at 8 px."""
    options = {"image_size": 8, "n_workers": 0, "cache_dir": tmp_path / "dealt"}
    [spec] = specs(f"folder:{image_folder}", ("pixels",), options)
    dataset = featcache.load_dataset(spec.dataset, data_dir="data")
    return make_plan(spec, dataset, on_progress=silent, on_note=silent)


def test_blocks_that_two_writers_are_dealt_make_the_file_of_one(
    plan: Plan, small_blocks: None, tmp_path: Path
) -> None:
    job = Job.begin(plan, on_progress=silent, on_note=silent)
    with CacheWriter.create(plan.path, job.file_plan(), plan.rows()) as first:
        blocks = first.pending()
        with CacheWriter.resume(plan.path, plan.rows()) as second:
            fill([Target(job, first, iter(blocks[::2]))])
            fill([Target(job, second, iter(blocks[1::2]))])
        first.finish()

    alone = featcache.extract(
        plan.spec.dataset,
        backbone="pixels",
        image_size=8,
        n_workers=0,
        cache_dir=tmp_path / "alone",
    )

    assert len(blocks) == 4
    assert plan.path.read_bytes() == alone.path.read_bytes()


def test_a_block_is_asked_for_when_its_turn_comes(plan: Plan, small_blocks: None) -> None:
    events: list[tuple[str, int]] = []

    def told(progress: featcache.Progress) -> None:
        events.append((progress.split, progress.n_done))

    def dealt(blocks: list[Block]) -> Iterator[Block]:
        for block in blocks:
            events.append(("asked", block.slot))
            yield block

    job = Job.begin(plan, on_progress=told, on_note=silent)
    with CacheWriter.create(plan.path, job.file_plan(), plan.rows()) as writer:
        first, second, *_ = writer.pending()
        fill([Target(job, writer, dealt([first, second]))])

    assert events == [
        ("asked", first.slot),
        ("train", 64),
        ("train", 128),
        ("asked", second.slot),
        ("train", 192),
        ("train", 256),
    ]


def test_a_part_of_a_dataset_takes_what_is_handed_down_from_the_whole(plan: Plan) -> None:
    part = replace(plan, dataset=plan.dataset.cut({"test": (2, 5)}))

    handed = replace(part, whole=Whole({"train": 30, "test": 31}, has_heic=True))

    assert part.splits()["test"].id_nbytes == len("test/dog/2.png")
    assert handed.splits()["test"].id_nbytes == 31
    assert handed.splits()["test"].n_rows == 3
    assert (part.has_heic, handed.has_heic) == (False, True)


def test_a_part_of_a_dataset_has_its_rows_and_their_digests(plan: Plan) -> None:
    whole = plan.dataset.splits["train"]

    part = plan.dataset.cut({"train": (290, 300)}).splits["train"]

    assert [*part.ids] == [*whole.ids[290:]]
    assert part.labels is not None
    assert whole.labels is not None
    assert part.labels.tolist() == whole.labels[290:].tolist()
    np.testing.assert_array_equal(part.image_sha256(), whole.image_sha256()[290:])
