"""A trunk compiled by torch's inductor, its weights frozen into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


def compiled_by_inductor(module: nn.Module, example: Tensor) -> Forward:
    """Compile a trunk as it is now, and run it once.

    Whatever changes the module afterwards does not reach the compiled one.

    Args:
        module: (B, 3, H, W) -> (B, D), in eval mode on the CPU.
        example: (B, 3, H, W) as all that will come.

    Raises:
        Exception: Whatever torch, the compiler or the system complain of.
    """
    import torch
    import torch._inductor.config as inductor

    forward = torch.compile(_own_function(module), dynamic=False)
    # Not as torch.compile's options: those come too late for the layout of convolutions, and a
    # third of the gain is lost. One thread: a pool of processes would outlive a killed run.
    with inductor.patch(freezing=True, compile_threads=1), _quiet():
        forward(example)
    return forward


def _own_function(module: nn.Module) -> Forward:
    """Give the module a code object of its own.

    torch keeps compiled graphs by code object, and a frozen one has the weights inside: those of
    another trunk of the class, or of this one before it was adapted, must not be taken for it.
    """

    def run(inputs: Tensor) -> Tensor:
        features: Tensor = module(inputs)
        return features

    run.__code__ = run.__code__.replace()
    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal that torch found no CUDA for compiling, on a machine without it."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
