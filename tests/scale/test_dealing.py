"""All shares dealt to workers: here to this process itself, and what Ray is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

import featcache
from featcache.core.locks import locked
from featcache.errors import (
    CacheMissingError,
    DeviceError,
    InterruptedRunError,
    MismatchError,
    UsageError,
)
from featcache.scale.dealing import Answer, ShareTask, deal, run_task
from featcache.scale.plan_file import PartsPlan
from featcache.scale.ray_engine import Need, need_of_task
from tests.conftest import save_image
from tests.scale.kinds import Kind


class InThisProcess:
    """Runs each task when its answer is asked for, and remembers which there were."""

    def __init__(self) -> None:
        self.shares: list[str] = []

    def __call__(self, tasks: Iterable[ShareTask]) -> Iterator[Answer]:
        for task in tasks:
            self.shares.append(task.share)
            yield run_task(task)


def dealt(spec: featcache.ExtractSpec, workers: Any, **told: Any) -> featcache.ShareResult:
    told = {"on_progress": lambda _: None, "on_note": lambda _: None, **told}
    return deal(spec, 3, workers, wait=0.0, **told)


def test_dealt_shares_are_joined_to_the_file_of_one_process(kind: Kind, tmp_path: Path) -> None:
    whole = kind.whole(tmp_path / "one").path
    progress: list[tuple[int, int]] = []

    result = dealt(
        kind.spec(tmp_path / "shares"),
        InThisProcess(),
        on_progress=lambda p: progress.append((p.n_done, p.n_total)),
    )
    merged = featcache.merge_parts(result.path)

    assert (result.share, result.outcome) == ("ray/3", "computed")
    assert (result.n_rows, result.n_rows_computed) == (19, 19)
    assert [failure.id for failure in result.failures] == ["train/dog/broken.jpg"]
    assert result.next == f"featcache cache merge {result.path}"
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert merged.path.read_bytes() == whole.read_bytes()


def test_only_the_shares_that_are_missing_are_dealt(spec: featcache.ExtractSpec) -> None:
    featcache.extract_share(spec, share="1/3")
    first, second = InThisProcess(), InThisProcess()

    resumed = dealt(spec, first)
    again = dealt(spec, second)

    assert first.shares == ["plan/3", "0/3", "2/3"]
    assert (resumed.outcome, resumed.n_rows_computed) == ("resumed", 13)
    assert second.shares == ["plan/3"]
    assert (again.outcome, again.n_rows, again.n_rows_computed) == ("reused", 19, 0)


def test_a_complete_cache_needs_no_tasks(kind: Kind, tmp_path: Path) -> None:
    whole = kind.whole(tmp_path / "cache").path
    workers = InThisProcess()

    result = dealt(kind.spec(tmp_path / "cache"), workers)

    assert (result.share, result.outcome, result.path) == ("ray/3", "reused", whole)
    assert workers.shares == ["plan/3"]


def test_the_first_refusal_ends_the_dealing_with_its_own_error(
    spec: featcache.ExtractSpec, tmp_path: Path
) -> None:
    featcache.extract_share(spec, share="plan/3")
    save_image(tmp_path / "images/train/cat/0.png", 99)
    workers = InThisProcess()

    with pytest.raises(MismatchError, match=r"bytes of share 0 \(shares_sha256\)") as err:
        dealt(spec, workers)

    assert err.value.exit_code == 12
    assert workers.shares == ["plan/3", "0/3"]


def test_relative_folders_are_those_of_the_command(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def elsewhere(tasks: Iterable[ShareTask]) -> Iterator[Answer]:
        for task in tasks:
            monkeypatch.chdir(tmp_path / "elsewhere")
            yield run_task(task)

    spec = replace(kind.spec(Path("cache")), dataset="folder:images")
    result = dealt(spec, elsewhere)

    assert result.path.parent.parent == tmp_path / "cache"


@pytest.mark.parametrize("written", ["*/*.parts/plan.json", "*/*.parts/part-*.h5"])
def test_machines_that_write_into_another_folder_are_noticed(
    spec: featcache.ExtractSpec, written: str
) -> None:
    def on_a_disk_of_its_own(tasks: Iterable[ShareTask]) -> Iterator[Answer]:
        for task in tasks:
            answer = run_task(task)
            for file in Path(spec.cache_dir).glob(written):
                file.unlink()
            yield answer

    with pytest.raises(CacheMissingError, match="same folder on all machines"):
        dealt(spec, on_a_disk_of_its_own)


def test_a_stop_keeps_the_shares_that_are_there(spec: featcache.ExtractSpec) -> None:
    def stopped_after_one(tasks: Iterable[ShareTask]) -> Iterator[Answer]:
        for task in tasks:
            yield run_task(task)
            if task.share == "0/3":
                raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="Complete shares are kept"):
        dealt(spec, stopped_after_one)
    rest = InThisProcess()
    dealt(spec, rest)

    assert rest.shares == ["plan/3", "1/3", "2/3"]


def test_a_share_waits_for_the_lock_of_a_process_that_was_given_up(
    spec: featcache.ExtractSpec, plan: PartsPlan
) -> None:
    task = ShareTask(asdict(spec), "1/3", 0.0, str(Path.cwd()))
    lock = locked(plan.part(1))
    lock.__enter__()
    Timer(0.1, lock.__exit__, (None, None, None)).start()

    answer = run_task(task)

    assert isinstance(answer, featcache.ShareResult)
    assert answer.outcome == "reused"


def test_a_device_that_fails_is_left_to_another_try(
    spec: featcache.ExtractSpec,
) -> None:
    task = ShareTask(asdict(replace(spec, device="cuda:99")), "0/3", 0.0, str(Path.cwd()))

    with pytest.raises(DeviceError, match="cuda:99"):
        run_task(task)


@pytest.mark.parametrize(
    ("asked", "has", "need"),
    [
        ({}, {"CPU": 64.0}, Need(1, 0)),
        ({}, {"CPU": 64.0, "GPU": 8.0}, Need(8, 1)),
        ({}, {"CPU": 4.0, "GPU": 8.0}, Need(1, 1)),
        ({"device": "cpu"}, {"CPU": 64.0, "GPU": 8.0}, Need(1, 0)),
        ({"device": "cuda"}, {"CPU": 16.0}, Need(16, 1)),
        ({"backbone": "pixels"}, {"CPU": 64.0, "GPU": 8.0}, Need(1, 0)),
    ],
)
def test_a_task_asks_for_a_gpu_where_there_are_some(
    asked: dict[str, str], has: dict[str, float], need: Need
) -> None:
    spec = featcache.ExtractSpec(**{"dataset": "digits", "backbone": "resnet18", **asked})

    assert need_of_task(spec, has) == need


def test_a_gpu_is_chosen_by_ray_alone(spec: featcache.ExtractSpec) -> None:
    with pytest.raises(UsageError, match="--device cuda:1 cannot be chosen on a Ray cluster"):
        featcache.extract_share(replace(spec, device="cuda:1"), share="ray/3")


def test_without_ray_the_way_to_it_is_told(
    spec: featcache.ExtractSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UsageError, match=r'pip install "featcache\[ray\]"'):
        featcache.extract_share(spec, share="ray/3")
    assert not list(Path(spec.cache_dir).glob("*"))
