"""What tests of a trained head compare."""

from __future__ import annotations

from collections.abc import Callable

from featcache.training.train_result import TrainResult

Train = Callable[..., TrainResult]


def head_bytes(result: TrainResult) -> bytes:
    return (result.path / "head.safetensors").read_bytes()
