from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import backends, nn

from featcache.core.arithmetic import arithmetic, head_arithmetic

_KEYS = [(b, o) for b in ("cuda", "mkldnn") for o in ("matmul", "conv", "rnn")]


def precision_of(backend: str, operation: str) -> str:
    return torch._C._get_fp32_precision_getter(backend, operation)


def set_precision(backend: str, operation: str, precision: str) -> None:
    torch._C._set_fp32_precision_setter(backend, operation, precision)


def set_defaults() -> None:
    """Set what torch begins with."""
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    for key in [("generic", "all"), ("cuda", "all"), ("mkldnn", "all"), *_KEYS]:
        set_precision(*key, "tf32" if key in [("cuda", "conv"), ("cuda", "rnn")] else "none")
    backends.cudnn.enabled, backends.cudnn.deterministic = True, False
    backends.cudnn.benchmark = False


@pytest.fixture(autouse=True)
def torchs_defaults() -> Iterator[None]:
    set_defaults()
    yield
    set_defaults()


def old_and_new_settings_mixed() -> None:
    backends.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("high")


def benchmarking() -> None:
    backends.cudnn.benchmark = True
    backends.cudnn.enabled = False


USERS = {
    "nothing": lambda: None,
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "all tf32": lambda: setattr(backends, "fp32_precision", "tf32"),
    "cuda.matmul tf32": lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
    "cudnn tf32": lambda: setattr(backends.cudnn, "fp32_precision", "tf32"),
    "cudnn.conv ieee": lambda: setattr(backends.cudnn.conv, "fp32_precision", "ieee"),
    "mkldnn.matmul bf16": lambda: setattr(backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "cudnn allows no tf32": lambda: setattr(backends.cudnn, "allow_tf32", False),
    "old and new mixed": old_and_new_settings_mixed,
    "cudnn benchmarks": benchmarking,
}


def answers() -> dict[str, Any]:
    """Ask everything that torch answers about its precision, in its old ways and its new one."""
    asked: dict[str, Callable[[], Any]] = {
        "matmul": torch.get_float32_matmul_precision,
        "cuda.matmul.allow_tf32": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": lambda: backends.cudnn.allow_tf32,
        "all": lambda: backends.fp32_precision,
        "cudnn": lambda: backends.cudnn.fp32_precision,
        "mkldnn": lambda: backends.mkldnn.fp32_precision,
        "flags": lambda: (
            backends.cudnn.enabled,
            backends.cudnn.benchmark,
            backends.cudnn.deterministic,
        ),
        **{f"{b}.{o}": lambda b=b, o=o: precision_of(b, o) for b, o in _KEYS},
    }
    return {name: answer(ask) for name, ask in asked.items()}


def answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except RuntimeError as err:
        return str(err).partition("(")[0]


def inherited() -> dict[str, str]:
    """Ask the same again after a setting that only what inherits it follows."""
    backends.fp32_precision = "tf32"
    return {f"{b}.{o}": precision_of(b, o) for b, o in _KEYS}


@pytest.mark.parametrize("setting", USERS.values(), ids=USERS)
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_whatever_the_user_has_set_precision_is_right_inside_and_as_before_after(
    setting: Callable[[], None], precision: str
) -> None:
    setting()
    before, would_inherit = answers(), inherited()
    set_defaults()
    setting()

    with arithmetic("fp32", "cpu"):  # what a CUDA device would convolve in is set in any case
        inside = answers()
    with shared_with_a_gpu(precision):
        on_a_gpu = answers()

    assert answers() == before
    assert inherited() == would_inherit
    assert inside["matmul"] == "highest"
    assert {inside[f"{b}.{o}"] for b, o in _KEYS} == {"ieee"}
    assert {on_a_gpu[f"{b}.matmul"] for b in ("cuda", "mkldnn")} == {"ieee"}
    assert on_a_gpu["cuda.conv"] == precision
    assert on_a_gpu["cudnn.allow_tf32"] == (precision == "tf32")
    assert inside["flags"] == on_a_gpu["flags"] == (True, False, True)


def shared_with_a_gpu(precision: str) -> Any:
    """Do what `arithmetic` does for a CUDA device, without one."""
    from featcache.core.arithmetic import _SHARED

    return _SHARED.held(precision)


@pytest.mark.parametrize("setting", USERS.values(), ids=USERS)
def test_a_head_is_trained_in_full_precision_whatever_the_user_has_set(
    setting: Callable[[], None],
) -> None:
    setting()
    before = answers()

    with head_arithmetic("cpu"):
        inside = answers()

    assert {inside[f"{b}.{o}"] for b, o in _KEYS} == {"ieee"}
    assert answers() == before


def test_threads_that_overlap_leave_the_users_settings() -> None:
    torch.set_float32_matmul_precision("high")
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first() -> None:
        with arithmetic("fp32", "cpu"):
            first_is_in.set()
            assert second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(10)
        with head_arithmetic("cpu"):
            second_is_in.set()
            assert first_is_out.wait(10)
            seen.append(torch.get_float32_matmul_precision())

    threads = [threading.Thread(target=body) for body in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == "high"


def test_one_precision_of_convolutions_waits_for_another_but_not_for_heads() -> None:
    seen = []

    def other() -> None:
        with shared_with_a_gpu("tf32"):
            seen.append(precision_of("cuda", "conv"))

    thread = threading.Thread(target=other)
    with head_arithmetic("cpu"):
        with shared_with_a_gpu("ieee"):
            thread.start()
            thread.join(0.05)
            assert seen == []
            assert precision_of("cuda", "conv") == "ieee"
        thread.join(10)

    assert seen == ["tf32"]


def test_settings_are_put_back_after_an_error() -> None:
    backends.fp32_precision = "tf32"
    before = answers()

    with pytest.raises(ZeroDivisionError), arithmetic("fp32", "cpu"):
        raise ZeroDivisionError

    assert answers() == before


def test_a_backbone_runs_in_inference_mode() -> None:
    with arithmetic("fp32", "cpu"):
        assert torch.is_inference_mode_enabled()


def test_lower_precision_runs_under_autocast() -> None:
    layer = nn.Linear(4, 4)

    with arithmetic("bf16", "cpu"):
        assert layer(torch.ones(1, 4)).dtype == torch.bfloat16
