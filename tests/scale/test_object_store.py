"""A cache whose parts lie in an object store, here an imitation of S3 on this machine."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import featcache
from featcache.core.store_urls import store_url
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    MismatchError,
    StorageError,
    UsageError,
)
from featcache.extraction.progress import Progress
from featcache.scale.dealing import deal, run_task
from featcache.scale.plan_file import read_plan
from featcache.scale.remote.calls import StorePatience, with_patience
from featcache.scale.remote.describe_there import describe_there, list_there
from featcache.scale.remote.layout import Marker, marker_bytes, marker_name
from featcache.scale.remote.objects import Objects
from featcache.scale.remote.plans import scratch_of
from tests.faults.store_proxy import faulty
from tests.scale.conftest import N_PARTS_THERE
from tests.scale.kinds import Kind
from tests.scale.moto_server import data_of, objects_at, remove, write

pytest.importorskip("obstore", reason="the extra cloud is not installed; `dev` has it")
pytest.importorskip("moto", reason="the imitation of S3 is not installed; `dev` has it")
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

_N = N_PARTS_THERE


def test_the_fetched_cache_is_byte_for_byte_that_of_one_process(
    kind: Kind, folder: str, tmp_path: Path
) -> None:
    whole = kind.whole(tmp_path / "one").path

    fetched = featcache.fetch_cache(folder)
    again = featcache.fetch_cache(folder)

    assert fetched.path.read_bytes() == whole.read_bytes()
    assert (fetched.outcome, again.outcome) == ("fetched", "reused")
    assert again.path == fetched.path
    assert list(fetched.path.parent.glob("*.parts")) == []


def test_a_share_is_data_by_its_digest_and_a_marker_and_no_copy_stays(
    there: featcache.ExtractSpec, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = featcache.extract_share(there, share="0/1")

    names = sorted(name.partition(".parts/")[2] for name in objects_at(url))
    assert [name.partition("/")[0] for name in names] == ["data", "markers", "plan.json"]
    assert str(result.path).startswith(url)
    caches = tmp_path_factory.getbasetemp() / "caches"
    assert list(caches.glob("*/featcache/stores/*/*/*/*.parts/part-*.h5*")) == []


def test_a_share_that_is_there_is_not_computed_again(there: featcache.ExtractSpec) -> None:
    first = featcache.extract_share(there, share="1/3")
    again = featcache.extract_share(there, share="1/3")

    assert (first.outcome, again.outcome) == ("computed", "reused")
    assert (again.path, again.n_rows, again.n_rows_computed) == (first.path, first.n_rows, 0)


def test_dealt_shares_go_into_the_store_and_are_not_dealt_again(
    there: featcache.ExtractSpec,
) -> None:
    notes: list[str] = []

    results = [
        deal(
            there,
            _N,
            lambda tasks: map(run_task, tasks),
            wait=0.0,
            on_progress=lambda _: None,
            on_note=notes.append,
        )
        for _ in range(2)
    ]

    assert [result.outcome for result in results] == ["computed", "reused"]
    assert "0 of 2 shares are there; computing 2" in notes
    assert "2 of 2 shares are there; computing 0" in notes
    assert results[1].next == f"featcache cache merge {results[1].path}"


def test_the_plan_alone_names_the_next_command(there: featcache.ExtractSpec, url: str) -> None:
    result = featcache.extract_share(there, share="plan/3")

    assert result.outcome == "planned"
    assert f"--cache-dir {url} --share 0/3" in result.next
    assert len(objects_at(url)) == 1


def test_shares_beyond_the_blocks_are_empty_and_none_is_missed(
    there: featcache.ExtractSpec,
) -> None:
    results = [featcache.extract_share(there, share=f"{i}/9") for i in range(9)]

    fetched = featcache.fetch_cache(results[0].next.split()[-1])

    assert {result.outcome for result in results} == {"computed", "empty"}
    assert fetched.n_rows == sum(result.n_rows for result in results)


def test_another_number_of_shares_is_refused(there: featcache.ExtractSpec) -> None:
    featcache.extract_share(there, share="plan/3")

    with pytest.raises(MismatchError, match=r"n_shares: found 3, wanted 4.*--share I/3"):
        featcache.extract_share(there, share="0/4")


def test_other_words_for_the_same_images_go_on_with_the_plan_that_is_there(
    there: featcache.ExtractSpec, url: str
) -> None:
    featcache.extract_share(there, share="0/2")

    other = replace(there, dataset=f"{there.dataset}/.")
    featcache.extract_share(other, share="1/2")

    assert len([name for name in objects_at(url) if name.endswith("plan.json")]) == 1
    assert len([name for name in objects_at(url) if "/markers/" in name]) == 2
    with pytest.raises(MismatchError, match=r"n_shares: found 2, wanted 3"):
        featcache.extract_share(other, share="0/3")


def test_a_part_without_a_marker_does_not_count(folder: str) -> None:
    [marker] = [name for name in objects_at(folder) if "part-00001" in name]
    remove(folder, marker)

    found = describe_there(folder, on_note=print)

    assert (found.state, found.missing) == ("incomplete", "1")
    with pytest.raises(
        CacheMissingError, match=r"Of the 2 shares of .* missing: 1\. .*--share 1/2"
    ):
        featcache.fetch_cache(folder)


def test_a_part_whose_marker_the_store_refuses_is_kept_and_uploaded_by_the_next_call(
    there: featcache.ExtractSpec, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty(endpoint, share=0, stall_s=0) as proxy:
        proxy.refuse_at("PUT", "/markers/", 412, "PreconditionFailed")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")

        with pytest.raises(StorageError, match="The part is kept: "):
            featcache.extract_share(there, share="0/1")
        again = featcache.extract_share(there, share="0/1")

    assert proxy.counts == {"PreconditionFailed": 1}
    assert (again.outcome, again.n_rows_computed) == ("resumed", 0)


def test_the_part_of_the_machine_that_was_first_counts(
    there: featcache.ExtractSpec, url: str
) -> None:
    first, notes = Marker("0" * 64, 1), list[str]()

    def be_first(progress: Progress) -> None:
        if progress.stage == "upload":
            [folder] = map(str, list_there(url, on_note=print))
            [plan] = scratch_of(store_url(url)).glob("plans-1/*/*.parts")
            name = marker_name(read_plan(plan), 0)
            with ThreadPoolExecutor(1) as pool:  # the thread that uploads cannot call the store
                pool.submit(write, folder, name, marker_bytes(first)).result()

    result = featcache.extract_share(there, share="0/1", on_progress=be_first, on_note=notes.append)

    assert str(result.path).endswith(first.name)
    assert "another machine was first to upload share 0; that part counts" in notes


def test_a_part_of_another_size_is_damaged_without_being_read(folder: str) -> None:
    write(folder, f"{data_of(folder)[0]}", b"torn")

    found = describe_there(folder, on_note=print)

    assert [part.state for part in found.parts].count("damaged") == 1
    with pytest.raises(CorruptError, match="has 4 bytes, but must have"):
        featcache.fetch_cache(folder)


def test_a_damaged_marker_is_refused_by_name(folder: str) -> None:
    [marker] = [name for name in objects_at(folder) if "part-00001" in name]
    write(folder, f"{marker}", b'{"sha256": "../../x"}')

    with pytest.raises(CorruptError, match=r"part-00001.*is not what featcache wrote"):
        describe_there(folder, on_note=print)


def test_what_is_in_a_store_is_listed(folder: str, url: str) -> None:
    assert [str(found) for found in list_there(url, on_note=print)] == [folder]
    assert list_there(f"{url}/nothing", on_note=print) == []


def test_an_emptied_store_is_filled_again_with_images_that_changed(
    kind: Kind, there: featcache.ExtractSpec, folder: str
) -> None:
    for name in objects_at(folder):
        remove(folder, name)
    for plan in Path(_cache_home()).glob("stores/*/plans-*/*/*.parts/plan.json"):
        os.utime(plan, (0, 0))  # it is of an earlier day
    image = next(Path(kind.dataset.removeprefix("folder:")).glob("train/cat/*.png"))
    image.write_bytes(next(image.parent.glob("*[!0].png")).read_bytes())

    results = [featcache.extract_share(there, share=f"{i}/{_N}") for i in range(_N)]

    assert {result.outcome for result in results} == {"computed"}


def _cache_home() -> str:
    return f"{os.environ['XDG_CACHE_HOME']}/featcache"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://no-such-bucket/x", "There is no bucket 'no-such-bucket'"),
        ("s3://key:word@bucket/x", "must not hold credentials"),
        ("s3://bucket/../x", "is no place in an object store"),
        ("s3://", "is no place in an object store"),
        ("az://bucket/x", "cannot be opened: .*Account"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    there: featcache.ExtractSpec, place: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        featcache.extract_share(replace(there, cache_dir=place), share="0/1")

    assert "word" not in str(raised.value)


def test_a_url_of_no_folder_of_parts_names_what_lists_them(url: str) -> None:
    with pytest.raises(UsageError, match=f"cache ls --cache-dir {url}"):
        featcache.fetch_cache(url)


def test_a_store_that_does_not_answer_is_told_and_tried_so_often(
    there: featcache.ExtractSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://a-user:a-p@ss-word@127.0.0.1:1?signature=a@b")
    notes: list[str] = []

    with (
        with_patience(StorePatience(timeout_s=1, n_tries=3, first_pause_s=0.01)),
        pytest.raises(
            StorageError,
            match=r"no connection \(AWS_ENDPOINT_URL is http://127\.0\.0\.1:1\) \(tried 3 ",
        ) as raised,
    ):
        featcache.extract_share(there, share="0/1", on_note=notes.append)

    assert [note[-8:] for note in notes] == ["(2 of 3)", "(3 of 3)"]
    told = str(raised.value) + "".join(notes)
    assert not [word for word in ("a-secret", "ss-word", "a-user", "@b") if word in told]


def test_the_endpoint_of_s3_counts_before_the_others(
    url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")  # the last of the environment

    with Objects.at(store_url(url), on_note=print) as objects:
        assert objects.get("nothing") is None

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL_S3 is empty"):
        Objects(store_url(url), on_note=print)


def test_a_damaged_plan_in_the_store_is_named_there(there: featcache.ExtractSpec, url: str) -> None:
    path = str(featcache.extract_share(there, share="0/2").path)
    folder = path.rpartition(".parts/")[0] + ".parts"
    remove(folder, "plan.json")
    write(folder, "plan.json", b"{}")

    with pytest.raises(CorruptError, match=rf"^{folder}/plan\.json cannot be used"):
        featcache.extract_share(there, share="1/2")


def test_a_call_of_a_store_is_silent_for_less_than_a_minute() -> None:
    assert StorePatience().longest_silence_s < 60


def test_a_copy_is_named_where_the_store_does_not_answer(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = featcache.fetch_cache(folder).path
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with (
        with_patience(StorePatience(timeout_s=1, n_tries=2, first_pause_s=0.01)),
        pytest.raises(StorageError, match=f"on this machine: --cache {re.escape(str(copy))}$"),
    ):
        featcache.fetch_cache(folder)


@pytest.mark.parametrize(
    "is_there", [False, True], ids=["a new object", "other bytes of that size"]
)
def test_an_upload_that_the_store_has_forgotten_is_begun_again(
    url: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    content = bytes(9 << 20)  # of two chunks: an upload in several parts
    (tmp_path / "large").write_bytes(content)
    if is_there:
        write(url, "large", b"x" * len(content))

    with faulty(endpoint, share=0, stall_s=0) as proxy:
        proxy.forget_upload_at("POST", "uploadId=")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        with (
            with_patience(StorePatience(timeout_s=10, first_pause_s=0.01)),
            Objects.at(store_url(url), on_note=print) as objects,
        ):
            objects.upload("large", tmp_path / "large", on_progress=lambda _, __: None)

            assert objects.get("large") == content
    assert proxy.counts == {"NoSuchUpload": 1}
