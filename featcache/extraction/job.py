"""A plan being carried out: its backbone on its device, reading images and computing rows."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from featcache.backbones.engines.engine import engine_of
from featcache.backbones.engines.memory_format import settle_memory_format
from featcache.backbones.engines.trial import recompile, settle_compiled
from featcache.backbones.in_flight import InFlight
from featcache.backbones.runner import BackboneRunner
from featcache.core.device import numeric_class, pick_batch_size, pick_n_workers
from featcache.core.identity import differing_fields
from featcache.core.paths import portable
from featcache.core.reporting import Choice, NoteCallback
from featcache.errors import MismatchError, clipped
from featcache.extraction.pace import Pace, current_pace
from featcache.extraction.plan import Plan
from featcache.extraction.progress import Progress, ProgressCallback
from featcache.images.augment import SplitViews
from featcache.images.batches import ImageBatch, Span, after_loading, load_batches
from featcache.images.splits import Split
from featcache.store import CacheWriter, FilePlan, NumericClass, Provenance
from featcache.version import __version__


@dataclass(frozen=True, eq=False)
class Job:
    """All that computes the rows of a plan.

    Attributes:
        plan: What was decided.
        runner: The backbone; None stores the images themselves.
        n_workers: Decoding processes.
        numerics: The numeric class of this run.
        is_resumed: Whether it goes on with a partial file.
        on_progress: Called after each batch.
        on_note: Told what the run met and went on from.
        pace: How large its portions are.
        choices: What was chosen automatically, with the reason, beside the plan's choices.
    """

    plan: Plan
    runner: BackboneRunner | None
    n_workers: int
    numerics: NumericClass
    is_resumed: bool
    on_progress: ProgressCallback
    on_note: NoteCallback
    pace: Pace = field(default_factory=current_pace)
    choices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        plan: Plan,
        *,
        on_progress: ProgressCallback,
        on_note: NoteCallback,
    ) -> Job:
        """Begin a new file: choose the batch size by a probe of the backbone, and its engine."""
        if not plan.has_backbone:
            return cls._of(
                plan, current_pace().pixels_batch_size, on_progress, on_note, is_resumed=False
            )
        asked = plan.spec.batch_size
        if asked is None:
            nbytes = plan.info.activation_bytes_per_image
            choice = pick_batch_size(plan.device, nbytes_per_image=nbytes)
        else:
            choice = Choice(asked, "asked for")
        job = cls._of(plan, choice.value, on_progress, on_note, is_resumed=False)
        assert job.runner is not None, "a network has a runner"
        on_progress(Progress("probe", "", 0, 0))
        probed = job.runner.probe(plan.image_shape, may_halve=asked is None)
        if probed != choice.value:
            choice = Choice(probed, f"{choice.value} did not fit into memory")
        choices = {"batch_size": choice.recorded}
        on_note(f"batch size {choice.told}")
        if plan.device != "cpu":
            layout = settle_memory_format(job.runner, plan.image_shape)
            choices["memory_format"] = layout.recorded
            on_note(f"memory format {layout.told}")
        on_progress(Progress("engines", "", 0, 0))
        compiler = settle_compiled(
            job.runner,
            image_shape=plan.image_shape,
            n_rows=plan.n_images,
            asked=plan.spec.compile,
            backbone=_name_of_trials(plan),
            on_note=on_note,
        )
        how = "eager" if compiler.value is None else "compiled"
        choices["trunk"] = f"{how} ({compiler.why})"
        on_note(f"backbone {how}: {compiler.why}")
        return replace(job, numerics=_numerics(plan, job.runner, compiler.value), choices=choices)

    @classmethod
    def resume(
        cls,
        plan: Plan,
        writer: CacheWriter,
        *,
        on_progress: ProgressCallback,
        on_note: NoteCallback,
    ) -> Job:
        """Go on with a partial file as its first run did.

        Its batch grid, and whether its backbone is compiled, are those of the first run.

        Raises:
            MismatchError: If this run is of another numeric class, unless that was allowed.
        """
        stored = writer.manifest.numerics
        batch_size = plan.spec.batch_size or stored.get(
            "batch_size", current_pace().pixels_batch_size
        )
        job = cls._of(plan, batch_size, on_progress, on_note, is_resumed=True)
        asked, before = plan.spec.compile, engine_of(stored.get("compiler", "never"))
        if asked not in ("auto", "never", before):
            raise MismatchError(
                f"{writer.file} was begun with --compile {clipped(before)}, not {asked}: last "
                f"digits may differ. Nothing was changed. Leave --compile out to go on as it was "
                f"begun, or remove the file (featcache cache rm {shlex.quote(str(writer.file))})."
            )
        if job.runner is not None:
            compiler = None
            if plan.device != "cpu" and stored.get("memory_format") == "contiguous":
                job.runner.lay_out("contiguous")
            if "compiler" in stored and asked != "never":
                on_progress(Progress("engines", "", 0, 0))
                compiler = recompile(job.runner, plan.image_shape, stored["compiler"], on_note)
            job = replace(job, numerics=_numerics(plan, job.runner, compiler))
        differing = differing_fields(stored, job.numerics)
        if differing and not plan.spec.mix_numerics:
            raise MismatchError(
                f"{writer.file} was started with different hardware, settings or library versions "
                f"({'; '.join(differing)}). Last digits may differ. Nothing was changed. Use the "
                f"same machine and settings, or allow both in one file with --mix-numerics."
            )
        return job

    @classmethod
    def _of(
        cls,
        plan: Plan,
        batch_size: int,
        on_progress: ProgressCallback,
        on_note: NoteCallback,
        *,
        is_resumed: bool,
    ) -> Job:
        n_workers = pick_n_workers(plan.spec.n_workers, device=plan.device).value
        runner = None
        if plan.backbone.module is not None:
            split = next(iter(plan.dataset.splits.values()))
            prepare = after_loading(split, plan.preprocess)
            if plan.are_images_prepared:
                prepare = plan.preprocess.after_resize
            runner = BackboneRunner(
                plan.backbone.module,
                preprocess=prepare,
                device=plan.device,
                precision=plan.precision,
                batch_size=batch_size,
            )
        numerics = _numerics(plan, runner)
        return cls(plan, runner, n_workers, numerics, is_resumed, on_progress, on_note)

    @property
    def batch_size(self) -> int:
        """Rows of the batch grid."""
        return self.pace.pixels_batch_size if self.runner is None else self.runner.batch_size

    @property
    def n_ahead(self) -> int:
        """Batches in flight beyond the one whose rows are taken."""
        of_device = 0 if self.runner is None else self.runner.n_ahead
        return of_device if self.pace.n_ahead is None else self.pace.n_ahead

    def file_plan(self) -> FilePlan:
        """Describe the file that is to be made."""
        plan = self.plan
        return FilePlan(
            identity=plan.identity,
            numerics=self.numerics,
            provenance=provenance_of(plan),
            class_names=plan.dataset.class_names,
            rows_per_block=self.pace.rows_per_block(
                plan.row_nbytes, self.batch_size, gflop=plan.info.gflop * plan.views.n
            ),
            splits=plan.splits(),
            statistics=plan.statistics(),
            reference=plan.reference(),
        )

    def load(
        self,
        split: Split,
        spans: Iterable[Span],
        *,
        batch_size: int | None = None,
        may_skip: bool = True,
        only_plain: bool = False,
    ) -> Generator[ImageBatch, None, None]:
        """Read these spans of a split, a batch for each view.

        Args:
            split: The images.
            spans: Their rows.
            batch_size: None of them exceeds it; each is asked for when its turn comes. None looks
                through all of them.
            may_skip: Whether images may be left out; else every one must be decoded here.
            only_plain: Leave out all views but the plain one.
        """
        views, n_views = None, 1 if only_plain else self.plan.views.n_of(split.name)
        if self.plan.are_images_prepared:
            views = SplitViews(self.plan.views, n_views, split.ids)
        return load_batches(
            split,
            spans,
            preprocess=self.plan.preprocess,
            n_workers=self.n_workers,
            batch_size=batch_size,
            may_skip=may_skip and self.plan.spec.skip_undecodable,
            views=views,
            on_note=self.on_note,
        )

    def host_rows(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Allocate a buffer for rows of this shape and storage type (numpy's name)."""
        room = torch.from_numpy(np.empty(shape, dtype))
        return room if self.runner is None else self.runner.host_rows(shape, room.dtype)

    def launch(self, split: Split, batch: ImageBatch, out: Tensor) -> InFlight:
        """Begin a batch, whose rows come into `out`; those of unreadable images are zeros."""
        if self.runner is None:
            out.numpy()[...] = batch.images
            return InFlight(out)
        ids = split.ids[batch.span.start : batch.span.stop]
        return self.runner.launch(batch.images, out=out, blank=list(batch.reasons), ids=ids)


