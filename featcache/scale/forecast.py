"""What an extraction will cost, before it starts; nothing here grows with the number of rows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from featcache.backbones.describe import describe_backbone
from featcache.backbones.families import family_of
from featcache.config import ExtractSpec
from featcache.config.scale_specs import MOST_SHARES, ForecastSpec, ShareSpec, split_share
from featcache.core.arguments import option_name
from featcache.core.backbone_kinds import backbone_slug
from featcache.core.dataset_names import FOLDER, OF_PATHS
from featcache.core.options import AUTO
from featcache.core.preprocess import Preprocess
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.extraction.opening import check_names, open_images
from featcache.extraction.pace import current_pace
from featcache.images.batches import image_shape
from featcache.images.splits import ArrayImages, Dataset
from featcache.scale.rates import Machine, rates_of_machine
from featcache.store import (
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    encode_id,
    extract_command,
)
from featcache.store.hdf5_file import largest_nbytes

_HOURS_OF_A_SHARE = 2
_HOUR_S = 3600
_ID_NBYTES = 48  # of a dataset that is not listed
_MOST_LISTED = 30_000_000
_SOME_DATASET = f"{FOLDER}/path/to/images"
_DTYPES = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class Forecast:
    """What an extraction will cost.

    Attributes:
        rows: Images.
        n_features: D.
        nbytes: Size of the cache, at most.
        rows_per_block: Rows of a block.
        n_blocks: Blocks.
        n_shares: Shares that take about two hours each, or those that were asked for; 1 for work
            that one machine does in that time.
        rows_per_share: Rows of the largest share, at most.
        nbytes_per_share: Size of its part, about.
        device: Where the backbone runs; "cpu" where no network runs.
        images_per_s: Images that one device computes a second; None where no network runs.
        decoded_per_s: Image files that one core decodes a second; None where none is decoded.
        cores: Cores of this machine.
        cores_per_device: Cores that decode as fast as a device computes.
        rate: Images a second of one machine like this, with one device.
        device_hours: Hours of one such machine, for all rows.
        hours_per_share: Hours of one share.
        read_per_s: Bytes of image files that one machine reads a second.
        written_per_s: Bytes of features that it writes a second.
        bound_by: What is slowest: "the backbone" or "decoding".
        array: The shares, as SLURM's --array takes them.
        command: What computes a share; where one is enough, the whole.
        remarks: What limits this forecast, in sentences.
        seconds: Wall time of the forecast, without opening the dataset, describing the backbone,
            and measuring.
    """

    rows: int
    n_features: int
    nbytes: int
    rows_per_block: int
    n_blocks: int
    n_shares: int
    rows_per_share: int
    nbytes_per_share: int
    device: str
    images_per_s: float | None
    decoded_per_s: float | None
    cores: int
    cores_per_device: float
    rate: float
    device_hours: float
    hours_per_share: float
    read_per_s: float
    written_per_s: float
    bound_by: str
    array: str
    command: str
    remarks: tuple[str, ...]
    seconds: float


@starting(*ANY_START)
def forecast(
    spec: ExtractSpec,
    *,
    share: str | None = ShareSpec.share,
    rows: int | None = ForecastSpec.rows,
    images_per_s: float | None = ForecastSpec.images_per_s,
    decoded_per_s: float | None = ForecastSpec.decoded_per_s,
    image_nbytes: int | None = ForecastSpec.image_nbytes,
    on_note: NoteCallback | None = None,
) -> Forecast:
    """Say what an extraction will cost, from rates that are given or measured for seconds here.

    Args:
        spec: What is to be extracted.
        share: As in `ShareSpec`; the number of shares is taken from it.
        rows: As in `ForecastSpec`, and those below likewise.
        on_note: Told what is measured.

    Raises:
        FeatcacheError: As `extract` raises them for its options.

    Example:
        >>> import featcache
        >>> spec = featcache.ExtractSpec(dataset="digits", backbone="pixels", image_size=32)
        >>> found = featcache.forecast(spec, rows=10**9, decoded_per_s=500, image_nbytes=110_000)
        >>> found.n_blocks, found.bound_by
        (976563, 'decoding')
    """
    note = on_note or silent
    asked = ForecastSpec(
        rows=rows,
        images_per_s=images_per_s,
        decoded_per_s=decoded_per_s,
        image_nbytes=image_nbytes,
    )
    n_shares = None if share is None else split_share(share)[1]
    check_names(spec)
    dataset = open_images(spec, on_note=note) if asked.rows is None else None
    family = family_of(spec.backbone)
    _refuse_unused(asked, dataset, runs_network=family.runs_network)
    size = spec.image_size or family.usual_size(spec.backbone)
    info = describe_backbone(spec.backbone, size, layer=spec.layer, pool=spec.pool)
    preprocess = _preprocess(spec, size)
    machine = rates_of_machine(
        spec, asked, dataset, preprocess, info.activation_bytes_per_image, note
    )

    started = time.perf_counter()
    shape: tuple[int, ...] = (info.n_features,)
    dtype = _DTYPES[spec.store_dtype]
    if not family.runs_network:
        first = None if dataset is None else next(iter(dataset.splits.values()))
        shape = (*preprocess.out_size, 3) if first is None else image_shape(first, preprocess)
        dtype = "|u1"
    plan = _file_plan(spec, asked.rows, dataset, shape, dtype, machine.batch_size, info.gflop)
    return _forecast(spec, asked, plan, machine, n_shares, started)


def _refuse_unused(asked: ForecastSpec, dataset: Dataset | None, *, runs_network: bool) -> None:
    """Refuse rates of what is not done.

    Raises:
        UsageError: Naming the option.
    """
    if asked.images_per_s is not None and not runs_network:
        raise UsageError(
            f"{option_name('images_per_s')} is for networks, and this backbone runs none. Nothing "
            f"was measured. Leave it out."
        )
    for name in ("decoded_per_s", "image_nbytes"):
        if getattr(asked, name) is not None and dataset is not None and dataset.is_in_memory:
            raise UsageError(
                f"{option_name(name)} is for image files, but the images of {dataset.name} come as "
                f"arrays. Nothing was measured. Leave it out."
            )


def _preprocess(spec: ExtractSpec, size: int) -> Preprocess:
    family = family_of(spec.backbone)
    asked = family.usual_preprocess if spec.preprocess == AUTO else spec.preprocess
    if asked == "notebook":
        return Preprocess.notebook(size)
    return family.preprocess(spec.backbone, spec.weights, size)


def _file_plan(
    spec: ExtractSpec,
    rows: int | None,
    dataset: Dataset | None,
    shape: tuple[int, ...],
    dtype: str,
    batch_size: int,
    gflop: float,
) -> FilePlan:
    """Describe the file; of a dataset that is not opened, as one labelled split of image files."""
    views = spec.drawn_views
    n_values = views.n * math.prod(shape) * {"<f4": 4, "<f2": 2, "|u1": 1}[dtype]
    widths: Mapping[str, tuple[int, int, bool, bool]]
    if dataset is None:
        assert rows is not None, "either is there"
        widths = {"train": (rows, _ID_NBYTES, True, True)}
    else:
        widths = {
            name: (
                len(split),
                max(len(encode_id(i)) for i in split.ids),
                not isinstance(split.images, ArrayImages),
                split.labels is not None,
            )
            for name, split in dataset.splits.items()
        }
    return FilePlan(
        identity=Identity.from_json({"backbone": backbone_slug(spec.backbone), **views.to_json()}),
        numerics=NumericClass.from_json({}),
        provenance=Provenance.from_json({"dataset": spec.dataset}),
        class_names=() if dataset is None else dataset.class_names,
        rows_per_block=current_pace().rows_per_block(n_values, batch_size, gflop=views.n * gflop),
        splits={
            name: SplitPlan(
                n, views.shape_of(name, shape), dtype, id_nbytes, has_reasons, has_labels, True
            )
            for name, (n, id_nbytes, has_reasons, has_labels) in widths.items()
        },
    )


def _rate(machine: Machine, n_views: float) -> tuple[float, str, float]:
    """Give images a second of a machine, what is slowest, and the cores that a device needs.

    Each image is decoded once, and runs through the backbone in `n_views` views on average.
    """
    computed = (machine.images_per_s or math.inf) / n_views
    per_core = math.inf if machine.decoding is None else machine.decoding.images_per_s
    decoded = machine.cores * per_core
    bound_by = "decoding" if decoded < computed else "the backbone"
    if math.isinf(computed) and math.isinf(decoded):
        return math.inf, "the disk", 0.0
    cores = 0.0 if math.isinf(per_core) or math.isinf(computed) else computed / per_core
    if machine.device == "cpu":  # both on the same cores, one after the other
        return 1 / (1 / computed + 1 / decoded), bound_by, cores
    return min(computed, decoded), bound_by, cores


def _remarks(spec: ExtractSpec, asked: ForecastSpec, machine: Machine, rows: int) -> list[str]:
    """Say what limits the forecast."""
    remarks = []
    if rows > _MOST_LISTED:
        remarks.append(
            f"A process lists the whole dataset, ids included, and {rows:,} rows are more than "
            f"the {_MOST_LISTED:,} that fit into the memory of usual machines. Make a cache for "
            f"each part of the dataset."
        )
    if asked.rows is not None and not spec.dataset.startswith(OF_PATHS):
        remarks.append(
            f"With --rows no dataset is opened, and the images are counted as image files. Replace "
            f"{_SOME_DATASET} in the command by yours."
            if _is_unnamed(spec)
            else "With --rows no dataset is opened, and the images are counted as image files."
        )
    if machine.device == "cpu" and machine.images_per_s is not None:
        remarks.append("On a CPU the backbone and decoding share the cores, which is counted.")
    return remarks


def _is_unnamed(spec: ExtractSpec) -> bool:
    return spec.dataset == ExtractSpec.dataset


def _command(spec: ExtractSpec, asked: ForecastSpec, n_shares: int) -> str:
    """Write what computes a share, or the whole where one is enough."""
    said = asdict(spec)
    if asked.rows is not None and _is_unnamed(spec):
        said["dataset"] = _SOME_DATASET
    command = extract_command(said)
    return f"{command} --share /{n_shares}" if n_shares > 1 else command


def _forecast(
    spec: ExtractSpec,
    asked: ForecastSpec,
    plan: FilePlan,
    machine: Machine,
    n_shares: int | None,
    started: float,
) -> Forecast:
    draft = plan.draft()
    rows = sum(split.n_rows for split in plan.splits.values())
    views = spec.drawn_views
    n_images = sum(split.n_rows * views.n_of(name) for name, split in plan.splits.items())
    rate, bound_by, cores_per_device = _rate(machine, n_images / rows)
    hours = rows / rate / _HOUR_S
    if n_shares is None:
        n_shares = max(1, min(math.ceil(hours / _HOURS_OF_A_SHARE), draft.n_blocks, MOST_SHARES))
    rows_per_share = min(rows, -(-draft.n_blocks // n_shares) * draft.rows_per_block)
    row_nbytes = sum(e.nbytes for s in draft.splits.values() for e in s.columns.values()) / rows
    return Forecast(
        rows=rows,
        n_features=draft.n_features,
        nbytes=largest_nbytes(plan),
        rows_per_block=draft.rows_per_block,
        n_blocks=draft.n_blocks,
        n_shares=n_shares,
        rows_per_share=rows_per_share,
        nbytes_per_share=round(rows_per_share * row_nbytes),
        device=machine.device,
        images_per_s=machine.images_per_s,
        decoded_per_s=None if machine.decoding is None else machine.decoding.images_per_s,
        cores=machine.cores,
        cores_per_device=cores_per_device,
        rate=rate,
        device_hours=hours,
        hours_per_share=rows_per_share / rate / _HOUR_S,
        read_per_s=0.0 if machine.decoding is None else rate * machine.decoding.nbytes,
        written_per_s=rate * row_nbytes,
        bound_by=bound_by,
        array=f"0-{n_shares - 1}",
        command=_command(spec, asked, n_shares),
        remarks=tuple(_remarks(spec, asked, machine, rows)),
        seconds=time.perf_counter() - started,
    )
