"""Repair a cache: mend its structure, and compute again the rows that are damaged, only those."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from featcache.cachemaking import make_caches, require_identity
from featcache.errors import UsageError
from featcache.pipeline import Progress, ProgressCallback
from featcache.planning import Plan, make_plan
from featcache.runtime import NoteCallback, silent
from featcache.specs import ExtractSpec, Preprocess
from featcache.store import (
    CacheState,
    VerifyReport,
    locked,
    mend_structure,
    named_failures,
    partial_path,
    read_state,
    sync_folder,
    verify_cache,
)
from featcache.trunks import PIXELS

_RANDOM = re.compile(r"random \(seed (\d+)\)")


@dataclass(frozen=True)
class RepairReport:
    """What `repair_cache` did.

    Attributes:
        path: The cache.
        mended: What was put right outside the rows, a phrase each.
        n_rows_computed: Rows of damaged blocks that were computed again.
        n_rows: Rows of all splits.
    """

    path: Path
    mended: tuple[str, ...]
    n_rows_computed: int
    n_rows: int

    @property
    def was_sound(self) -> bool:
        """Whether there was nothing to repair."""
        return not self.mended and self.n_rows_computed == 0


def repair_cache(
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    weights: str | None = None,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    device: str = ExtractSpec.device,
    n_workers: int | None = ExtractSpec.n_workers,
    mix_numerics: bool = ExtractSpec.mix_numerics,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> RepairReport:
    """Restore a complete cache, byte for byte where this machine is of its numeric class.

    One wrong bit of manifest or ledger is found without any images; HDF5's own bytes are made anew.
    Damaged rows are computed again from the dataset and the weights, as a partial file goes on:
    while that lasts the file is named `.h5.partial`, and a run that is stopped goes on with the
    same call.

    Args:
        path: The cache; its `.h5.partial` if an earlier repair or extraction was stopped.
        dataset: Where its images are now; None takes what the cache names.
        weights: What fills the trunk; None takes what the cache names, which for a file is only
            its name.
        data_dir: Folder of downloaded datasets.
        device: "auto", "cpu", "cuda" or "cuda:N".
        n_workers: Decoding processes for image files; None means one a core, at most 8.
        mix_numerics: Compute the damaged rows though this machine is of another numeric class, so
            that their last digits may differ.
        on_progress: Called while rows are checked and computed.
        on_note: Told each choice.

    Returns:
        What was mended and computed.

    Raises:
        CorruptError: If the structure is damaged beyond mending; copy or extract it again.
        MismatchError: If images or weights are others than the cache was made from.
        FeatcacheError: Whatever else `extract` raises; the file is then as it was, but for what
            was mended.
    """
    path = _final(Path(path))
    progress, note = on_progress or silent, on_note or silent
    with locked(path):
        present = path if path.exists() else partial_path(path)
        mended = tuple(mend_structure(present))
        for what in mended:
            note(f"mended: {what}")
        state = read_state(present)
        report = verify_cache(
            present, on_progress=lambda i, n: progress(Progress("check", "", i, n))
        )
        if report.is_sound and not report.n_missing:
            if present != path:  # a stopped repair that had only its name left to do
                _rename(present, path)
            return RepairReport(path, mended, 0, report.n_rows)
        note(_told(report))
        plan = _plan(
            state,
            path,
            asked={
                "dataset": dataset,
                "weights": weights,
                "data_dir": os.fspath(data_dir),
                "device": device,
                "n_workers": n_workers,
                "mix_numerics": mix_numerics,
            },
            progress=progress,
            note=note,
        )
        with _as_partial(path):
            [made] = make_caches([plan], progress=progress, note=note)
    return RepairReport(path, mended, made.n_rows_computed, report.n_rows)


def _final(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".partial" else path


@contextmanager
def _as_partial(path: Path) -> Iterator[None]:
    """Name the cache as a file that is being written; on failure its own name comes back."""
    partial = partial_path(path)
    was_complete = path.exists()
    if was_complete:
        _rename(path, partial)
    try:
        yield
    finally:
        if was_complete and partial.exists():
            _rename(partial, path)


def _rename(path: Path, to: Path) -> None:
    with named_failures(path, kept="Its content is as it was."):
        path.replace(to)
        sync_folder(path.parent)


def _told(report: VerifyReport) -> str:
    damaged = [
        f"{damage.split} rows {damage.first_row} to {damage.last_row}" for damage in report.damages
    ]
    if report.n_missing:
        damaged.append(f"{report.n_missing} blocks that are not written")
    return f"to be computed again: {', '.join(damaged)}"


def _plan(
    state: CacheState,
    path: Path,
    *,
    asked: Mapping[str, Any],
    progress: ProgressCallback,
    note: NoteCallback,
) -> Plan:
    """Plan the extraction that made the cache, for the file where it is now."""
    spec = _spec_of(state, path, asked)
    plan = make_plan(spec, on_progress=progress, on_note=note)
    require_identity(path, state.manifest.identity, plan.identity)
    return replace(plan, path=path)


def _spec_of(state: CacheState, path: Path, asked: Mapping[str, Any]) -> ExtractSpec:
    identity, provenance = state.manifest.identity, state.manifest.provenance
    preprocess = Preprocess.from_json(identity["preprocess"])
    is_pixels = identity["backbone"] == PIXELS
    made: dict[str, Any] = {
        "dataset": provenance["dataset"],
        "limit": provenance["limit"],
        "backbone": identity["backbone"],
        "image_size": preprocess.out_size[0],
        "batch_size": state.manifest.numerics.get("batch_size"),
        **_weights_of(str(provenance["weights"]), path, asked["weights"]),
    }
    if not is_pixels:
        is_notebook = preprocess == Preprocess.notebook(preprocess.out_size[0])
        made |= {
            "bn": "frozen" if identity["bn"] == "frozen" else "adapted",
            "preprocess": "notebook" if is_notebook else "weights",
            "precision": identity["precision"],
            "store_dtype": identity["store_dtype"],
        }
    made["cache_dir"] = str(path.parent.parent)
    given = {n: v for n, v in asked.items() if v is not None and n != "weights"}
    return ExtractSpec(**{**made, **given})


def _weights_of(label: str, path: Path, asked: str | None) -> dict[str, Any]:
    """Say again which weights made a cache; its identity holds what they are, not where."""
    random = _RANDOM.fullmatch(label)
    if asked is not None:
        return {"weights": asked}
    if random is not None:
        return {"weights": "random", "seed": int(random[1])}
    if label == "none":
        return {}
    if "." in label:
        raise UsageError(
            f"{path} was made with the weights file {label!r}, and does not know where that is. "
            f"Nothing was computed. Say it with --weights FILE."
        )
    return {"weights": label}
