"""Repair a cache: mend its structure, and compute again the rows that are damaged, only those."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.families import family_of
from featcache.backbones.own import Backbone, given_backbone
from featcache.config import IMPORTED, ExtractSpec
from featcache.core.backbone_kinds import is_own, is_timm, timm_name
from featcache.core.paths import expanded
from featcache.core.reporting import NoteCallback, silent
from featcache.core.side_files import finished_path, lock_path
from featcache.core.starting import ANY_START, starting
from featcache.errors import FeatcacheError, UsageError
from featcache.extraction.opening import open_images
from featcache.extraction.whereabouts import dataset_of
from featcache.images.splits import Dataset
from featcache.images.stat_index import KnownFiles
from featcache.store import (
    PART,
    PARTS,
    CacheState,
    VerifyReport,
    command_of,
    describe_cache,
    locked,
    made_with,
    mend_structure,
    named_backbone,
    opened_readonly,
    partial_path,
    read_state,
    require_fields,
    require_identity,
    verify_cache,
)

if TYPE_CHECKING:
    from torch import nn

    from featcache.extraction.progress import ProgressCallback

_WAY_OUT = "Say where the right ones are with --dataset, --data-dir or --weights."


@dataclass(frozen=True)
class RepairReport:
    """What `repair_cache` did.

    Attributes:
        path: The cache.
        mended: What was put right outside the rows, a phrase each.
        n_rows_computed: Rows of damaged blocks that were computed again.
        n_rows: Rows of all splits.
        n_not_decoded: Rows that still lack an image which this machine cannot decode.
    """

    path: Path
    mended: tuple[str, ...]
    n_rows_computed: int
    n_rows: int
    n_not_decoded: int

    @property
    def was_sound(self) -> bool:
        """Whether there was nothing to repair."""
        return not self.mended and self.n_rows_computed == 0


@starting(*ANY_START)
def repair_cache(
    path: str | os.PathLike[str],
    *,
    dataset: str | Dataset | None = None,
    backbone: str | Backbone | nn.Module | None = None,
    weights: str | None = None,
    device: str = ExtractSpec.device,
    n_workers: int | None = ExtractSpec.n_workers,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    skip_undecodable: bool = ExtractSpec.skip_undecodable,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> RepairReport:
    """Restore a complete cache, byte for byte where this machine is of its numeric class.

    One wrong bit of manifest or ledger is found without any images; HDF5's own bytes are made anew.
    Damaged rows are computed again from the dataset and the weights, in place; a repair that is
    stopped goes on with the same call.

    Args:
        path: The cache; a `.h5.partial` is completed, as `extract` would.
        dataset: Where its images are now, or what `featcache.make_dataset` made of them; None takes
            what the cache names. A relative path is looked for beside the cache and above it before
            the working directory.
        backbone: What the cache was made with, where it names none that can be had: a folder of
            timm's, a function or a module of one's own.
        weights: What fills the backbone; None takes what the cache names, which for a file is only
            its name.
        mix_numerics: Compute the damaged rows though this machine is of another numeric class, so
            that their last digits may differ.
        skip_undecodable: Leave out, with its reason, what this machine cannot decode.
        on_progress: Called while rows are checked and computed.
        on_note: Told each choice.

    Returns:
        What was mended and computed.

    Raises:
        CorruptError: If the structure is damaged beyond mending; copy or extract it again.
        MismatchError: If images or weights are others than the cache was made from.
        UsageError: If it was imported, or its weights are in a file that is not named.
        FeatcacheError: Whatever else `extract` raises; mended parts stay mended; the rest is
            unchanged.
    """
    path = finished_path(expanded(path))
    with opened_readonly(path if path.exists() else partial_path(path)):
        pass  # nothing is made beside a file that is not there
    progress, note = on_progress or silent, on_note or silent
    is_new = not lock_path(path).exists()
    with locked(path), contextlib.ExitStack() as stack:
        named = None if backbone is None else stack.enter_context(given_backbone(backbone))
        present = path if path.exists() else partial_path(path)
        try:
            mended = mend_structure(present)
        except FeatcacheError:
            if is_new:  # a lock tells `remove_cache` that a file is a cache
                lock_path(path).unlink(missing_ok=True)
            raise
        for what in mended:
            note(f"mended: {what}")
        state = read_state(present)
        report = verify_cache(present)
        is_whole = report.is_sound and state.is_complete
        n_not_decoded = _n_not_decoded(present) if is_whole else 0
        if is_whole and present == path and (skip_undecodable or not n_not_decoded):
            return RepairReport(path, tuple(mended), 0, report.n_rows, n_not_decoded)
        note(_told(report, n_not_decoded))
        asked: dict[str, Any] = {
            "dataset": dataset.name if isinstance(dataset, Dataset) else dataset,
            "backbone": named,
            "weights": weights,
            "data_dir": os.fspath(data_dir),
            "device": device,
            "n_workers": n_workers,
            "mix_numerics": mix_numerics,
            "skip_undecodable": skip_undecodable,
        }
        spec = _spec_of(state, path, asked)
        # 0.1 dropped splits called Test/ or dev/: its caches are repaired without them.
        given = dataset if isinstance(dataset, Dataset) else None
        images = open_images(spec, on_note=note, given=given)
        images = images.with_splits(state.manifest.splits)
        # They import torch, which takes seconds.
        from featcache.extraction.plan import make_plan
        from featcache.extraction.run import make_caches

        known = KnownFiles(on_note=note)
        plan = make_plan(spec, images, on_progress=progress, on_note=note, known=known, at=path)
        require_identity(path, state.manifest.identity, plan.identity, way_out=_WAY_OUT)
        with known.trusted():
            [made] = make_caches([plan], on_progress=progress, on_note=note)
    mended += [PARTS[damage.split] for damage in report.damages if damage.split in PARTS]
    return RepairReport(
        path, tuple(mended), made.n_rows_computed, report.n_rows, _n_not_decoded(path)
    )


def _n_not_decoded(path: Path) -> int:
    return sum(split.n_not_decoded for split in describe_cache(path).splits)


def _told(report: VerifyReport, n_not_decoded: int) -> str:
    damaged = [
        PARTS.get(damage.split, f"{damage.split} rows {damage.first_row} to {damage.last_row}")
        for damage in report.damages
    ]
    if report.n_missing:
        damaged.append(f"blocks that are not written: {report.n_missing}")
    if n_not_decoded:
        damaged.append(f"rows whose images could not be decoded: {n_not_decoded}")
    if not damaged:
        return "nothing to compute; the file gets its final name"
    return f"to be computed again: {', '.join(damaged)}"


def _spec_of(state: CacheState, path: Path, asked: Mapping[str, Any]) -> ExtractSpec:
    identity, provenance = state.manifest.identity, state.manifest.provenance
    if identity.backbone == IMPORTED:
        raise UsageError(
            f"{path} was imported, so its rows cannot be computed. Nothing was computed. Import "
            f"its source again, as it was made (featcache cache import); that replaces it."
        )
    if PART in identity:
        command = command_of(path, identity, provenance)
        raise UsageError(
            f"{path} is a part of a cache, which is not repaired but computed again. Nothing was "
            f"computed. Remove it and run its share: rm {shlex.quote(str(path))} && {command}"
        )
    require_fields(path, {**identity, **provenance}, "preprocess", "limit", "weights")
    backbone = asked["backbone"] or _backbone_of(state, path)
    runs_network = family_of(backbone).runs_network
    if runs_network:
        require_fields(path, identity, "bn", "precision", "store_dtype")
    if asked["weights"] is None and "." in provenance.weights:
        raise UsageError(
            f"{path} was made with the weights file {provenance.weights!r}, and does not know "
            f"where that is. Nothing was computed. Say it with --weights FILE."
        )
    made = made_with(identity, provenance) | {
        "dataset": asked["dataset"] or dataset_of(path, state.manifest),
        "batch_size": state.manifest.numerics.batch_size,
    }
    return ExtractSpec(**{**made, **{n: v for n, v in asked.items() if v is not None}})


def _backbone_of(state: CacheState, path: Path) -> str:
    """Name the backbone that made a cache, unless only its maker knows where it is."""
    name = named_backbone(state.manifest.identity, state.manifest.provenance)
    if is_own(name):  # code is run because the user names it, never because a file does
        raise UsageError(
            f"{path} was made with the backbone {name!r}, which is its maker's own code. Nothing "
            f"was run or computed. If you trust it, name it: --backbone PACKAGE.MODULE:FUNCTION."
        )
    if is_timm(name) and timm_name(name).kind == "local-dir":
        raise UsageError(
            f"{path} was made with a model in a folder {timm_name(name).rest!r}, and does not know "
            f"where that is. Nothing was computed. Say it with --backbone timm:local-dir:PATH."
        )
    return name
