from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.backbones.engines.engine import ENGINES
from featcache.errors import InterruptedRunError, MismatchError
from featcache.extraction.result import ExtractResult
from tests.backbones.engine_subjects import needs_compiler, say
from tests.extraction.interruptions import StopAfter
from tests.paces import small_blocks

Extract = Callable[..., ExtractResult]


@small_blocks()
def test_the_same_command_resumes_where_the_engine_did_not_suit(
    extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run was eager, whatever was asked for."""
    say(monkeypatch, lambda _: None)
    asked = {"backbone": "resnet18", "image_size": 32, "compile": "winograd"}
    with pytest.raises(InterruptedRunError):
        extract(**asked, on_progress=StopAfter(4))

    assert extract(**asked).outcome == "resumed"


@needs_compiler
@pytest.mark.parametrize("engine", ["winograd", "fused"])
@small_blocks()
def test_a_compiled_run_resumes_compiled_and_byte_identical(
    extract: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Adapted BatchNorm too: a graph compiled before would have the statistics of before."""
    monkeypatch.setitem(ENGINES, "fused", dataclasses.replace(ENGINES["fused"], device="cpu"))
    asked = {"backbone": "resnet18", "bn": "adapted", "image_size": 32, "limit": 100}
    asked |= {"batch_size": 16}
    whole = extract(**asked, compile=engine, cache_dir=tmp_path / "whole").path
    eager = extract(**asked, compile="never", cache_dir=tmp_path / "eager").path
    with pytest.raises(InterruptedRunError):
        extract(**asked, compile=engine, on_progress=StopAfter(4))

    with pytest.raises(MismatchError, match="compiler"):
        extract(**asked, compile="never")
    with pytest.raises(MismatchError, match=f"begun with --compile {engine}, not inductor"):
        extract(**asked, compile="inductor")
    told: list[str] = []
    resumed = extract(**asked, on_note=told.append)

    assert resumed.outcome == "resumed"
    assert f"compiling the backbone ({engine}), as the first run did" in told
    assert resumed.path.read_bytes() == whole.read_bytes()
    found = featcache.open_cache(whole)["train"].features[:]
    expected = featcache.open_cache(eager)["train"].features[:]
    assert found.tobytes() != expected.tobytes()
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
