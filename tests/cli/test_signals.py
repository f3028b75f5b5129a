"""A stopped extraction keeps its acknowledged rows, and the same command goes on from there."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import child_environment
from tests.weights_files import save_weights

# 25,088 features make blocks of 128 rows, about a second of this backbone on one core; batches of
# 16.
BACKBONE = "vgg11"
OPTIONS = {"backbone": BACKBONE, "image_size": 32, "batch_size": 16, "n_workers": 2}
EXITS_WITHIN_S = 10


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, bytes]:
    """The bytes of a whole run, once it was made."""
    return {}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights") / "w.pth", BACKBONE, image_size=32)


@pytest.fixture
def extraction(image_folder: Path, weights: Path) -> partial[featcache.ExtractResult]:
    return partial(
        featcache.extract, f"folder:{image_folder.name}", weights=str(weights), **OPTIONS
    )


@pytest.fixture
def process(image_folder: Path, weights: Path) -> Iterator[subprocess.Popen[str]]:
    """The extraction as the leader of its own process group, as a shell starts it."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    place = ["--dataset", f"folder:{image_folder.name}", f"--weights={weights}"]
    command = ["extract", *place, *options]
    with subprocess.Popen(
        [sys.executable, "-m", "featcache_cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=child_environment(),
    ) as started:
        yield started
        if started.poll() is None:  # a test that failed leaves nothing behind
            os.killpg(started.pid, signal.SIGKILL)


def wait_for_a_block(process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if any(cache.n_rows_done for cache in featcache.list_caches("cache")):
            return
        time.sleep(0.02)
    pytest.fail(f"it ended before a block was written: {process.communicate()}")


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
    ],
    ids=["SIGINT", "SIGTERM", "SIGINT twice"],  # SIGHUP on extract: make faults
)
def test_a_stopped_extraction_keeps_its_rows_and_resumes_to_the_same_bytes(
    extraction: partial[featcache.ExtractResult],
    process: subprocess.Popen[str],
    uninterrupted: dict[str, bytes],
    signals: list[signal.Signals],
    code: int,
) -> None:
    wait_for_a_block(process)

    began = time.monotonic()
    for number in signals:
        # Ctrl-C, a closed terminal and a job scheduler reach the whole group, workers included.
        os.killpg(process.pid, number)
        time.sleep(0.1)
    stdout, stderr = process.communicate(timeout=60)
    stopped_s = time.monotonic() - began

    [left] = featcache.list_caches("cache")
    # The second one may come when all is said, and Python has given its handlers back.
    assert process.returncode in ((code, -signal.SIGINT) if len(signals) > 1 else (code,))
    assert stopped_s < EXITS_WITHIN_S
    assert group_is_gone(process)
    assert "Traceback" not in stderr
    assert stdout == ""
    assert left.state == "incomplete"
    assert left.n_rows_done >= 128
    kept = f"error: Stopped. {left.n_rows_done} of 310 rows are kept in {left.path}."
    assert stderr.splitlines()[-2:] == [
        f"{kept} The same command goes on from there.",
        f"hint: featcache {shlex.join(process.args[3:])}",
    ]

    resumed = extraction()
    if not uninterrupted:
        uninterrupted["bytes"] = extraction(cache_dir="whole").path.read_bytes()

    assert resumed.outcome == "resumed"
    assert resumed.n_rows_computed == 310 - left.n_rows_done
    assert resumed.path.read_bytes() == uninterrupted["bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_decoding_process_that_dies_costs_no_row(
    process: subprocess.Popen[str],
) -> None:
    wait_for_a_block(process)

    worker = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(worker), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 0  # its images are decoded again, alone
    assert "Traceback" not in stderr
    [cache] = featcache.list_caches("cache")
    assert cache.n_rows_done == 310
    assert featcache.verify_cache(cache.path).is_sound
    assert group_is_gone(process)
