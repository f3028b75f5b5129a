"""Other engines for a frozen backbone on a CPU: ONNX Runtime and OpenVINO, from its ONNX file.

They are no dependencies: `pip install -e ".[bench]"` brings them. An engine that is not installed
is left out, by name.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.allocator import freed_memory_kept
from tests.benchmarks.measure import Peer, Run, left_out
from tests.benchmarks.peers_backbone import settled

BATCH_SIZE = 16  # of all engines, and what extraction takes on a CPU
Batches = Sequence[np.ndarray]


@dataclass(frozen=True)
class Engine:
    """A way to run an ONNX file.

    Attributes:
        name: In the table.
        packages: What must be installed, as pip names it, by the module that is imported.
        prepare: Loads the file and takes its batches, each (16, 3, s, s) float32; gives what runs.
    """

    name: str
    packages: dict[str, str]
    prepare: Callable[[Path, Batches], Run]


def onnx_runtime(path: Path, batches: Batches) -> Run:
    """Run batch by batch; all optimisations of the graph are its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run() -> tuple[float, Tensor]:
        started = time.perf_counter()
        parts = [session.run(None, {"images": batch})[0] for batch in batches]
        return time.perf_counter() - started, torch.from_numpy(np.concatenate(parts))

    return run


def openvino_one_by_one(path: Path, batches: Batches) -> Run:
    """Run batch by batch, as its hint LATENCY is meant."""
    model = _compiled(path, "LATENCY")

    def run() -> tuple[float, Tensor]:
        started = time.perf_counter()
        parts = [model(batch)[0] for batch in batches]
        return time.perf_counter() - started, torch.from_numpy(np.concatenate(parts))

    return run


def openvino_in_flight(path: Path, batches: Batches) -> Run:
    """Keep as many batches in flight as it wishes, as its hint THROUGHPUT is meant."""
    import openvino

    queue = openvino.AsyncInferQueue(_compiled(path, "THROUGHPUT"))
    parts: dict[int, np.ndarray] = {}

    def keep(request: Any, i: int) -> None:
        parts[i] = request.get_output_tensor().data.copy()

    queue.set_callback(keep)

    def run() -> tuple[float, Tensor]:
        parts.clear()
        started = time.perf_counter()
        for i, batch in enumerate(batches):
            queue.start_async({"images": batch}, i)
        queue.wait_all()
        seconds = time.perf_counter() - started
        return seconds, torch.from_numpy(np.concatenate([parts[i] for i in range(len(batches))]))

    return run


def _compiled(path: Path, hint: str) -> Any:
    import openvino

    options = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # else bf16 where the processor has it
    }
    return openvino.Core().compile_model(path, "CPU", options)


_EXPORT = {"onnx": "onnx", "onnxscript": "onnxscript"}  # what torch.onnx.export imports
_OPENVINO = {**_EXPORT, "openvino": "openvino"}
ENGINES = (
    Engine("ONNX Runtime", {**_EXPORT, "onnxruntime": "onnxruntime"}, onnx_runtime),
    Engine("OpenVINO, hint LATENCY", _OPENVINO, openvino_one_by_one),
    Engine("OpenVINO, hint THROUGHPUT", _OPENVINO, openvino_in_flight),
)


def not_installed(engines: Sequence[Engine] = ENGINES) -> list[str]:
    """Say which engines are left out, and what to install."""
    said = (left_out(engine.name, engine.packages) for engine in engines)
    return [line for line in said if line]


@contextlib.contextmanager
def exported(
    module: nn.Module, batches: Batches, engines: Sequence[Engine] = ENGINES
) -> Iterator[list[Peer]]:
    """Export a module for batches of just this shape, and list the engines that are installed.

    Args:
        module: (16, 3, s, s) -> (16, D), in eval mode, on the CPU.
        batches: Its inputs, channel by channel in memory, as these engines want them.
        engines: Which to list.
    """
    there = [engine for engine in engines if not left_out(engine.name, engine.packages)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.onnx"
        if there:
            torch.onnx.export(
                module,
                (torch.from_numpy(batches[0]),),
                path,
                input_names=["images"],
                output_names=["features"],
                dynamo=True,
                verbose=False,
            )
        n = len(batches) * len(batches[0])
        yield [Peer(engine.name, engine.prepare(path, batches), n) for engine in there]


@contextlib.contextmanager
def peers(name: str, pixels: np.ndarray) -> Iterator[list[Peer]]:
    """List the ways from ready batches to features in fp32: featcache's engine, eager, the others.

    The batches are preprocessed and lie in memory, each in the layout that its engine prefers; the
    models are loaded and compiled. So this is the network alone, without reading, pixels or store.

    Args:
        name: The backbone, with random weights.
        pixels: (N, 32, 32, 3) uint8, N a multiple of 16.
    """
    runner, engine = settled(name, "fp32")
    with runner.running():  # a compiled backbone wants tensors of inference mode
        inputs = [runner.inputs(part) for part in np.split(pixels, len(pixels) // BATCH_SIZE)]
    channel_by_channel = [part.contiguous().numpy() for part in inputs]

    def own(forward: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
        with freed_memory_kept(), runner.running():
            started = time.perf_counter()
            features = torch.cat([forward(part) for part in inputs])
            return time.perf_counter() - started, features

    with exported(runner.module, channel_by_channel) as others:
        yield [
            Peer(f"featcache, engine {engine}", lambda: own(runner.forward), len(pixels)),
            Peer("featcache, --compile never", lambda: own(runner.eager), len(pixels)),
            *others,
        ]
