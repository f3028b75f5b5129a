"""Write the network as ONNX; needs the extra `onnx`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from featcache.core.files import human_bytes
from featcache.core.process_wide import warnings_ignored
from featcache.deployment.exports.network import Network
from featcache.deployment.exports.onnx_resize import any_size_before
from featcache.deployment.exports.traced import ABOUT, BATCH, INPUT, OUTPUT, quiet, traced
from featcache.errors import UsageError

_MOST_BYTES = (1 << 31) - (1 << 20)  # protobuf holds 2 GiB, and the graph needs some of them


def onnx_bytes(network: Network, about: Mapping[str, Any]) -> bytes:
    """Write an ONNX file. Its metadata hold `class_names` and, under `featcache`, what it is.

    Raises:
        UsageError: If the network cannot become one.
    """
    _require_room(network)
    program = traced(network)
    with quiet(), warnings_ignored(), torch.no_grad():
        made = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert made is not None, "without a file it is returned"
    model: Any = made.model_proto
    if about["input"] == "any":
        any_size_before(model, about["preprocess"])
    _tidy(model)
    model.producer_name, model.producer_version = "featcache", about["versions"]["featcache"]
    for key, value in ((ABOUT, about), ("class_names", about["class_names"])):
        model.metadata_props.add(key=key, value=json.dumps(value))
    content: bytes = model.SerializeToString()
    return content


def _tidy(model: Any) -> None:
    """Name the batch dimension, and leave out what tells of the machine that made the file."""
    graph = model.graph
    first = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == first:
                dim.dim_param = BATCH
    del graph.value_info[:]  # every runtime infers them, and they name the dimension otherwise
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


def _require_room(network: Network) -> None:
    nbytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    if nbytes > _MOST_BYTES:
        raise UsageError(
            f"The network has {human_bytes(nbytes)} of weights, but an ONNX file holds 2 GiB at "
            f"most. Nothing was written. Use --format pt2, safetensors or hf."
        )
