"""Parts that are joined, and folders of parts that are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.core.side_files import partial_path
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    InterruptedRunError,
    LockedError,
    MismatchError,
)
from featcache.scale.plan_file import PartsPlan, read_plan
from featcache.store import CacheWriter, locked, read_state
from featcache.store.hdf5_file import plan_of
from tests.extraction.interruptions import StopAfter
from tests.paces import blocks_of
from tests.scale.breaking import VICTIM, in_column, in_numerics
from tests.scale.conftest import all_shares
from tests.scale.defects import DEFECTS, Defect
from tests.scale.kinds import BATCH_SIZE, kinds
from tests.store.damage import flip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three parts, of an adapted network."""
    folder = tmp_path_factory.mktemp("sound")
    with blocks_of(BATCH_SIZE):
        [kind] = [kind for kind in kinds(folder) if kind.name.startswith("adapted")]
        return all_shares(kind.spec(folder / "cache")).folder


@pytest.fixture
def adapted(sound: Path, tmp_path: Path) -> PartsPlan:
    """The plan of a copy of that folder."""
    return read_plan(shutil.copytree(sound, tmp_path / "copy" / sound.name))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_folder_with_a_defect_is_refused_and_the_field_is_named(
    adapted: PartsPlan, defect: Defect
) -> None:
    defect.do(adapted)

    with pytest.raises(defect.error, match=defect.told):
        featcache.merge_parts(adapted.folder)

    assert not adapted.whole.exists()


def test_a_folder_without_a_defect_is_merged(adapted: PartsPlan) -> None:
    merged = featcache.merge_parts(adapted.folder)

    assert (merged.outcome, merged.n_rows, merged.n_shares) == ("merged", 19, 3)
    assert merged.n_foreign_blocks == 0
    assert featcache.verify_cache(merged.path).is_sound


def test_a_merged_cache_is_reused(adapted: PartsPlan) -> None:
    first = featcache.merge_parts(adapted.folder)

    again = featcache.merge_parts(adapted.folder)

    assert again.outcome == "reused"
    assert replace(again, outcome="merged", seconds=0) == replace(first, seconds=0)


def test_parts_of_another_numeric_class_are_merged_on_demand(adapted: PartsPlan) -> None:
    in_numerics(adapted)

    merged = featcache.merge_parts(adapted.folder, mix_numerics=True)

    assert merged.n_foreign_blocks == 2
    assert featcache.verify_cache(merged.path).is_sound


def test_a_stopped_merge_goes_on(adapted: PartsPlan, tmp_path: Path) -> None:
    other = read_plan(shutil.copytree(adapted.folder, tmp_path / "other" / adapted.folder.name))
    straight = featcache.merge_parts(other.folder).path

    def press_ctrl_c(n_done: int, n_total: int) -> None:
        if n_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="blocks that were copied are kept"):
        featcache.merge_parts(adapted.folder, on_progress=press_ctrl_c)
    assert read_state(partial_path(adapted.whole)).n_rows_done == 8
    resumed = featcache.merge_parts(adapted.folder)

    assert resumed.outcome == "resumed"
    assert resumed.path.read_bytes() == straight.read_bytes()


def test_a_merge_that_met_damage_goes_on_once_it_is_mended(adapted: PartsPlan) -> None:
    good = adapted.part(VICTIM).read_bytes()
    in_column("features")(adapted)
    with pytest.raises(CorruptError):
        featcache.merge_parts(adapted.folder)
    assert read_state(partial_path(adapted.whole)).n_rows_done == 8
    adapted.part(VICTIM).write_bytes(good)

    merged = featcache.merge_parts(adapted.folder)

    assert merged.outcome == "resumed"
    assert featcache.verify_cache(merged.path).is_sound


def test_a_stopped_extraction_in_the_place_of_the_cache_is_completed_if_it_is_the_same(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    with pytest.raises(InterruptedRunError):
        featcache.extract_all([spec], on_progress=StopAfter(3))

    merged = featcache.merge_parts(plan.folder)

    assert merged.outcome == "resumed"
    assert featcache.verify_cache(merged.path).is_sound


def test_another_partial_file_in_the_place_of_the_cache_is_refused(plan: PartsPlan) -> None:
    with CacheWriter.create(plan.whole, replace(plan_of(plan.manifest), rows_per_block=8), {}):
        pass

    with pytest.raises(MismatchError, match=r"begun by a run that is not of these parts .*8, wan"):
        featcache.merge_parts(plan.folder)


def test_a_cache_that_another_process_writes_is_locked(plan: PartsPlan) -> None:
    with locked(plan.whole), pytest.raises(LockedError):
        featcache.merge_parts(plan.folder)


def test_a_merged_cache_has_the_rows_of_its_parts(plan: PartsPlan) -> None:
    merged = featcache.open_cache(featcache.merge_parts(plan.folder).path)
    parts = [featcache.open_cache(plan.part(index)) for index in range(3)]

    train = np.concatenate([part["train"].features for part in parts if "train" in part])
    np.testing.assert_array_equal(merged["train"].features, train)
    assert [part.path.name[:19] for part in parts] == [f"part-0000{i}-of-00003" for i in range(3)]


def test_a_folder_says_what_is_missing_and_what_computes_it(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    plan.part(1).unlink()
    flip(plan.part(2), 4400)
    with pytest.raises(InterruptedRunError):
        featcache.extract_share(spec, share="1/3", on_progress=StopAfter(0))

    found = featcache.describe_parts(plan.folder)

    assert [part.state for part in found.parts] == ["complete", "incomplete", "damaged"]
    assert (found.state, found.missing, found.n_rows_done) == ("incomplete", "1-2", 8 + 4)
    assert found.command.endswith("--image-size 8 --cache-dir " + spec.cache_dir + " --share 1/3")
    assert found.cache == plan.whole


def test_a_folder_with_all_parts_says_how_they_are_joined(plan: PartsPlan) -> None:
    found = featcache.describe_parts(plan.folder)

    assert (found.state, found.missing) == ("complete", "")
    assert found.command == f"featcache cache merge {plan.folder}"
    assert found.n_rows_done == found.n_rows == 19


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheMissingError, match="is no folder of parts"):
        featcache.describe_parts(tmp_path)
