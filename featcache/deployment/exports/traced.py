"""The network as a graph with a free batch dimension: what ONNX and PT2 files hold."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from featcache.core.process_wide import errors_alone, warnings_ignored
from featcache.deployment.exports.network import Network
from featcache.errors import UsageError, clipped

ABOUT = "featcache"
"""The key under which a file says what it is."""
INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"

# torch keeps there which line of which file an operation came from: paths of this machine.
_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
quiet = errors_alone("torch.export", "torch.onnx", "torch._dynamo", "onnxscript", "onnx_ir")


def traced(network: Network) -> ExportedProgram:
    """Follow the network on two images.

    Raises:
        UsageError: If torch.export cannot follow it, or only for one number of images.
    """
    images = torch.zeros(2, *network.in_size, 3, dtype=torch.uint8)
    free = {INPUT: {0: torch.export.Dim(BATCH)}}
    try:
        with quiet(), warnings_ignored(), torch.no_grad():
            program = torch.export.export(network, (images,), dynamic_shapes=free, strict=False)
    except Exception as err:  # whatever a backbone's code meets there
        raise UsageError(
            f"torch.export cannot make a graph of this backbone ({type(err).__name__}: "
            f"{clipped(' '.join(str(err).split()))}). Nothing was written. Use --format "
            f"safetensors or hf, which hold its tensors."
        ) from err
    for node in program.graph.nodes:
        for name in _ORIGINS:
            node.meta.pop(name, None)
    return program


def pt2_bytes(network: Network, about: Mapping[str, Any]) -> bytes:
    """Write a PT2 file, which torch.export.load reads; it says what it is in `featcache.json`."""
    program = traced(network)
    file = io.BytesIO()
    with quiet(), warnings_ignored():
        torch.export.save(program, file, extra_files={f"{ABOUT}.json": json.dumps(about)})
    return file.getvalue()
