from __future__ import annotations

import pytest

from featcache.backbones.engines.engine import ENGINES, engine_of
from featcache.backbones.engines.trial import recompile
from featcache.backbones.engines.winograd import source_digest
from tests.backbones.engine_subjects import SHAPE, Wide, make_runner, needs_compiler, say


@pytest.mark.parametrize("compiler", ["winograd 1a2b3c4d, g++ 1", "winograd, g++ 1", "winograd"])
def test_the_engine_is_what_a_compilers_name_begins_with(compiler: str) -> None:
    assert engine_of(compiler) == "winograd"


@needs_compiler
def test_the_source_of_winograd_is_part_of_the_numeric_class() -> None:
    here = ENGINES["winograd"].version()

    assert here is not None
    assert here.startswith(f"winograd {source_digest()}, ")


def test_an_engine_of_another_featcache_is_not_taken_for_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner, told = make_runner(Wide()), list[str]()
    say(monkeypatch, lambda engine: f"{engine}, cc 1")

    assert recompile(runner, SHAPE, "tvm, cc 1", told.append) is None
    assert runner.forward is runner.module
    assert told[-1] == "No engine 'tvm' is known here."


def test_a_compiler_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, told = make_runner(Wide()), list[str]()
    say(monkeypatch, lambda _: None)

    assert recompile(runner, SHAPE, "winograd, cc 1", told.append) is None
    assert "but no C++ compiler answers" in told[0]
