"""A table of answers gets its name when it is whole, and takes no other's."""

from __future__ import annotations

import csv
import fcntl
import os
from pathlib import Path
from typing import BinaryIO

import pytest

import featcache
from featcache.deployment.prediction_table import require_no_table, write_table
from featcache.errors import InterruptedRunError, LockedError, StorageError, UsageError
from tests.deployment.conftest import N_TEST


def test_ctrl_c_leaves_whole_rows(run: Path, photos: Path, tmp_path: Path) -> None:
    out = require_no_table(tmp_path / "out.csv")

    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.n_done == 4:
            raise KeyboardInterrupt

    given = [str(photos / f"{i}.png") for i in range(N_TEST)]
    found = featcache.predict(given, run=run, n_workers=0, batch_size=2, on_progress=press_ctrl_c)
    with pytest.raises(InterruptedRunError, match=r"Stopped\. 4 of 8 images were answered"):
        write_table(out, found)

    with (tmp_path / "out.csv.partial").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == given[:4]
    assert all(row["p(class 1)"] and row["reason"] == "" for row in rows)
    assert not out.exists()
    write_table(out, featcache.predict(given, run=run, n_workers=0))  # the same command again
    assert len(out.read_text().splitlines()) == 1 + N_TEST
    assert not out.with_name("out.csv.partial").exists()


def test_a_file_that_is_there_or_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    (tmp_path / "file").touch()

    with pytest.raises(UsageError, match=r"there\.csv exists\. Nothing was started"):
        require_no_table(tmp_path / "there.csv")
    with pytest.raises(StorageError, match="Nothing was started"):
        require_no_table(tmp_path / "file" / "out.csv")
    require_no_table(tmp_path / "new" / "out.csv")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_look_at_the_place_leaves_another_process_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out.csv"
    partial = out.with_name("out.csv.partial")

    def start_meanwhile(folder: Path, **_: object) -> None:
        os.mkdir(folder)  # noqa: PTH102
        partial.write_text("rows of another")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", start_meanwhile)
        require_no_table(out)

    assert partial.read_text() == "rows of another"
    partial.unlink()
    partial.mkdir()
    with pytest.raises(StorageError, match=r"out\.csv: .*Nothing was started"):
        require_no_table(out)


def test_a_table_that_another_finished_before_the_lock_is_kept(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = require_no_table(tmp_path / "out.csv")
    lock = fcntl.flock

    def finish_first(file: BinaryIO, how: int) -> None:
        (tmp_path / "out.csv.partial").write_text("rows of another")
        (tmp_path / "out.csv.partial").rename(out)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(UsageError, match=r"out\.csv was made meanwhile\. It is as it was"):
        write_table(out, featcache.predict(photos, run=run, n_workers=0))

    assert out.read_text() == "rows of another"


def test_a_file_that_was_made_during_the_work_is_not_replaced(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    out = require_no_table(tmp_path / "out.csv")

    def make(progress: featcache.Progress) -> None:
        out.write_text("another")

    with pytest.raises(UsageError, match=r"was made meanwhile.*see .*out\.csv\.partial"):
        write_table(out, featcache.predict(photos, run=run, n_workers=0, on_progress=make))

    assert out.read_text() == "another"


def test_two_at_once_do_not_write_one_table(run: Path, photos: Path, tmp_path: Path) -> None:
    out = require_no_table(tmp_path / "out.csv")

    def again(progress: featcache.Progress) -> None:
        with pytest.raises(LockedError, match="is being written by another process"):
            write_table(out, featcache.predict(photos, run=run, n_workers=0))

    write_table(out, featcache.predict(photos, run=run, n_workers=0, on_progress=again))

    assert len(out.read_text().splitlines()) == 1 + N_TEST
