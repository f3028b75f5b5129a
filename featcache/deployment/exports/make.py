"""Build the network, write it, let it be checked, describe it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from featcache.config.export_specs import CROP
from featcache.core.arithmetic import arithmetic
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import breakable
from featcache.deployment.backbone import build_named
from featcache.deployment.exports.about import about_of, head_limits
from featcache.deployment.exports.card import card
from featcache.deployment.exports.check import CheckReport, Images, Probabilities, check_file
from featcache.deployment.exports.check_images import batches
from featcache.deployment.exports.network import Network
from featcache.deployment.exports.onnx_file import onnx_bytes
from featcache.deployment.exports.plan import ExportPlan
from featcache.deployment.exports.tensors_file import tensors_bytes
from featcache.deployment.exports.traced import pt2_bytes
from featcache.heads.treatment import folded
from featcache.images.transform import BatchPreprocessor

_WRITERS: Mapping[str, Callable[[Network, Mapping[str, Any]], bytes]] = {
    "onnx": onnx_bytes,
    "pt2": pt2_bytes,
    "safetensors": tensors_bytes,
    "hf": tensors_bytes,
}
Eager = Callable[[Images], Probabilities]

_FULL = ("fp32", "exact")  # precisions of features that a file's are equal to


@dataclass(frozen=True)
class WrittenModel:
    """A file that was written and checked, but has no name yet.

    Attributes:
        sha256: Of its bytes.
        check: What the check found; None where it was left out.
        beside: The content of the files beside it.
    """

    sha256: str
    check: CheckReport | None
    beside: Mapping[Path, bytes]


def make_model(file: BinaryIO, plan: ExportPlan, *, on_note: NoteCallback) -> WrittenModel:
    """Write a head with its backbone into an open file, and check it there.

    Args:
        file: Empty, and opened for writing; the check finds it by its name.
        plan: What to write.
        on_note: Told what goes on.

    Raises:
        FeatcacheError: What `export` names.
    """
    spec, target = plan.spec, plan.target
    backbone = build_named(plan.named, on_note=on_note)
    if backbone.precision not in _FULL:
        on_note(
            f"the features were computed in {backbone.precision}, and the file computes in fp32: "
            f"the figures of the head may differ in their last digits"
        )
    for limit in head_limits(plan.head, backbone.store_dtype):
        on_note(limit)
    # The comparison of the backbone left it in channels_last.
    module = (backbone.module or nn.Flatten()).to(memory_format=torch.contiguous_format)
    with breakable(), arithmetic("fp32", "cpu"):
        head = plan.head.module()
        network = Network(module, folded(head), backbone.preprocess, in_size=spec.size).eval()
        about = about_of(plan, backbone, network)
        on_note(f"writing {target.model}")
        content = _WRITERS[spec.format](network, about)
        file.write(content)
        file.flush()
        sha256 = hashlib.sha256(content).hexdigest()
        del content
        eager = _eager(nn.Sequential(module, head), backbone.preprocess)
        report = _checked(Path(file.name), sha256, plan, eager, backbone.preprocess, on_note)
    checked = None if report is None else asdict(report)
    beside = {"file": target.model.name, "sha256": sha256, "check": checked, **about}
    told = card(about, plan.facts, report, target)
    return WrittenModel(
        sha256,
        report,
        {
            target.about: f"{json.dumps(beside, indent=2)}\n".encode(),
            target.card: told.encode(errors="backslashreplace"),
        },
    )


def _checked(
    path: Path,
    sha256: str,
    plan: ExportPlan,
    eager: Eager,
    preprocess: Preprocess,
    on_note: NoteCallback,
) -> CheckReport | None:
    """Let a new process run the file, unless that is left out."""
    spec, images = plan.spec, plan.images
    if images is None:
        on_note("the file is not checked, as --unchecked asks; its card says so")
        return None
    on_note(f"checking it in a new process, with images of {images.name}")
    assert spec.tolerance is not None
    return check_file(
        path,
        batches(images.taken(preprocess), preprocess, takes_crops=spec.input == CROP),
        eager,
        format=spec.format,
        sha256=sha256,
        images=images.told,
        tolerance=spec.tolerance,
    )


def _eager(module: nn.Module, preprocess: Preprocess) -> Eager:
    """Give PyTorch's own probabilities of what Pillow made, by backbone and head as they were."""
    prepare = BatchPreprocessor(
        preprocess.after_resize, in_size=preprocess.out_size, device=torch.device("cpu")
    )

    def probabilities(prepared: Images) -> Probabilities:
        with torch.no_grad():
            logits = module(prepare(torch.from_numpy(prepared)))
            found: Probabilities = torch.softmax(logits.double(), dim=1).numpy()
        return found

    return probabilities
