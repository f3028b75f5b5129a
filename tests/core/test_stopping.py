"""Who stops the library: from Python the caller alone, by Ctrl-C; no handler is installed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import featcache
from featcache.core import stopping
from featcache.core.stopping import StopRequested, ask_to_stop, breakable, stop_if_asked, working
from featcache.errors import FeatcacheError, InterruptedRunError
from featcache.extraction.result import ExtractResult

Extract = Callable[..., ExtractResult]


@pytest.fixture
def extract(image_folder: Path, tmp_path: Path) -> Extract:
    """The 310 images themselves, at 8 px, in batches of 64."""
    dataset = f"folder:{image_folder}"
    place = {"cache_dir": tmp_path / "cache", "n_workers": 0}
    return partial(featcache.extract, dataset, backbone="pixels", image_size=8, **place)


@pytest.fixture(autouse=True)
def _no_wish() -> Iterator[None]:
    yield
    stopping._wish = None


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def train(cache: Path, runs_dir: Path, **options: object) -> featcache.TrainResult:
    return featcache.train_head(cache, hidden=(4,), max_epochs=2, runs_dir=runs_dir, **options)


def test_no_signal_handler_is_installed_by_extraction_or_left_by_training(
    extract: Extract, tmp_path: Path
) -> None:
    before = handlers()
    during = []

    cache = extract(on_progress=lambda _: during.append(handlers())).path
    train(cache, tmp_path / "runs")

    assert during
    assert all(seen == before for seen in during)
    assert handlers() == before


def test_extraction_and_training_work_in_a_thread(extract: Extract, tmp_path: Path) -> None:
    before = handlers()
    found: list[object] = []

    def press_ctrl_c(progress: featcache.TrainProgress) -> None:
        if progress.epoch:
            raise KeyboardInterrupt

    def work() -> None:
        cache = extract(n_workers=1).path
        found.append(train(cache, tmp_path / "whole").runs[0].n_epochs)
        try:
            train(cache, tmp_path / "stopped", on_progress=press_ctrl_c)
        except KeyboardInterrupt as err:
            found.append(str(err))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found[0] == 2
    assert "The head of epoch 1 of 2 is kept" in str(found[1])
    assert handlers() == before


def test_ctrl_c_stops_a_training_whose_handler_is_not_pythons(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = extract().path
    pythons = signal.getsignal(signal.SIGINT)
    known = signal.getsignal

    def unknown(number: int) -> object:
        return None if known(number) is pythons else known(number)

    def press_ctrl_c(_: featcache.TrainProgress) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", unknown)
        with pytest.raises(InterruptedRunError, match="No epoch was finished"):
            train(cache, tmp_path / "stopped", on_progress=press_ctrl_c)
        assert train(cache, tmp_path / "whole").runs[0].n_epochs == 2

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loop_that_goes_on_after_errors_stops_at_ctrl_c(extract: Extract) -> None:
    def press_ctrl_c(progress: featcache.Progress) -> None:
        if progress.stage == "extract":
            raise KeyboardInterrupt

    tried = []
    with pytest.raises(KeyboardInterrupt, match="Stopped"):
        for side in (8, 16):
            tried.append(side)
            try:
                extract(image_size=side, on_progress=press_ctrl_c)
            except (FeatcacheError, Exception):
                continue

    assert tried == [8]
    assert not issubclass(InterruptedRunError, Exception)
    assert InterruptedRunError.exit_code == 130


def test_a_wish_is_met_where_work_looks_and_at_its_end() -> None:
    with pytest.raises(StopRequested, match="SIGTERM"), working():
        ask_to_stop(signal.SIGTERM)
        with working():
            pass  # an inner end cuts nothing off
        looked = True
    with pytest.raises(StopRequested):
        stop_if_asked()

    assert looked
    assert not stopping.is_working()


def test_a_wish_raises_at_once_in_breakable_work_alone() -> None:
    with working():
        with pytest.raises(StopRequested), breakable():
            ask_to_stop(signal.SIGINT)
        ask_to_stop(signal.SIGINT)
        stopping._wish = None


def test_a_stopped_extraction_goes_on_to_the_same_bytes(extract: Extract, tmp_path: Path) -> None:
    def stop(progress: featcache.Progress) -> None:
        if progress.stage == "extract" and progress.n_done == 300:
            ask_to_stop(signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match="300 of 310 rows are kept") as stopped:
        extract(on_progress=stop)
    stopping._wish = None

    resumed = extract()
    whole = extract(cache_dir=tmp_path / "whole")

    assert isinstance(stopped.value.__cause__, StopRequested)
    assert resumed.outcome == "resumed"
    assert resumed.path.read_bytes() == whole.path.read_bytes()
