"""The benchmarks themselves: they run, and a wrong answer voids a comparison."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.benchmarks import account, gpu, peers_heads
from tests.benchmarks.bench_page import markdown
from tests.benchmarks.gpu_page import page
from tests.benchmarks.measure import Peer, Run, close, compare
from tests.benchmarks.peers_engines import (
    ENGINES,
    Engine,
    exported,
    not_installed,
)

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_the_gpu_script_says_so_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path / "gpu")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    gpu.main()

    assert capsys.readouterr().out == "No CUDA device is visible: nothing was measured.\n"
    assert list(tmp_path.iterdir()) == []


def test_every_way_to_train_a_head_gives_the_same_losses() -> None:
    rows = peers_heads.synthetic_rows(320, 12, torch.device("cpu"))

    result = compare(
        "x", peers_heads.peers(rows, 12, n_slow=128), gate=close(1e-4), repeats=1, unit="rows"
    )

    assert result["rows"][0]["name"] == "featcache"
    assert len(result["rows"]) == 6 if peers_heads.sklearn_left_out() else 7
    assert all(row["per_s"] > 0 and row["n"] == 1 for row in result["rows"])
    assert all(row["error"] <= 1e-4 for row in result["rows"][1:])


def test_an_answer_that_differs_voids_the_comparison() -> None:
    peers = [
        Peer("a", lambda: (1.0, torch.ones(3)), 1),
        Peer("b", lambda: (0.1, torch.tensor([1.0, 1.0, 1.01])), 1),
    ]

    with pytest.raises(AssertionError, match=r"answers differ by 0\.01"):
        compare("x", peers, gate=close(1e-4), repeats=1, unit="rows")


def test_scikit_learn_trains_from_the_same_weights_in_the_same_order_with_the_same_adam() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rows = peers_heads.synthetic_rows(320, 25_088, torch.device("cpu"))
    ours, *others = peers_heads.peers(rows, 25_088)
    [sklearn] = [peer for peer in others if peer.name == "scikit-learn's MLPClassifier"]

    losses = sklearn.run()[1]

    assert len(losses) == 5
    assert close(1e-6)(ours.run()[1], losses) <= 1e-6


class _Small(nn.Module):
    """A backbone small enough to export in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).relu().mean((2, 3))


@pytest.mark.skipif(bool(not_installed()), reason=" ".join(not_installed()))
def test_every_engine_gives_the_features_of_the_module() -> None:
    module = _Small().eval()
    batches = list(np.random.default_rng(0).random((3, 16, 3, 8, 8), np.float32))
    with torch.inference_mode():
        expected = torch.cat([module(torch.from_numpy(batch)) for batch in batches])

    with exported(module, batches) as listed:
        answers = {peer.name: peer.run()[1] for peer in listed}

    assert list(answers) == [engine.name for engine in ENGINES]
    for answer in answers.values():
        assert close(1e-4)(expected, answer) <= 1e-4


def test_an_engine_that_is_not_installed_is_left_out_by_name() -> None:
    def never(_: Path, __: object) -> Run:
        raise AssertionError("an engine that is not there was prepared")

    engines = [Engine("Some Engine", {"torch": "torch", "no_such_engine": "no-such"}, never)]

    with exported(_Small(), [np.zeros((16, 3, 8, 8), np.float32)], engines) as listed:
        assert listed == []
    assert not_installed(engines) == [
        "Some Engine is left out: not installed: no-such. To have it compared: pip install -e "
        '".[bench]"'
    ]


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


def test_the_page_of_the_bench_names_the_peers_that_were_left_out() -> None:
    rows = peers_heads.synthetic_rows(64, 4, torch.device("cpu"))
    compared = compare("x", peers_heads.peers(rows, 4), gate=close(1e-4), repeats=1, unit="rows")
    report = {
        "machine": {"cores": 2},
        "limits": {},
        "tables": [compared],
        "left_out": ["A is left out."],
        "growth": {},
        "account": {},
    }

    found = markdown(report)

    assert "\nA is left out.\n" in found
    assert "Largest difference from the first way, of the largest number: bare loop" in found


def test_the_account_sets_the_notebooks_hours_beside_those_of_real_runs() -> None:
    names = ("vgg16", "vgg16-l1l2", "vgg16-dropout", "mobilenet-v3", "scratch-mlp")
    parts = {name: {"notebook_s": 36_000.0, "featcache_s": 36.0} for name in names}
    parts["extraction, mobilenet_v3_large"] = {"notebook_s": 0.0, "featcache_s": 198.0}
    calls = [
        {"path": "c/vgg16-0a1b2c3d.h5", "n_rows": 60, "n_rows_computed": n, "seconds": 900.0}
        for n in (40, 20)
    ]
    own = {"backbone": "vgg16", "published_acc": 0.8, "train_s": 36.0, "extract_s": None}
    systems = [
        {**own, "name": "vgg16", "runs": ["a", "b"]},
        {**own, "name": "vgg16-dropout", "train_s": 18.0, "runs": ["c"]},
        {**own, "name": "mobilenet-v3", "published_acc": None, "runs": ["d"]},
    ]

    found = account.page(parts, calls, [{"systems": systems}])

    assert "| extraction, vgg16 | | 0.500 | | 0.500 |" in found
    assert "| vgg16 | 10.00 | 0.010 | 2 | 0.020 |" in found
    assert "| all that ran | 20.0 | 0.52: **38.8 times less** | | 0.53 |" in found
    assert "Not run: scratch-mlp, vgg16-l1l2, mobilenet-v3. " in found
    assert "With them by rates: 50.0 hours against 0.60, 83.3 times less." in found


def test_rows_of_a_call_that_was_stopped_count_at_the_rate_of_the_others() -> None:
    call = {"path": "vgg16-0a1b2c3d.h5", "n_rows": 60, "n_rows_computed": 20, "seconds": 9.0}

    seconds, remarks = account.extraction_s([call], {"vgg16": None})

    assert seconds == {"vgg16": 27.0}
    assert remarks[-1] == (
        "40 of 60 rows of vgg16 are of calls that were stopped. They count at the rate of the "
        "other 20."
    )


def test_the_account_wants_a_call_that_made_a_cache_unless_reproduce_did() -> None:
    call = {"path": "vgg16-0a1b2c3d.h5", "n_rows": 60, "n_rows_computed": 70, "seconds": 9.0}

    with pytest.raises(SystemExit, match="the calls computed 70 of 60 rows"):
        account.extraction_s([call], {"vgg16": None})
    with pytest.raises(SystemExit, match="No --extracted file is of vgg16"):
        account.extraction_s([], {"vgg16": None})
    assert account.extraction_s([], {"pixels": 3.0}) == ({"pixels": 3.0}, [])
