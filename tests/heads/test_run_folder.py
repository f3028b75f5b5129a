"""What is not featcache's in the folder of a run that is being made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import featcache
from featcache.core.side_files import partial_path
from featcache.errors import InterruptedRunError
from featcache.heads.runs import RUN_FILES
from featcache.training.train_result import TrainResult

Train = Callable[..., TrainResult]


def stop(_: featcache.TrainProgress) -> None:
    raise KeyboardInterrupt


def put_own_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "eval-1.json").write_text("mine")
    for name in ("eval-test.json", "last.ckpt", ".last.ckpt.4711.new", ".metrics.csv.07ab.new"):
        (folder / name).write_text("featcache's")


@pytest.mark.parametrize("options", [{}, {"resume": False}], ids=["begun anew", "as asked for"])
def test_files_of_the_users_own_stay_with_the_run_and_are_told(
    train: Train, options: dict[str, bool]
) -> None:
    folder = partial_path(train(max_epochs=1).path)  # another run's, to know how it is called
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop)
    [folder] = folder.parent.glob("*.partial")
    put_own_files(folder)
    if not options:
        (folder / "last.ckpt").unlink()
    told: list[str] = []

    run = train(**options, on_note=told.append).path

    assert sorted(p.name for p in run.iterdir()) == sorted([*RUN_FILES, "notes.txt", "pictures"])
    assert (run / "pictures" / "eval-1.json").read_text() == "mine"
    assert f"{folder} also holds what featcache did not write: notes.txt, pictures. It stays " in (
        " ".join(told)
    )


def test_a_sweep_leaves_files_of_the_users_own_in_a_heads_folder(
    cache: featcache.Cache, train: Train, tmp_path: Path
) -> None:
    grid = {"hidden": ((8,),), "lr": (1e-2,), "max_epochs": 1, "batch_size": 16}
    [head] = featcache.sweep(cache, **grid, runs_dir=tmp_path / "known").settings[0].runs
    folder = partial_path(tmp_path / "runs" / head.parent.name / head.name)
    folder.mkdir(parents=True)
    put_own_files(folder)
    told: list[str] = []

    featcache.sweep(cache, **grid, runs_dir=tmp_path / "runs", on_note=told.append)

    run = tmp_path / "runs" / head.parent.name / head.name
    assert sorted(p.name for p in run.iterdir()) == sorted([*RUN_FILES, "notes.txt", "pictures"])
    assert any("notes.txt, pictures. It stays there." in note for note in told)
