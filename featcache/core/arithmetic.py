"""Arithmetic that is the same whatever the user has set: full float32, deterministic kernels.

torch keeps these settings once for the whole process. The first thread that works here replaces
the user's settings. The last thread that leaves restores them exactly.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from featcache.core.plain_torch import plain_torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_Key = tuple[str, str]
# Where an operation says "none", its backend decides, and where that does, the generic setting
# does: https://docs.pytorch.org/docs/stable/notes/cuda.html#tf32-on-ampere
_PARENTS: tuple[_Key, ...] = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
_OPERATIONS: tuple[_Key, ...] = tuple(
    (backend, operation)
    for backend in ("cuda", "mkldnn")
    for operation in ("matmul", "conv", "rnn")
)
_CONVOLUTIONS_OF_CUDA: tuple[_Key, ...] = (("cuda", "conv"), ("cuda", "rnn"))
_CUDNN = {"enabled": True, "benchmark": False, "deterministic": True}


@dataclass(frozen=True)
class _Settings:
    """Settings of torch, as the user made them.

    Attributes:
        parents: The precision of all operations, and of all of each backend.
        operations: The precision of each; "none" where a parent decides.
        matmul: What `torch.set_float32_matmul_precision` was given.
        cudnn_tf32: What `torch.backends.cudnn.allow_tf32` was given.
        cudnn: Its other flags.
    """

    parents: Mapping[_Key, str]
    operations: Mapping[_Key, str]
    matmul: str
    cudnn_tf32: bool
    cudnn: Mapping[str, bool]


class _Shared:
    """The settings of the process while threads are inside."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._users: _Settings | None = None
        self._n_inside = 0
        self._convolutions: str | None = None
        self._n_convolving = 0

    @contextlib.contextmanager
    def held(self, convolutions: str | None) -> Iterator[None]:
        """Compute inside in full float32, but for CUDA's convolutions.

        Args:
            convolutions: Their precision, "ieee" or "tf32"; None where there are none. A thread
                that wants another one than those inside waits for them.
        """
        with self._turn:
            self._turn.wait_for(
                lambda: not self._n_convolving or convolutions in (None, self._convolutions)
            )
            wanted = self._convolutions if self._n_convolving else convolutions or "ieee"
            if self._users is None:
                self._users = _set_aside()
                _set(wanted or "ieee", parents=self._users.parents)
            elif wanted != self._convolutions:
                _set_convolutions(wanted or "ieee")
            self._convolutions = wanted
            self._n_inside += 1
            self._n_convolving += convolutions is not None
        try:
            yield
        finally:
            with self._turn:
                self._n_inside -= 1
                self._n_convolving -= convolutions is not None
                if not self._n_inside and self._users is not None:
                    _put_back(self._users)
                    self._users = None
                self._turn.notify_all()


_SHARED = _Shared()


@contextlib.contextmanager
def arithmetic(precision: str, device: str) -> Iterator[None]:
    """Run a backbone inside: inference mode, the asked precision, deterministic kernels.

    Args:
        precision: "fp32", "tf32", "bf16" or "fp16". TF32 is for convolutions only: linear layers
            stay fp32, as torch's own default has it.
        device: "cpu" or "cuda:N".
    """
    convolutions = None
    if device != "cpu":
        convolutions = "tf32" if precision == "tf32" else "ieee"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_SHARED.held(convolutions))
        if device != "cpu":
            stack.enter_context(torch.cuda.device(device))  # streams and events are its own
        if precision in HALVES:
            dtype = HALVES[precision]
            stack.enter_context(torch.autocast(torch.device(device).type, dtype=dtype))
        stack.enter_context(torch.inference_mode())
        yield


@contextlib.contextmanager
def head_arithmetic(device: str) -> Iterator[None]:
    """Train and ask heads inside: all of it in full float32, with torch's own modes and defaults.

    Args:
        device: "cpu" or "cuda:N", which is the current device inside.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(plain_torch())
        stack.enter_context(_SHARED.held(None))
        if device != "cpu":
            stack.enter_context(torch.cuda.device(device))
        yield


def _set_aside() -> _Settings:
    """Read every setting as it was made, and leave none that another could inherit.

    What torch gives for an operation is what decides: its own setting, or its parent's. Only with
    the parents out of the way does it give the operation's own.
    """
    parents = {key: _taken(key) for key in _PARENTS}
    operations = {key: _taken(key) for key in _OPERATIONS}
    # The getters of old refuse to answer where the new settings differ from theirs.
    matmul = torch.get_float32_matmul_precision()
    try:
        cudnn_tf32 = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # it differs from the convolutions' "none"
        cudnn_tf32 = True
    cudnn = {name: getattr(torch.backends.cudnn, name) for name in _CUDNN}
    return _Settings(parents, operations, matmul, cudnn_tf32, cudnn)


def _set(convolutions: str, *, parents: Mapping[_Key, str]) -> None:
    torch.set_float32_matmul_precision("highest")
    for key in _OPERATIONS:
        torch._C._set_fp32_precision_setter(*key, "ieee")
    _set_convolutions(convolutions)
    for key, precision in parents.items():  # they decide nothing meanwhile
        torch._C._set_fp32_precision_setter(*key, precision)
    for name, value in _CUDNN.items():
        setattr(torch.backends.cudnn, name, value)


def _set_convolutions(precision: str) -> None:
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # what still asks it gets an answer
    for key in _CONVOLUTIONS_OF_CUDA:
        torch._C._set_fp32_precision_setter(*key, precision)


def _put_back(users: _Settings) -> None:
    torch.set_float32_matmul_precision(users.matmul)
    torch.backends.cudnn.allow_tf32 = users.cudnn_tf32
    for key, precision in users.operations.items():
        torch._C._set_fp32_precision_setter(*key, precision)
    for name, value in users.cudnn.items():
        setattr(torch.backends.cudnn, name, value)


def _taken(key: _Key) -> str:
    precision = torch._C._get_fp32_precision_getter(*key)
    torch._C._set_fp32_precision_setter(*key, "none")
    return precision