def _name_of_trials(plan: Plan) -> str:
    """Name what an engine is tried on: another layer is another network."""
    spec, backbone = plan.spec, plan.identity.backbone
    return backbone if spec.layer is None else f"{backbone} {spec.layer} {plan.identity['pool']}"


def _numerics(
    plan: Plan, runner: BackboneRunner | None, compiler: str | None = None
) -> NumericClass:
    # Pillow 13 resizes tall images in another order of passes than Pillow 12; its minor
    # versions bring other decoders along.
    release = version("pillow")
    decoders = {"pillow": release.partition(".")[0] if plan.dataset.is_in_memory else release}
    if plan.has_heic:
        decoders["pillow_heif"] = version("pillow_heif")
    if runner is None:
        return NumericClass.from_json(decoders)
    of_network = numeric_class(
        device=plan.device,
        precision=plan.precision,
        batch_size=runner.batch_size,
        compiler=compiler,
        memory_format=runner.memory_format,
    )
    return NumericClass.from_json(decoders | of_network)


def provenance_of(plan: Plan) -> Provenance:
    """Say where a cache of this plan is from, were it made now."""
    said = {
        "dataset": portable(plan.dataset.name),
        "limit": plan.spec.limit,
        "weights": portable(plan.backbone.weights),
        **{name: portable(said) for name, said in plan.backbone.told.items()},
        **library_versions(),
        **plan.dataset.told,
    }
    return Provenance.from_json(said)


def library_versions() -> dict[str, str]:
    """Name the versions, installed here, of what every network's rows are computed by."""
    return {
        "featcache": __version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "pillow": version("pillow"),
    }
