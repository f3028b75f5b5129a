"""One run of `extract`, decided: its backbone made ready, and the file that it fills."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featcache.backbones.batchnorm import batch_norm_statistics
from featcache.backbones.engines.engine import engine_of
from featcache.backbones.engines.memory_format import settle_memory_format
from featcache.backbones.engines.trial import recompile, settle_compiled
from featcache.backbones.load import (
    Backbone,
)
from featcache.backbones.runner import BackboneRunner
from featcache.config import ExtractSpec
from featcache.core.device import numeric_class, pick_batch_size, pick_n_workers
from featcache.core.identity import differing_fields
from featcache.core.paths import portable
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import Choice, NoteCallback
from featcache.errors import MismatchError, clipped
from featcache.extraction.job import PIXELS_BATCH_SIZE, Job, Progress, ProgressCallback
from featcache.images.batches import image_shape
from featcache.images.splits import ArrayImages, Dataset
from featcache.store import (
    CacheWriter,
    FilePlan,
    SplitPlan,
    SplitRows,
    encode_id,
    rows_per_block,
)
from featcache.version import __version__

STORE_DTYPES = {"float32": "<f4", "float16": "<f2", "uint8": "|u1"}


@dataclass(frozen=True, eq=False)
class Plan:
    """One run of `extract`, decided before its first row.

    Attributes:
        spec: What was asked for.
        dataset: The images, limited as asked.
        preprocess: Image to input.
        backbone: The backbone with its weights; its module is None for `pixels`.
        nbytes_per_image: Activations that one image needs at a time.
        gflop: Work of the backbone for one image; 0 for `pixels`.
        device: "cpu" or "cuda:N".
        precision: "fp32", "tf32", "bf16", "fp16", or "exact" for `pixels`.
        store_dtype: "float32", "float16", or "uint8" for `pixels`.
        row_shape: Shape of one row.
        identity: What the fingerprint is the hash of.
        path: Where the cache will be.
        choices: What was chosen automatically, with the reason.
    """

    spec: ExtractSpec
    dataset: Dataset
    preprocess: Preprocess
    backbone: Backbone
    nbytes_per_image: int
    gflop: float
    device: str
    precision: str
    store_dtype: str
    row_shape: tuple[int, ...]
    identity: Mapping[str, Any]
    path: Path
    choices: dict[str, str]

    @property
    def has_backbone(self) -> bool:
        """Whether there is a backbone to run; `pixels` has none."""
        return self.backbone.module is not None

    @property
    def n_rows(self) -> int:
        """Rows of all splits."""
        return sum(len(split) for split in self.dataset.splits.values())

    def rows(self) -> dict[str, SplitRows]:
        """Labels and ids, which the file holds from the start."""
        return {n: SplitRows(s.labels, s.ids) for n, s in self.dataset.splits.items()}

    def new_job(self, *, on_progress: ProgressCallback, on_note: NoteCallback) -> Job:
        """Choose the batch size, by a probe of the backbone, and make the job of a new file."""
        if not self.has_backbone:
            return self._job(PIXELS_BATCH_SIZE, on_progress, on_note)
        asked = self.spec.batch_size
        if asked is None:
            choice = pick_batch_size(self.device, nbytes_per_image=self.nbytes_per_image)
        else:
            choice = Choice(asked, "asked for")
        job = self._job(choice.value, on_progress, on_note)
        assert job.runner is not None, "a backbone has a runner"
        shape = self._image_shape()
        on_progress(Progress("probe", "", 0, 0))
        probed = job.runner.probe(shape, may_halve=asked is None)
        if probed != choice.value:
            choice = Choice(probed, f"{choice.value} did not fit into memory")
        self.choices["batch_size"] = f"{choice.value} ({choice.why})"
        on_note(f"batch size {choice.value}: {choice.why}")
        if self.device != "cpu":
            layout = settle_memory_format(job.runner, shape)
            self.choices["memory_format"] = f"{layout.value} ({layout.why})"
            on_note(f"memory format {layout.value}: {layout.why}")
        on_progress(Progress("engines", "", 0, 0))
        compiler = settle_compiled(
            job.runner,
            image_shape=shape,
            n_rows=self.n_rows,
            asked=self.spec.compile,
            backbone=self.spec.backbone,
            on_note=on_note,
        )
        how = "eager" if compiler.value is None else "compiled"
        self.choices["trunk"] = f"{how} ({compiler.why})"
        on_note(f"backbone {how}: {compiler.why}")
        return replace(job, numerics=self._numerics(probed, job.runner, compiler.value))

    def resumed_job(
        self, writer: CacheWriter, *, on_progress: ProgressCallback, on_note: NoteCallback
    ) -> Job:
        """Make the job that goes on with a partial file, as its first run did.

        Its batch grid, and whether its backbone is compiled, are those of the first run.

        Raises:
            MismatchError: If this run is of another numeric class, unless that was allowed.
        """
        stored = writer.manifest.numerics
        batch_size = self.spec.batch_size or stored.get("batch_size", PIXELS_BATCH_SIZE)
        job = self._job(batch_size, on_progress, on_note)
        asked, before = self.spec.compile, engine_of(stored.get("compiler", "never"))
        if "never" not in (asked, before) and asked not in ("auto", before):
            raise MismatchError(
                f"{writer.file} was begun with --compile {clipped(before)}, not {asked}: last "
                f"digits may differ. Nothing was changed. Leave --compile out to go on as it was "
                f"begun, or remove the file (featcache cache rm {shlex.quote(str(writer.file))})."
            )
        if job.runner is not None and self.device != "cpu":
            if stored.get("memory_format") == "contiguous":
                job.runner.lay_out("contiguous")
            job = replace(job, numerics=self._numerics(batch_size, job.runner))
        if "compiler" in stored and job.runner is not None and asked != "never":
            on_progress(Progress("engines", "", 0, 0))
            compiler = recompile(job.runner, self._image_shape(), stored["compiler"], on_note)
            job = replace(job, numerics=self._numerics(batch_size, job.runner, compiler))
        differing = differing_fields(stored, job.numerics)
        if differing and not self.spec.mix_numerics:
            raise MismatchError(
                f"{writer.file} was begun by another numeric class, whose last digits "
                f"may differ: {'; '.join(differing)}. Nothing was changed. Go on as it was begun, "
                f"or allow both in one file with --mix-numerics."
            )
        return job

    def file_plan(self, job: Job) -> FilePlan:
        """Describe the file that is to be made."""
        row_nbytes = np.dtype(STORE_DTYPES[self.store_dtype]).itemsize * math.prod(self.row_shape)
        return FilePlan(
            identity=self.identity,
            numerics=job.numerics,
            provenance=self._provenance(),
            class_names=self.dataset.class_names,
            rows_per_block=rows_per_block(row_nbytes, job.batch_size, gflop=self.gflop),
            splits=self.splits(),
            statistics=self.statistics(),
        )

    def splits(self) -> dict[str, SplitPlan]:
        """Describe the splits of the file; the identity leaves no choice."""
        return {
            name: SplitPlan(
                n_rows=len(split),
                feature_shape=self.row_shape,
                feature_dtype=STORE_DTYPES[self.store_dtype],
                id_nbytes=max(len(encode_id(i)) for i in split.ids),
                has_reasons=not isinstance(split.images, ArrayImages),
            )
            for name, split in self.dataset.splits.items()
        }

    def statistics(self) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
        """Name the backbone's statistics in the file, with their shapes; None if it is frozen."""
        if self.spec.bn != "adapted":
            return None
        assert self.backbone.module is not None, "pixels have no BatchNorm"
        tensors = batch_norm_statistics(self.backbone.module).items()
        return tuple((name, tuple(tensor.shape)) for name, tensor in tensors)

    def _image_shape(self) -> tuple[int, int, int]:
        return image_shape(next(iter(self.dataset.splits.values())), self.preprocess)

    def _job(self, batch_size: int, on_progress: ProgressCallback, on_note: NoteCallback) -> Job:
        workers = pick_n_workers(self.spec.n_workers, device=self.device)
        runner = None
        if self.backbone.module is not None:
            runner = BackboneRunner(
                self.backbone.module,
                preprocess=self.preprocess,
                is_resized=not self.dataset.is_in_memory,
                device=self.device,
                precision=self.precision,
                batch_size=batch_size,
            )
        return Job(
            dataset=self.dataset,
            preprocess=self.preprocess,
            runner=runner,
            store_dtype=self.store_dtype,
            n_workers=workers.value,
            numerics=self._numerics(batch_size, runner),
            on_progress=on_progress,
            on_note=on_note,
            skip_undecodable=self.spec.skip_undecodable,
        )

    def _numerics(
        self, batch_size: int, runner: BackboneRunner | None, compiler: str | None = None
    ) -> dict[str, Any]:
        # Pillow 13 resizes tall images in another order of passes than Pillow 12; its minor
        # versions bring other decoders along.
        release = version("pillow")
        pillow = {"pillow": release.partition(".")[0] if self.dataset.is_in_memory else release}
        decoders = pillow | (
            {"pillow_heif": version("pillow_heif")} if self.dataset.has_heic else {}
        )
        if runner is None:
            return decoders
        return decoders | numeric_class(
            device=self.device,
            precision=self.precision,
            batch_size=batch_size,
            compiler=compiler,
            memory_format=runner.memory_format,
        )

    def _provenance(self) -> dict[str, Any]:
        return {
            "dataset": portable(self.dataset.name),
            "limit": self.spec.limit,
            "weights": portable(self.backbone.weights),
            "featcache": __version__,
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
            "pillow": version("pillow"),
            **self.dataset.told,
        }
