"""The figures of a run: the same bytes as ever, and checked when they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featcache.errors import CorruptError
from featcache.heads.history import EpochRow
from featcache.heads.run_files import read_run, write_figures, write_metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "pixels-none-a35450fe"


def test_the_files_of_version_0_1_come_out_as_they_were_read_with_the_kept_epoch(
    tmp_path: Path,
) -> None:
    run = read_run(GOLDEN)

    write_figures(tmp_path, run)
    write_metrics(tmp_path, run.history)

    ours, before = (
        json.loads((folder / "result.json").read_text()) for folder in (tmp_path, GOLDEN)
    )
    assert ours == {**before, "kept_epoch": 1}
    ours, lightnings = ((folder / "metrics.csv").read_text() for folder in (tmp_path, GOLDEN))
    assert ours == lightnings


def test_a_row_of_the_history_is_a_mapping_of_the_figures_that_there_are() -> None:
    row = EpochRow(epoch=1.0, train_loss=0.5, step=20.0)

    assert row == {"epoch": 1.0, "train_loss": 0.5, "step": 20.0}
    assert row != EpochRow(epoch=1.0, train_loss=0.5, val_loss=0.1, step=20.0)
    with pytest.raises(KeyError):
        row["val_loss"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda said: said.update(val_loss="0.5"), "the field val_loss is '0.5', which is no"),
        (lambda said: said.update(n_epochs=True), "the field n_epochs is True, which is no int"),
        (lambda said: said.update(kept="1"), "the field kept is not known"),
        (lambda said: said.pop("seconds"), "the field seconds is missing"),
        (lambda said: said.update(to_json=1), "the field to_json is not known"),
        (lambda said: said.update(history=None), "the history is no list"),
        (lambda said: said["history"][0].pop("step"), "the field step is missing"),
        (lambda said: said["history"].append(1), "1 where fields were expected"),
    ],
)
def test_a_result_that_says_something_else_is_refused(
    change: Callable[[dict[str, Any]], None], problem: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "run")
    said = json.loads((folder / "result.json").read_text())
    change(said)
    (folder / "result.json").write_text(json.dumps(said))

    with pytest.raises(CorruptError) as err:
        read_run(folder)

    assert str(err.value).startswith(f"{folder / 'result.json'} cannot be read ({problem}")
    assert str(err.value).endswith(f"Remove the folder {folder} and train again.")
