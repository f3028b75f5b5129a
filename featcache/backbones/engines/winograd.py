"""Winograd's algorithm for the 3x3 convolutions of a backbone, compiled for the CPU at hand."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from featcache.backbones.cast_weights import shallow_copy
from featcache.backbones.engines.code_folder import code_folder

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_LANES, _COLUMNS = 16, 32  # of the widest vectors in the source
# A kernel at six points: Lavin and Gray, arXiv:1509.09308, section 4.3.
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def has_winograd_convolutions(module: nn.Module) -> bool:
    """Tell whether `with_winograd_convolutions` would replace any."""
    return any(_fits(part) for part in module.modules())


def source_digest() -> str:
    """8 hex digits of source, flags and matrix: others may round differently."""
    decisive = _SOURCE.read_bytes() + repr((_FLAGS, _G)).encode()
    return hashlib.sha256(decisive).hexdigest()[:8]


def with_winograd_convolutions(module: nn.Module, compiler: str) -> nn.Module:
    """Copy a backbone, its 3x3 convolutions replaced; all other tensors are shared.

    A replaced one needs a quarter of the multiplications and four times the memory for its
    weights, and differs by about 1e-5 of its largest output. A ReLU right behind one in a
    Sequential, and a 2x2 MaxPool2d behind that, are done with it: nobody else may take the values
    between.

    Args:
        module: (B, 3, H, W) -> (B, D), float32 on the CPU, for inference alone; under autocast
            a replaced convolution is computed in float32 all the same.
        compiler: A C++ compiler, by name or path, as a shell reads it.

    Raises:
        OSError: If the compiler cannot be run, or what it made cannot be loaded.
        subprocess.CalledProcessError: If it fails; `stderr` has what it said.
    """
    library = _build(compiler)
    backbone = shallow_copy(module)
    for parent in list(backbone.modules()):
        children = list(parent._modules.items())  # repeated ones too
        for i, (name, child) in enumerate(children):
            if not _fits(child):
                continue
            behind = children[i + 1 : i + 3] if type(parent) is nn.Sequential else []
            relu = len(behind) > 0 and type(behind[0][1]) is nn.ReLU
            pool = relu and len(behind) > 1 and _halves(behind[1][1])
            setattr(parent, name, _WinogradConv2d(child, library, relu=relu, pool=pool))
            for done, _ in behind[: relu + pool]:
                setattr(parent, done, nn.Identity())
    return backbone


class _WinogradConv2d(nn.Module):
    """(B, C, H, W) -> (B, K, H, W), both channels_last, as the convolution; with ReLU if `relu`.

    With `pool`, the largest of each 2x2: (B, K, H // 2, W // 2).
    """

    def __init__(self, conv: nn.Conv2d, library: ctypes.CDLL, *, relu: bool, pool: bool) -> None:
        super().__init__()
        self._kernel = _transformed(conv.weight, library.columns())
        self._bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        self._n_in, self._n_out = conv.in_channels, conv.out_channels
        self._convolve = library.convolve
        self._relu, self._pool = relu, pool

    def forward(self, batch: Tensor) -> Tensor:
        n, n_in, height, width = batch.shape
        if n_in != self._n_in or batch.device.type != "cpu":
            raise RuntimeError(f"expected {self._n_in} channels on the CPU, got {batch.shape}")
        batch = batch.float().contiguous(memory_format=torch.channels_last)
        size = (height // 2, width // 2) if self._pool else (height, width)
        out = torch.empty((n, self._n_out, *size), memory_format=torch.channels_last)
        tensors = (batch, self._kernel, self._bias, out)
        sizes = (n, height, width, n_in, self._n_out)
        options = (self._relu, self._pool, torch.get_num_threads())
        if self._convolve(*(t.data_ptr() for t in tensors), *sizes, *options):
            raise MemoryError("no memory for the tiles of a convolution")
        return out


def _fits(part: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return (
        type(part) is nn.Conv2d
        and part.kernel_size == (3, 3)
        and part.stride == part.padding == part.dilation == (1, 1)
        and part.groups == 1
        and part.padding_mode == "zeros"
        and part.in_channels % _LANES == 0
        and part.out_channels % _COLUMNS == 0
    )


def _halves(part: nn.Module | None) -> bool:
    return (
        type(part) is nn.MaxPool2d
        and (part.kernel_size, part.stride) in ((2, 2), ((2, 2), (2, 2)))
        and (part.padding, part.dilation) in ((0, 1), ((0, 0), (1, 1)))
        and not part.ceil_mode
        and not part.return_indices
    )


def _transformed(weight: Tensor, columns: int) -> Tensor:
    """(K, C, 3, 3) -> (36, K / columns, C, columns) float32."""
    n_out, n_in = weight.shape[:2]
    g = torch.tensor(_G, dtype=torch.float64)
    points = torch.einsum("ai,kcij,bj->abkc", g, weight.double(), g)
    panels = points.reshape(36, n_out // columns, columns, n_in)
    return panels.transpose(2, 3).float().contiguous()


@functools.cache
def _build(compiler: str) -> ctypes.CDLL:
    """Compile the source, in less than a second, and load it; the file is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="winograd-", dir=code_folder()) as folder:
        library = Path(folder) / "winograd.so"
        command = [*shlex.split(compiler), *_FLAGS, "-o", str(library), str(_SOURCE)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = ctypes.CDLL(str(library))
    loaded.convolve.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_long] * 5 + [ctypes.c_int] * 3
    return loaded
