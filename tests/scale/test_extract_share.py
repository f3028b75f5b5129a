"""Shares of a cache, and the file that they are joined to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import featcache
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    InterruptedRunError,
    LockedError,
    MismatchError,
    UsageError,
)
from featcache.scale.plan_file import PartsPlan, asked_of
from featcache.scale.planning import place_of_plan
from featcache.store import locked
from tests.conftest import save_image
from tests.extraction.interruptions import StopAfter
from tests.scale.breaking import in_column
from tests.scale.conftest import all_shares
from tests.scale.kinds import Kind, kinds


def test_merged_shares_are_the_file_of_one_process_in_every_kind(tmp_path: Path) -> None:
    tried = []
    for kind in kinds(tmp_path):
        folder = tmp_path / f"cache of {kind.name}"
        whole = kind.whole(folder / "one").path

        plan = all_shares(kind.spec(folder / "shares"))
        merged = featcache.merge_parts(plan.folder)

        assert merged.path.name == whole.name
        assert merged.path.read_bytes() == whole.read_bytes(), kind.name
        tried.append(kind.name)
    assert len(tried) == 9


@pytest.mark.parametrize("n_shares", [1, 2, 7, 24])
def test_any_number_of_shares_makes_the_same_file(
    kind: Kind, tmp_path: Path, n_shares: int
) -> None:
    whole = kind.whole(tmp_path / "one").path

    plan = all_shares(kind.spec(tmp_path / "shares"), n_shares)
    merged = featcache.merge_parts(plan.folder)

    assert merged.path.read_bytes() == whole.read_bytes()
    assert [(f.split, f.id) for f in merged.failures] == [("train", "train/dog/broken.jpg")]


def test_the_first_share_plans_and_the_last_is_told_to_merge(
    spec: featcache.ExtractSpec,
) -> None:
    notes: list[str] = []

    first = featcache.extract_share(spec, share="0/3", on_note=notes.append)
    again = featcache.extract_share(spec, share="0/3", on_note=notes.append)

    assert (first.outcome, first.n_rows, first.n_rows_computed) == ("computed", 8, 8)
    assert (again.outcome, again.n_rows, again.n_rows_computed) == ("reused", 8, 0)
    assert first.share == "0/3"
    assert first.next == f"featcache cache merge {first.path.parent}"
    assert [note for note in notes if note.startswith("planning")] == [
        "planning 3 shares: the whole dataset is read once, for its digest"
    ]


def test_shares_beyond_the_blocks_are_empty(spec: featcache.ExtractSpec) -> None:
    notes: list[str] = []

    empty = featcache.extract_share(spec, share="0/24", on_note=notes.append)

    assert (empty.outcome, empty.n_rows) == ("empty", 0)
    assert "share 0/24 is empty: there are 6 blocks of 4 rows for 24 shares" in notes


def test_the_plan_alone_is_made_on_demand_and_names_no_machine(
    spec: featcache.ExtractSpec, tmp_path: Path
) -> None:
    planned = featcache.extract_share(spec, share="plan/3")
    other = replace(spec, cache_dir=str(tmp_path / "other"), n_workers=1, device="cpu")
    again = featcache.extract_share(other, share="plan/3")

    assert planned.outcome == "planned"
    assert [path.name for path in planned.path.parent.iterdir()] == ["plan.json"]
    assert planned.next.endswith("--share 0/3")
    assert again.path.read_bytes() == planned.path.read_bytes()


def test_a_share_that_was_stopped_goes_on(kind: Kind, tmp_path: Path) -> None:
    whole = kind.whole(tmp_path / "one").path
    spec = kind.spec(tmp_path / "shares")

    with pytest.raises(
        InterruptedRunError, match=r"8 of 12 rows are kept in .*part-00000-of-00002"
    ):
        featcache.extract_share(spec, share="0/2", on_progress=StopAfter(1))
    resumed = featcache.extract_share(spec, share="0/2")

    assert (resumed.outcome, resumed.n_rows_computed) == ("resumed", 4)
    merged = featcache.merge_parts(all_shares(spec, 2).folder)
    assert merged.path.read_bytes() == whole.read_bytes()


def test_statistics_of_the_plan_are_taken_by_a_part_that_was_cut_before_it_had_them(
    tmp_path: Path,
) -> None:
    [kind] = [kind for kind in kinds(tmp_path) if kind.name.startswith("adapted")]
    spec = kind.spec(tmp_path / "cache")
    stages: list[str] = []
    featcache.extract_share(spec, share="plan/2")

    featcache.extract_share(spec, share="1/2", on_progress=lambda p: stages.append(p.stage))

    assert "extract" in stages
    assert "adapt" not in stages


def test_a_complete_cache_needs_no_shares(kind: Kind, tmp_path: Path) -> None:
    whole = kind.whole(tmp_path / "cache").path
    notes: list[str] = []

    result = featcache.extract_share(
        kind.spec(tmp_path / "cache"), share="1/3", on_note=notes.append
    )

    assert (result.outcome, result.path) == ("reused", whole)
    assert "the cache is complete: its parts are no longer needed" in notes
    assert not list(tmp_path.glob("cache/*/*.parts"))


def test_another_number_of_shares_is_refused(spec: featcache.ExtractSpec) -> None:
    featcache.extract_share(spec, share="0/3")

    with pytest.raises(MismatchError, match=r"n_shares: found 3, wanted 4.*--share I/3, or remove"):
        featcache.extract_share(spec, share="0/4")


def test_a_complete_cache_is_reused_by_any_number_of_shares(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    featcache.merge_parts(plan.folder)

    other = featcache.extract_share(spec, share="0/4")

    assert (other.outcome, other.path) == ("reused", plan.whole)


def test_a_plan_that_cannot_be_read_stops_no_share_of_other_options(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    plan.path.write_text("{")
    notes: list[str] = []

    other = featcache.extract_share(replace(spec, limit=4), share="0/2", on_note=notes.append)
    with pytest.raises(CorruptError, match="not a plan that featcache wrote"):
        featcache.extract_share(spec, share="0/3")

    assert other.outcome == "computed"
    assert len([note for note in notes if note.startswith("a plan was left out: ")]) == 1


def test_commands_that_are_told_hold_the_data_folder(
    spec: featcache.ExtractSpec, tmp_path: Path
) -> None:
    planned = featcache.extract_share(replace(spec, data_dir="/shared/data"), share="plan/3")

    found = featcache.describe_parts(planned.path.parent)

    assert "--data-dir /shared/data" in planned.next
    assert "--data-dir /shared/data" in found.command


def test_other_images_than_the_plan_counts_are_refused(
    spec: featcache.ExtractSpec, tmp_path: Path
) -> None:
    featcache.extract_share(spec, share="0/3")
    save_image(tmp_path / "images/train/cat/0.png", 99)

    featcache.extract_share(spec, share="2/3")  # its images are as they were
    with pytest.raises(MismatchError, match=r"names or bytes of share 1 \(shares_sha256\)"):
        save_image(tmp_path / "images/train/dog/9.png", 99)
        featcache.extract_share(spec, share="1/3")
    save_image(tmp_path / "images/train/cat/one-more.png", 0)
    with pytest.raises(MismatchError, match=r"counts: train: found 15, wanted 14"):
        featcache.extract_share(spec, share="1/3")


def test_another_backbone_than_the_plan_has_is_refused(tmp_path: Path) -> None:
    [kind] = [kind for kind in kinds(tmp_path) if kind.name == "a network"]
    spec = kind.spec(tmp_path / "cache")
    planned = featcache.extract_share(spec, share="plan/2").path
    text = planned.read_text()

    assert '"precision": "fp32"' in text
    assert asked_of(spec)["precision"] == "auto"
    with pytest.raises(MismatchError, match=r"batch_size: found 4, wanted 8"):
        featcache.extract_share(replace(spec, batch_size=8), share="0/2")


def test_a_share_that_another_process_computes_is_locked(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    with locked(plan.part(1)), pytest.raises(LockedError, match=r"part-00001-of-00003-\w+\.h5 is "):
        featcache.extract_share(spec, share="1/3")


def test_the_plan_is_waited_for_and_the_wait_ends(spec: featcache.ExtractSpec) -> None:
    planned = featcache.extract_share(spec, share="plan/3").path
    content = planned.read_bytes()
    planned.unlink()
    notes: list[str] = []

    def make_it(note: str) -> None:
        notes.append(note)
        if note.startswith("waiting"):
            planned.write_bytes(content)

    with locked(place_of_plan(spec)):
        with pytest.raises(
            CacheMissingError, match=r"There was no plan of the parts in .* within 0 h"
        ) as err:
            featcache.extract_share(spec, share="0/3", wait=0)
        waited = featcache.extract_share(spec, share="0/3", on_note=make_it)

    assert err.value.exit_code == 10
    assert waited.outcome == "computed"
    assert any(note.startswith("waiting for the plan of the parts: pixels-") for note in notes)


def test_a_share_must_be_named(spec: featcache.ExtractSpec) -> None:
    with pytest.raises(UsageError, match="--share says which share"):
        featcache.extract_share(spec)


def test_a_part_that_is_not_complete_says_which_command_goes_on_with_it(
    spec: featcache.ExtractSpec,
) -> None:
    with pytest.raises(InterruptedRunError):
        featcache.extract_share(spec, share="1/3", on_progress=StopAfter(0))
    [part] = Path(spec.cache_dir).glob("*/*.parts/*.partial")

    with pytest.raises(CacheMissingError, match=r"not complete.*--share 1/3") as err:
        featcache.open_cache(part)

    assert f"--cache-dir {spec.cache_dir} " in str(err.value)


def test_a_part_is_computed_again_and_not_repaired(plan: PartsPlan) -> None:
    part = plan.part(1)
    in_column("features")(plan)

    with pytest.raises(UsageError, match=rf"is a part of a cache, .*rm {part} && .*--share 1/3"):
        featcache.repair_cache(part)
