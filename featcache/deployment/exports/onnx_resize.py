"""Images of any size in front of an ONNX graph: its own operators resize and crop them.

ONNX Runtime's CPU provider resizes bytes with antialiasing nearly as Pillow does: what it was
measured at stands in docs/guides/deploy.md. Other runtimes may resize in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featcache.core.preprocess import Preprocess
from featcache.deployment.exports.traced import INPUT

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_PREFIX = "any_size_"
_ROWS, _COLUMNS = 2, 3  # axes of (N, 3, H, W)


def any_size_before(model: Any, preprocess: Mapping[str, Any]) -> None:
    """Put resizing and cropping before a graph that takes images of one size, in place.

    Args:
        model: An ONNX model that takes (N, h, w, 3) uint8; it takes (N, H, W, 3) afterwards.
        preprocess: As an identity keeps it.
    """
    graph = model.graph
    [taken] = graph.input
    inner = f"{_PREFIX}done"
    for node in graph.node:
        node.input[:] = [inner if name == taken.name else name for name in node.input]
    before = _Nodes(graph)
    resized = before.resized(Preprocess.from_json(preprocess))
    before.add("Transpose", [resized], inner, perm=[0, 2, 3, 1])
    for node in reversed(before.nodes):
        graph.node.insert(0, node)
    _, height, width, _ = taken.type.tensor_type.shape.dim
    height.dim_param, width.dim_param = "height", "width"


class _Nodes:
    """The nodes of a graph's beginning, in order, and the constants that they need."""

    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        self._graph = graph

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        from onnx import helper

        output = output or f"{_PREFIX}{len(self.nodes)}"
        name = f"{_PREFIX}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def whole(self, *values: int) -> str:
        """Name a constant vector of int64."""
        from onnx import TensorProto, helper

        name = f"{_PREFIX}const_{len(self._graph.initializer)}"
        tensor = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        self._graph.initializer.append(tensor)
        return name

    def resized(self, preprocess: Preprocess) -> str:
        """Resize and crop (N, H, W, 3) as `Preprocess.geometry` says; gives (N, 3, h, w)."""
        from onnx import TensorProto

        pixels = self.add("Transpose", [INPUT], perm=[0, 3, 1, 2])
        height = self.add("Shape", [pixels], start=_ROWS, end=_ROWS + 1)
        width = self.add("Shape", [pixels], start=_COLUMNS, end=_COLUMNS + 1)
        if isinstance(preprocess.resize, int):
            shorter = self.whole(preprocess.resize)
            least = self.add("Min", [height, width])
            sides = [
                # Whole numbers: this one's length times the wanted one, by the shorter one's.
                self.add("Div", [self.add("Mul", [side, shorter]), least])
                for side in (height, width)
            ]
        else:
            sides = [self.whole(side) for side in preprocess.resize]
        batch = self.add("Shape", [pixels], start=0, end=2)
        size = self.add("Concat", [batch, *sides], axis=0)
        resized = self.add(
            "Resize",
            [pixels, "", "", size],
            mode=_MODES[preprocess.interpolation],
            antialias=1,
            exclude_outside=1,
            cubic_coeff_a=-0.5,
            coordinate_transformation_mode="half_pixel",
        )
        if preprocess.crop is None:
            return resized
        crop = self.whole(preprocess.crop)
        half = self.add("Constant", [], value_float=0.5)
        starts = []
        for side in sides:
            over = self.add("Cast", [self.add("Sub", [side, crop])], to=TensorProto.FLOAT)
            # Round takes halves to the even number, as Python's does.
            middle = self.add("Round", [self.add("Mul", [over, half])])
            starts.append(self.add("Cast", [middle], to=TensorProto.INT64))
        first = self.add("Concat", starts, axis=0)
        last = self.add("Add", [first, crop])
        return self.add("Slice", [resized, first, last, self.whole(_ROWS, _COLUMNS)])
