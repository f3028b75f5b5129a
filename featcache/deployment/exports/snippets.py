"""Code that uses an exported file, for its card: the tests run every line of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from featcache.core.preprocess import Preprocess
from featcache.deployment.exports.targets import ExportTarget

_OPEN = 'Image.open(path).convert("RGB")'
_OPEN_UPRIGHT = 'ImageOps.exif_transpose(Image.open(path)).convert("RGB")'

_LOADING = {
    "onnx": """\
session = onnxruntime.InferenceSession({model}, providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
""",
    "pt2": """\
said = {{"featcache.json": ""}}
network = torch.export.load({model}, extra_files=said).module()
names = json.loads(said["featcache.json"])["class_names"]
""",
    "safetensors": """\
network = featcache.load_exported({model})
names = json.loads(Path({about}).read_text())["class_names"]
""",
}
_LOADING["hf"] = _LOADING["safetensors"]
_IMPORTS = {
    "onnx": ("import onnxruntime",),
    "pt2": ("import torch",),
    "safetensors": ("import torch", "", "import featcache"),
}
_IMPORTS["hf"] = _IMPORTS["safetensors"]
_RUN_ONNX = '[probabilities] = session.run(None, {{"images": {images}}})\n'
_RUN_TORCH = """\
with torch.no_grad():
    probabilities = network(torch.from_numpy({images})).numpy()
"""
_ONE = """\
{run}best = probabilities[0].argmax()
print(names[best], probabilities[0, best])
"""
_MANY = """\
paths = sorted(Path("photos").iterdir())
images = np.stack([prepare(path) for path in paths])
{run}for path, row in zip(paths, probabilities, strict=True):
    print(path, names[row.argmax()], row.max())
"""
_EACH = """\
for path in sorted(Path("photos").iterdir()):
    {run}    print(path, names[probabilities[0].argmax()], probabilities[0].max())
"""
_WHOLE = """\
import hashlib
import json
from pathlib import Path

about = json.loads(Path({about}).read_text())
content = Path({model}).read_bytes()
print("whole" if hashlib.sha256(content).hexdigest() == about["sha256"] else "damaged")
print(about["class_names"], about["preprocess"], about["licence"])
"""


class Snippet(NamedTuple):
    """A title, and Python code that runs in the folder of the file."""

    title: str
    code: str


def pillow_code(preprocess: Preprocess, *, input: str, is_turned: bool) -> str:
    """Write a function `prepare(path)` that gives what the file takes of one image.

    Args:
        preprocess: How images are resized and cropped.
        input: As `ExportSpec.input`.
        is_turned: Whether images are turned as EXIF says.
    """
    lines = ["import numpy as np", f"from PIL import Image{', ImageOps' if is_turned else ''}"]
    lines += ["", "", "def prepare(path):"]
    lines += [f"    image = {_OPEN_UPRIGHT if is_turned else _OPEN}"]
    if input == "crop":
        lines += [f"    {line}" for line in _resizing(preprocess)]
    return "\n".join([*lines, "    return np.array(image)  # (H, W, 3) uint8", ""])


def _resizing(preprocess: Preprocess) -> list[str]:
    kernel = f"Image.Resampling.{preprocess.interpolation.upper()}"
    resize, crop = preprocess.resize, preprocess.crop
    if isinstance(resize, int):
        lines = [
            "width, height = image.size",
            "shorter = min(width, height)",
            f"size = ({resize} * width // shorter, {resize} * height // shorter)",
        ]
    else:
        lines = [f"size = ({resize[1]}, {resize[0]})"]
    lines += [f"image = image.resize(size, {kernel})"]
    if crop is not None:
        lines += [
            f"left, top = (round((side - {crop}) / 2) for side in size)",
            f"image = image.crop((left, top, left + {crop}, top + {crop}))",
        ]
    return lines


def snippets(about: Mapping[str, Any], target: ExportTarget) -> list[Snippet]:
    """Write three: one image, a folder of images, and what the file says of itself.

    Args:
        about: The description of the file.
        target: Its files; the code names them without their folder.
    """
    format = about["format"]
    names = {"model": json.dumps(target.model.name), "about": json.dumps(target.about.name)}
    loading = _LOADING[format].format(**names)
    run = _RUN_ONNX if format == "onnx" else _RUN_TORCH
    one = _ONE.format(run=run.format(images='prepare("photo.jpg")[None]'))
    if about["input"] == "any":
        many = _EACH.format(run=run.format(images="prepare(path)[None]"))
    else:
        many = _MANY.format(run=run.format(images="images"))
    imports, _, prepare = about["pillow"].partition("\n\n\n")
    top = ["import json", "from pathlib import Path", "", imports, *_IMPORTS[format]]
    start = "\n".join([*top, "", "", prepare, "", loading])
    return [
        Snippet("One image", f"{start}{one}"),
        Snippet("A folder of images", f"{start}{many}"),
        Snippet("Is the file whole?", _WHOLE.format(**names)),
    ]
