from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.backbones.engines.engine import ENGINES
from featcache.errors import DeviceError, InterruptedRunError, MismatchError
from featcache.extraction.result import ExtractResult
from tests.backbones.engine_subjects import needs_compiler, say
from tests.extraction.interruptions import StopAfter
from tests.paces import small_blocks

Extract = Callable[..., ExtractResult]


def test_an_engine_without_a_compiler_is_refused_before_anything_is_written(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say(monkeypatch, lambda _: None)

    with pytest.raises(DeviceError, match="--compile winograd cannot be met: no "):
        extract(backbone="resnet18", image_size=32, compile="winograd")

    assert {path.suffix for path in tmp_path.rglob("*.h5*")} == {".lock"}


@small_blocks()
def test_a_file_that_was_begun_eagerly_goes_on_so_unless_an_engine_is_asked_for(
    extract: Extract,
) -> None:
    asked = {"backbone": "resnet18", "image_size": 32}
    with pytest.raises(InterruptedRunError):
        extract(**asked, compile="never", on_progress=StopAfter(4))

    with pytest.raises(MismatchError, match="begun with --compile never, not winograd"):
        extract(**asked, compile="winograd")

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
