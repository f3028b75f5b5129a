"""Export a head with its backbone: one file that other programs run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from featcache.backbones.own import Backbone, given_backbone
from featcache.config import ExportSpec, ExtractSpec, RunSpec
from featcache.config.export_specs import GRAPHS
from featcache.core.arguments import place
from featcache.core.backbone_kinds import must_be_named
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.deployment.exports.check_images import images_for_check
from featcache.deployment.exports.plan import ExportPlan
from featcache.deployment.exports.run_facts import facts_of
from featcache.deployment.exports.targets import target_of
from featcache.deployment.named_backbone import name_backbone
from featcache.errors import InterruptedRunError, UsageError
from featcache.heads.head_file import load_head
from featcache.heads.runs import find_run
from featcache.heads.trained_head import TrainedHead

if TYPE_CHECKING:
    from torch import nn

    from featcache.deployment.exports.check import CheckReport
    from featcache.deployment.exports.make import WrittenModel

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportedModel:
    """What `export` wrote.

    Attributes:
        path: The file, or the folder.
        format: "onnx", "pt2", "safetensors" or "hf".
        input: "crop", "any", or a height and a width like "480x640".
        model: The file with the network.
        about: What it is, as JSON.
        card: What it is, for people.
        nbytes: Size of the model.
        sha256: Of its bytes, 64 hex digits.
        n_classes: K.
        check: What the check found; None where it was left out.
    """

    path: Path
    format: str
    input: str
    model: Path
    about: Path
    card: Path
    nbytes: int
    sha256: str
    n_classes: int
    check: CheckReport | None


@starting(*ANY_START)
def export(
    run: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    format: str = ExportSpec.format,
    input: str = ExportSpec.input,
    check: str | os.PathLike[str] | None = ExportSpec.check,
    unchecked: bool = ExportSpec.unchecked,
    tolerance: float | None = ExportSpec.tolerance,
    overwrite: bool = ExportSpec.overwrite,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_note: NoteCallback | None = None,
) -> ExportedModel:
    """Write a head with its backbone as one file: uint8 images in, probabilities out.

    Beside the file stand its description (`.json`) and its card (`.md`); the format "hf" makes a
    folder of all three. A new process then loads the file and runs 64 images. If it gives something
    else than PyTorch in fp32 on the CPU, nothing is left of it.

    The other arguments are those of `featcache.config.ExportSpec`.

    Args:
        run: Folder of a run, or part of its name; None is the newest, or the one that its sweep
            chose.
        out: The file, with the suffix of its format, or the folder.
        backbone: The backbone, where the head cannot say it: code of one's own has to be named
            again, and so has a folder of timm's.
        weights: What fills it; None takes what filled it then.
        cache_dir: Folder of all caches.
        data_dir: Folder of downloaded datasets, for the images of the check.
        runs_dir: Folder of all runs.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        CacheMissingError: If there is no such run.
        UsageError: If the file exists, a package is missing, the head is of neighbours (knn), there
            are no images for the check, or the backbone cannot become such a file.
        MismatchError: If the backbone is another one than the head was trained on, or the file
            gives something else than PyTorch.
        CorruptError: If the head is damaged.
        StorageError: If the file cannot be written; DiskFullError if there is no room.
    """
    note = on_note or silent
    spec = ExportSpec(
        format=format,
        input=input,
        check=None if check is None else os.fspath(check),
        unchecked=unchecked,
        tolerance=tolerance,
        overwrite=overwrite,
    )
    target = target_of(place("--out", out), format=spec.format, overwrite=spec.overwrite)
    if spec.format == "onnx":
        _require_onnx()
    folder = find_run(run, runs_dir=runs_dir)
    head = load_head(folder)
    _require_layers(head)
    caches = place("--cache-dir", cache_dir)
    images = None
    if not spec.unchecked:
        data = place("--data-dir", data_dir)
        images = images_for_check(head, check=spec.check, size=spec.size, data_dir=data)
    with nullcontext() if backbone is None else given_backbone(backbone) as name:
        named = name_backbone(head, backbone=name, weights=weights, cache_dir=caches)
        facts = facts_of(head, folder, cache_dir=caches, on_note=note)
        plan = ExportPlan(spec, target, folder, head, named, facts, images)
        _require_checkable(plan)
        return _written(plan, note)


def _written(plan: ExportPlan, note: NoteCallback) -> ExportedModel:
    """Write all files of an export."""
    made: list[WrittenModel] = []

    def make(file: BinaryIO) -> Mapping[Path, bytes]:
        from featcache.deployment.exports.make import make_model

        made.append(make_model(file, plan, on_note=note))
        return made[0].beside

    target = plan.target
    try:
        target.write(make)
    except KeyboardInterrupt as err:
        kept = "What was there before is as it was." if plan.spec.overwrite else ""
        raise InterruptedRunError(
            f"Stopped. Nothing was written to {target.out}. {kept}".rstrip()
        ) from err
    return ExportedModel(
        path=target.out,
        format=plan.spec.format,
        input=plan.spec.input,
        model=target.model,
        about=target.about,
        card=target.card,
        nbytes=target.model.stat().st_size,
        sha256=made[0].sha256,
        n_classes=len(plan.head.class_names),
        check=made[0].check,
    )


def _require_layers(head: TrainedHead) -> None:
    if not head.has_layers:
        raise UsageError(
            f"The head {head.path} asks the rows of its cache (knn), so it cannot leave without "
            f"them. Nothing was written. Train one of another --solver on the same cache: logreg "
            f"takes seconds."
        )


def _require_checkable(plan: ExportPlan) -> None:
    """Refuse tensors that the process of the check could not put into their backbone."""
    format, name = plan.spec.format, plan.named.name
    if plan.images is not None and format not in GRAPHS and must_be_named(name):
        raise UsageError(
            f"A file of --format {format} holds tensors, and the process that checks it cannot "
            f"build {name}, which has to be named again. Nothing was written. Use --format "
            f"{' or '.join(GRAPHS)}, or leave the check out with --unchecked."
        )


def _require_onnx() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX files need {', '.join(_PACKAGES)}, but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed here. Nothing was written. "
            f'Install them with: pip install "featcache[onnx]"'
        )
