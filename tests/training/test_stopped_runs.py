from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import featcache
import featcache.training.run
from featcache.core.side_files import partial_path
from featcache.errors import CorruptError, InterruptedRunError
from featcache.heads.head_file import load_head
from featcache.heads.runs import RUN_FILES
from tests.training.heads import Train, head_bytes


def stop_in(epoch: int) -> Callable[[featcache.TrainProgress], None]:
    """Press Ctrl-C after the first batch of an epoch, from 0."""

    def on_progress(progress: featcache.TrainProgress) -> None:
        if progress.epoch == epoch:
            raise KeyboardInterrupt

    return on_progress


def test_progress_counts_optimiser_steps_also_of_a_run_that_goes_on(train: Train) -> None:
    told: list[featcache.TrainProgress] = []
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))

    train(on_progress=told.append)

    assert [(p.epoch, p.n_done, p.n_total) for p in told] == [(2, 30, 40), (3, 40, 40)]


@pytest.mark.parametrize("stopped_in", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_bits(
    train: Train, tmp_path: Path, stopped_in: int
) -> None:
    options = {"reg": "dropout", "dropout": (0.4,)}
    whole = train(**options, runs_dir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError) as err:
        train(**options, on_progress=stop_in(stopped_in))

    resumed = train(**options)

    folder = partial_path(resumed.path)
    assert str(err.value) == (
        f"Stopped. The head of epoch {stopped_in} of 4 is kept in {folder}. The same command goes "
        f"on from there."
    )
    assert resumed.runs[0].outcome == "resumed"
    assert head_bytes(resumed) == head_bytes(whole)
    assert resumed.runs[0].history == whole.runs[0].history
    assert (resumed.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "n_epochs"),
    [({}, 4), ({"max_epochs": 9, "patience": 2, "min_delta": 10.0}, 3)],
    ids=["all epochs", "stopped early"],
)
def test_ctrl_c_in_the_final_test_is_a_stop_like_any_other(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, float],
    n_epochs: int,
) -> None:
    whole = train(**options, runs_dir=tmp_path / "whole")

    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(featcache.FeatureDataModule, "test_dataloader", press_ctrl_c)
        with pytest.raises(InterruptedRunError, match=f"The head of epoch {n_epochs} of . is kept"):
            train(**options)

    resumed = train(**options)

    assert head_bytes(resumed) == head_bytes(whole)
    assert resumed.runs[0].history == whole.runs[0].history
    assert (resumed.path / "metrics.csv").read_text() == (whole.path / "metrics.csv").read_text()
    assert resumed.runs[0].seconds > 0


def test_the_best_epoch_is_remembered_by_a_stopped_run_that_was_moved(
    train: Train, tmp_path: Path
) -> None:
    options = {"lr": 0.3, "max_epochs": 12, "patience": 0, "select": "best"}
    whole = train(**options, runs_dir=tmp_path / "whole")
    best_epoch = whole.runs[0].best_epoch
    with pytest.raises(InterruptedRunError):
        train(**options, runs_dir=tmp_path / "here", on_progress=stop_in(best_epoch + 1))
    (tmp_path / "here").rename(tmp_path / "there")

    resumed = train(**options, runs_dir=tmp_path / "there")

    assert resumed.runs[0].outcome == "resumed"
    assert head_bytes(resumed) == head_bytes(whole)


def test_what_eval_made_of_a_stopped_run_does_not_stay(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [folder] = (tmp_path / "runs" / "folder-toys").glob("*.partial")
    featcache.evaluate(folder)
    assert (folder / "eval-test.json").exists()

    resumed = train()

    assert sorted(p.name for p in resumed.path.iterdir()) == sorted(RUN_FILES)


def test_a_stopped_run_keeps_a_head_that_can_be_evaluated(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [folder] = (tmp_path / "runs" / "folder-toys").glob("*.partial")

    head = load_head(folder)

    assert (head.n_epochs, head.is_finished) == (2, False)
    assert featcache.evaluate(folder).n_images == 60


def test_early_stopping_counts_on_after_a_resume(train: Train, tmp_path: Path) -> None:
    options = {"max_epochs": 9, "patience": 3, "min_delta": 10.0}
    whole = train(**options, runs_dir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(**options, on_progress=stop_in(2))

    resumed = train(**options)

    assert resumed.runs[0].n_epochs == whole.runs[0].n_epochs == 4


def test_a_stopped_run_starts_again_if_asked_to(train: Train) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))

    [run] = train(resume=False).runs

    assert run.outcome == "trained"


def test_a_run_stopped_in_its_first_epoch_has_no_head(train: Train) -> None:
    with pytest.raises(InterruptedRunError, match="No epoch was finished, so there is no head yet"):
        train(on_progress=stop_in(0))


def test_a_damaged_checkpoint_is_told(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        train(on_progress=stop_in(2))
    [checkpoint] = (tmp_path / "runs").rglob("last.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])

    with pytest.raises(CorruptError, match=r"last.ckpt is damaged .* Remove the folder"):
        train()
