"""A cache whose parts lie in an object store is brought here, sealed there, and verified."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import featcache
from featcache.core.store_urls import store_url
from featcache.errors import CorruptError, MismatchError, StorageError
from featcache.scale.remote.describe_there import describe_there, verify_there
from featcache.scale.remote.layout import Marker, marker_bytes
from featcache.scale.remote.objects import Objects
from featcache.scale.remote.plans import scratch_of
from tests.scale.kinds import Kind
from tests.scale.moto_server import data_of, flip_a_byte, objects_at, write

pytest.importorskip("obstore", reason="the extra cloud is not installed; `dev` has it")
pytest.importorskip("moto", reason="the imitation of S3 is not installed; `dev` has it")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_the_seal_names_the_parts_and_is_never_replaced(folder: str, tmp_path: Path) -> None:
    featcache.fetch_cache(folder, cache_dir=str(tmp_path))
    with Objects.at(store_url(folder), on_note=print) as objects:
        seal = objects.get("cache.json")
        write(folder, "cache.json", b"other")

        with pytest.raises(MismatchError, match="seals other parts"):
            featcache.fetch_cache(folder)

        assert seal is not None
        assert all(f'"{name[5:-3]}"'.encode() in seal for name in data_of(folder))
        assert objects.get("cache.json") == b"other"


def test_a_merge_that_finds_its_cache_here_seals_no_part_that_it_did_not_read(
    kind: Kind, folder: str, tmp_path: Path
) -> None:
    kind.whole(tmp_path)
    flip_a_byte(folder)

    fetched = featcache.fetch_cache(folder, cache_dir=str(tmp_path))

    assert fetched.outcome == "reused"
    assert "cache.json" not in objects_at(folder)


def test_a_merge_that_was_killed_before_it_sealed_does_so_when_it_is_run_again(
    kind: Kind, folder: str, tmp_path: Path
) -> None:
    copies = kind.whole(tmp_path).path.with_suffix(".parts")
    copies.mkdir()
    (copies / "copied-from").write_text(folder)

    fetched = featcache.fetch_cache(folder, cache_dir=str(tmp_path))

    assert fetched.outcome == "reused"
    assert "cache.json" in objects_at(folder)
    assert not copies.exists()


def test_a_copy_for_training_writes_nothing_into_the_store(folder: str) -> None:
    before = objects_at(folder)

    featcache.fetch_cache(folder)

    assert objects_at(folder) == before


def test_other_parts_of_the_same_plan_that_were_computed_here_are_not_removed(
    folder: str, tmp_path: Path
) -> None:
    with Objects.at(store_url(folder), on_note=print) as objects:
        plan = objects.get("plan.json") or b""
    here = tmp_path.joinpath(*folder.split("/")[-2:])
    here.mkdir(parents=True)
    (here / "plan.json").write_bytes(plan)
    [marker] = [name for name in objects_at(folder) if "part-00000" in name]
    own = here / marker.removeprefix("markers/").removesuffix(".json")
    own.write_bytes(b"computed here")

    with pytest.raises(MismatchError, match=r"was computed here.*another --cache-dir"):
        featcache.fetch_cache(folder, cache_dir=str(tmp_path))

    assert own.read_bytes() == b"computed here"
    assert {path.name for path in here.iterdir()} == {"plan.json", own.name}


def test_bytes_that_changed_in_the_store_are_found(folder: str) -> None:
    flip_a_byte(folder)

    verified = verify_there(folder, on_progress=lambda _, __: None, on_note=print)

    assert sorted(part.state for part in verified.parts) == ["complete", "damaged"]
    with pytest.raises(CorruptError, match=r"is damaged: its SHA-256 .*remove s3://.*markers/part"):
        featcache.fetch_cache(folder)


def test_verify_tells_the_share_of_a_damaged_part_as_missing_and_how_it_is_made_anew(
    folder: str,
) -> None:
    flip_a_byte(folder)

    verified = verify_there(folder, on_progress=lambda _, __: None, on_note=print)

    [bad] = [part for part in verified.parts if part.state == "damaged"]
    assert (verified.state, verified.missing) == ("incomplete", str(bad.index))
    assert f"--share {bad.index}/2" in verified.command
    assert verified.n_rows_done == verified.n_rows - bad.n_rows


def test_a_part_made_anew_is_refused_by_the_old_seal_before_it_is_copied(
    folder: str, tmp_path: Path
) -> None:
    featcache.fetch_cache(folder, cache_dir=str(tmp_path / "first"))
    [marker] = [name for name in objects_at(folder) if "part-00000" in name]
    write(folder, "data/" + "0" * 64 + ".h5", b"1")
    write(folder, marker, marker_bytes(Marker("0" * 64, 1)))
    notes: list[str] = []

    with pytest.raises(MismatchError, match=r"seals other parts.*remove the seal"):
        featcache.fetch_cache(folder, cache_dir=str(tmp_path / "next"), on_note=notes.append)

    assert notes == []
    assert not (tmp_path / "next").exists()


def test_what_is_wrong_with_a_sealed_part_names_the_seal(folder: str, tmp_path: Path) -> None:
    featcache.fetch_cache(folder, cache_dir=str(tmp_path))
    write(folder, data_of(folder)[0], b"torn")

    found = describe_there(folder, on_note=print)

    [problem] = [part.problem for part in found.parts if part.problem]
    assert f" and {folder}/cache.json with a tool" in problem


def test_a_folder_of_this_machine_that_cannot_be_written_is_no_other_plan(
    there: featcache.ExtractSpec, url: str
) -> None:
    featcache.extract_share(there, share="plan/2")
    scratch = scratch_of(store_url(url))
    shutil.rmtree(scratch)
    scratch.write_bytes(b"no folder")
    notes: list[str] = []

    with pytest.raises(StorageError, match="Cannot write"):
        featcache.extract_share(there, share="0/2", on_note=notes.append)

    assert not any("left out" in note for note in notes)
