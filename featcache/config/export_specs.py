"""The options of `export`: which kind of file, what it takes, how it is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featcache.core.arguments import require_above_zero
from featcache.core.options import check_fields, option, options_in
from featcache.core.preprocess import MOST_PIXELS
from featcache.errors import UsageError

FORMATS = ("onnx", "pt2", "safetensors", "hf")
GRAPHS = ("onnx", "pt2")
"""The formats that hold a graph, so that something may stand in front of the backbone."""
CROP, ANY = "crop", "any"

# p of one image, from PyTorch's own: fp32 in another order of its sums, and another resizing.
_SAME, _RESIZED = 1e-4, 0.05
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


@options_in("File")
@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """How a trained head and its backbone become one file."""

    format: str = option(
        "onnx",
        "onnx for ONNX Runtime, pt2 for PyTorch, safetensors for the tensors alone, hf for a "
        "folder as Hugging Face's hub has it.",
        choices=FORMATS,
    )
    input: str = option(
        CROP,
        "What the file takes: crop, images that Pillow resized and cropped; HxW such as 480x640, "
        "images of that size, resized inside; any, images of any size, resized by ONNX Runtime.",
    )
    check: str | None = option(
        None,
        "Folder of images to check the file with, 64 at least.",
        unset="images of the head's dataset",
        group="Check",
    )
    unchecked: bool = option(
        False, "Write the file without a check; its card then says so.", group="Check"
    )
    tolerance: float | None = option(
        None,
        "Refuse a file whose probabilities differ from PyTorch's by more.",
        unset=f"{_SAME:g}, and {_RESIZED:g} for any",
        group="Check",
    )
    overwrite: bool = option(False, "Replace the files that are there.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", str(self.input).lower())
        check_fields(self)
        if self.tolerance is None:
            object.__setattr__(self, "tolerance", _RESIZED if self.input == ANY else _SAME)
        require_above_zero("--tolerance", self.tolerance, or_zero=True)
        self._check_input()
        if self.unchecked and self.check is not None:
            raise UsageError(
                "--unchecked leaves out the check that --check is for. Nothing was started. Leave "
                "one of them out."
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images that the file takes, where --input names it."""
        found = _SIZE.fullmatch(self.input)
        return None if found is None else (int(found[1]), int(found[2]))

    def _check_input(self) -> None:
        size = self.size
        if self.input not in (CROP, ANY) and size is None:
            raise UsageError(
                f"--input is {self.input!r}, but must be crop, any, or a height and a width like "
                f"480x640. Nothing was started."
            )
        if size is not None and not all(1 <= side <= MOST_PIXELS for side in size):
            raise UsageError(
                f"--input is {self.input!r}, but height and width must be from 1 to {MOST_PIXELS}. "
                f"Nothing was started."
            )
        if self.input == ANY and self.format != "onnx":
            raise UsageError(
                f"--input any resizes by an operator of ONNX, but --format is {self.format}. "
                f"Nothing was started. Use --format onnx, or --input crop."
            )
        if size is not None and self.format not in GRAPHS:
            raise UsageError(
                f"--input {self.input} resizes inside a graph, but --format {self.format} has "
                f"none: it holds tensors. Nothing was started. Use --format "
                f"{' or '.join(GRAPHS)}, or --input crop."
            )
