"""The benchmarks themselves: they run, and a wrong answer voids a comparison."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import peers_heads
from tests.benchmarks.gpu_page import page
from tests.benchmarks.measure import Peer, close, compare
from tests.cli.conftest import child_environment

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_the_gpu_script_says_so_and_ends_well(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", str(tmp_path / "gpu")],
        cwd=ROOT,
        env=child_environment() | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout == "No CUDA device is visible: nothing was measured.\n"
    assert list(tmp_path.iterdir()) == []


def test_every_way_to_train_a_head_gives_the_same_losses() -> None:
    rows = peers_heads.synthetic_rows(320, 12, torch.device("cpu"))

    result = compare(
        "x", peers_heads.peers(rows, 12, n_slow=128), gate=close(1e-4), repeats=1, unit="rows"
    )

    assert result["rows"][0]["name"] == "featcache"
    assert len(result["rows"]) == 6
    assert all(row["per_s"] > 0 and row["n"] == 1 for row in result["rows"])


def test_an_answer_that_differs_voids_the_comparison() -> None:
    peers = [
        Peer("a", lambda: (1.0, torch.ones(3)), 1),
        Peer("b", lambda: (0.1, torch.tensor([1.0, 1.0, 1.01])), 1),
    ]

    with pytest.raises(AssertionError, match=r"answers differ by 0\.01"):
        compare("x", peers, gate=close(1e-4), repeats=1, unit="rows")


def test_a_page_is_made_of_the_parts_that_were_measured() -> None:
    report = {
        "machine": {"gpu": "H1", "cores": 2},
        "bench": {"device": "cuda:0"},
        "parts": {
            "losses": {"one head": 2.5e-7, "took_s": 3.0},
            "features": {"failed": "AssertionError", "took_s": 1.0},
        },
    }

    found = page(report)

    assert "# featcache on H1" in found
    assert "| one head | 2.5e-07 |" in found
    assert "FAILED" in found
    assert "took" not in found
