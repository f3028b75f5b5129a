"""torch with its own modes and defaults, whatever the user has set around a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from featcache.core.process_wide import WhileAnyInside


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_FLOAT32 = WhileAnyInside(_default_dtype)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Compute inside, or in a function that this decorates, with torch's own modes and defaults.

    Under the user's `torch.autocast` a cache would hold bf16 under the name of fp32; under
    `torch.no_grad` or `inference_mode` no head can be trained; a default dtype or device makes new
    tensors that fit to none of ours. All but the dtype belong to the thread.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_FLOAT32())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
