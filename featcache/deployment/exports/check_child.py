"""The process that loads a written file again and runs it; it has never seen the network before.

It gets images on stdin and answers with probabilities on stdout, batch by batch, and ends with its
stdin. What libraries print goes to stderr. For ONNX it imports onnxruntime and NumPy alone.
"""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SHAPE = struct.Struct("<4q")  # (N, H, W, 3) before the bytes of a batch
ANSWER = struct.Struct("<2q")  # (N, K) before the float32 of its probabilities
DAMAGED = 3
"""The exit code for a file that has other bytes than were written."""

Run = Callable[[Any], Any]


def load_onnx(path: Path) -> Run:
    """Open a session of ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def load_pt2(path: Path) -> Run:
    """Load with torch.export."""
    import torch

    module = torch.export.load(path).module()

    def run(images: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


def load_tensors(path: Path) -> Run:
    """Build the network again from its tensors and their description."""
    import torch

    from featcache.deployment.exports.tensors_file import load_exported

    module = load_exported(path)

    def run(images: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


LOADERS: dict[str, Callable[[Path], Run]] = {
    "onnx": load_onnx,
    "pt2": load_pt2,
    "safetensors": load_tensors,
    "hf": load_tensors,
}


def main(format: str, path: str, sha256: str) -> int:
    """Answer until there is no more; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with Path(path).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return DAMAGED
    run = LOADERS[format](Path(path))
    while head := asked.read(SHAPE.size):
        shape = SHAPE.unpack(head)
        images = np.frombuffer(asked.read(int(np.prod(shape))), np.uint8).reshape(shape)
        _answer(answers, np.asarray(run(images.copy()), np.float32))
    return 0


def _answer(answers: BinaryIO, probabilities: Any) -> None:
    answers.write(ANSWER.pack(*probabilities.shape) + probabilities.tobytes())
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
