"""torch's own random numbers; a process has one stream of them on each device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_TURN = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, *, device: str = "cpu") -> Iterator[None]:
    """Draw inside from torch's default generators, seeded; the user's streams stay as they are.

    One thread at a time: two would draw from one stream, and neither get its own numbers.

    Args:
        seed: Seeds the generators of the CPU and of `device`; not those of other devices.
        device: "cpu" or "cuda:N".
    """
    with _TURN, torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        seed_generators(seed, device=device)
        yield


def seed_generators(seed: int, *, device: str) -> None:
    """Seed torch's default generators of the CPU and of `device` alone, inside `seeded`.

    `torch.manual_seed` seeds every GPU's, and nobody puts those of the others back.
    """
    torch.default_generator.manual_seed(seed)
    if device != "cpu":
        index = torch.device(device).index or 0
        torch.cuda.default_generators[index].manual_seed(seed)
