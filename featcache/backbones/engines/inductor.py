"""A backbone compiled by torch's inductor, its weights frozen into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from featcache.backbones.cast_weights import Forward
from featcache.backbones.engines.code_folder import DANGER, code_folder
from featcache.core.private_folder import private_folder
from featcache.core.process_wide import WhileAnyInside, errors_alone

_FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# It says that torch found no CUDA for compiling, on a machine without it.
_quiet = errors_alone("torch.utils.cpp_extension")


def compiled_by_inductor(module: nn.Module, example: Tensor) -> Forward:
    """Compile a backbone as it is now, and run it once.

    Whatever changes the module afterwards does not reach the compiled one, and it is never
    compiled again: given anything else than such an example, it raises a RuntimeError.

    Args:
        module: (B, 3, H, W) -> (B, D), in eval mode on the CPU.
        example: (B, 3, H, W) as all that will come.

    Raises:
        UnsafeFileError: If TORCHINDUCTOR_CACHE_DIR names a folder that is not the user's alone.
        Exception: Whatever torch, the compiler or the system complain of.
    """
    import torch._inductor.config as inductor

    # Not as torch.compile's options: those come too late for the layout of convolutions, and a
    # third of the gain is lost. One thread: a pool of processes would outlive a killed run.
    with _in_private_folder(), inductor.patch(freezing=True, compile_threads=1), _quiet():
        forward = torch.compile(_own_function(module), dynamic=False)
        forward(example)
    # Later compiles would look into torch's own folder again.
    compiled: Forward = torch._dynamo.run(forward)
    return compiled


def _own_function(module: nn.Module) -> Forward:
    """Give the module a code object of its own.

    torch keeps compiled graphs by code object, and a frozen one has the weights inside: those of
    another backbone of the class, or of this one before it was adapted, must not be taken for it.
    """

    def run(inputs: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            raise RuntimeError(
                "the compiled backbone does not fit these inputs or torch's settings, which were "
                "others when it was compiled"
            )
        features: Tensor = module(inputs)
        return features

    run.__code__ = run.__code__.replace()
    return run


@contextlib.contextmanager
def _private_folder_named() -> Iterator[None]:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    before = os.environ.get(_FOLDER_VARIABLE)
    # torch sets it to its own choice at the user's first compile.
    if before and os.path.abspath(before) != os.path.abspath(default_cache_dir()):  # noqa: PTH100
        folder = private_folder(Path(before), name=_FOLDER_VARIABLE, danger=DANGER)
    else:
        folder = code_folder()
    os.environ[_FOLDER_VARIABLE] = str(folder)
    try:
        with _headers_in(folder / "precompiled_headers"):
            yield
    finally:
        os.environ.pop(_FOLDER_VARIABLE, None)
        if before is not None:
            os.environ[_FOLDER_VARIABLE] = before


_in_private_folder = WhileAnyInside(_private_folder_named)
"""Lets torch look for compiled code only where no other user can put any.

A folder that the user names by torch's own variable is taken if it is his alone.
"""


@contextlib.contextmanager
def _headers_in(folder: Path) -> Iterator[None]:
    """Keep precompiled headers there.

    torch decides at its import where they are, without a look at the variable. Without them a
    compile takes twice as long.
    """
    import torch._inductor.config as inductor
    from torch._inductor import codecache

    names = ("_HEADER_DIR", "_HEADER_LOCK_DIR")
    if not all(hasattr(codecache, name) for name in (*names, "_precompile_header")):
        with inductor.patch(cpp_cache_precompile_headers=False):
            yield
        return
    before = [getattr(codecache, name) for name in names]
    codecache._precompile_header.cache_clear()  # it remembers paths
    codecache._HEADER_DIR, codecache._HEADER_LOCK_DIR = str(folder), str(folder / "locks")
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(codecache, name, value)
        codecache._precompile_header.cache_clear()
