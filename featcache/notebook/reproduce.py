"""Run the notebook's five systems from caches, and set their figures beside the notebook's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.families import check_backbone_options
from featcache.config import NOTEBOOK_SIZE, ExtractSpec, RunSpec, TrainSpec
from featcache.core.arguments import several, text
from featcache.core.backbone_names import PIXELS, RANDOM
from featcache.core.dataset_names import dataset_name
from featcache.core.identity import fingerprint
from featcache.core.paths import portable
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.evaluation.metrics import LOSSES, SHARES, Spread
from featcache.extraction.extract import extract
from featcache.images.datasets import dataset_slug
from featcache.notebook.reproduce_table import SystemResult, beside, markdown_table
from featcache.store import named_failures, open_cache, replace_file
from featcache.training.notebook_systems import DATASET, ReproduceSpec, System
from featcache.training.train_head import train_head
from featcache.training.train_result import TrainResult

if TYPE_CHECKING:
    from featcache.extraction.progress import ProgressCallback
    from featcache.training.trainer import TrainProgressCallback


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` did.

    Attributes:
        dataset: The dataset.
        systems: One line for each system.
        markdown: The table as a file.
        json: The same as JSON.
    """

    dataset: str
    systems: Sequence[SystemResult]
    markdown: Path
    json: Path


@starting(*ANY_START)
def reproduce(
    dataset: str | os.PathLike[str] = ExtractSpec.dataset,
    *,
    only: Sequence[str] = ReproduceSpec.only,
    backbone_for: Mapping[str, str] | None = ReproduceSpec.backbone_for,
    weights: str | os.PathLike[str] = ExtractSpec.weights,
    bn: str = ExtractSpec.bn,
    image_size: int | None = ExtractSpec.image_size,
    device: str = ExtractSpec.device,
    limit: int | None = ExtractSpec.limit,
    seed: int = TrainSpec.seed,
    seeds: int = RunSpec.seeds,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    data_dir: str | os.PathLike[str] = ExtractSpec.data_dir,
    runs_dir: str | os.PathLike[str] = RunSpec.runs_dir,
    on_progress: ProgressCallback | None = None,
    on_train_progress: TrainProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> Reproduction:
    """Extract, train and test the notebook's systems; what is done is not done again.

    The table is written after each system, so a call that was stopped leaves what it has. The
    other arguments are those of `ExtractSpec` and `TrainSpec`.

    Args:
        dataset: The notebook's, or any other.
        only: Names of systems; empty is all five.
        backbone_for: Backbones that stand in for the notebook's, e.g. {"vgg16": "mobilenet_v2"}.
        weights: Of every backbone.
        bn: A backbone without BatchNorm is the same function in both modes.
        seed: The first seed of the heads.
        seeds: Heads per system.
        on_progress: Called after each batch of an extraction.
        on_train_progress: Called after every few steps of a training.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UnknownNameError: If there is no such system or backbone.
        FeatcacheError: Those of `extract` and `train_head`.
    """
    note = on_note or silent
    asked = ReproduceSpec(
        only=several(text, "--only", only),
        backbone_for=backbone_for,
    )
    spec = ExtractSpec(
        dataset=dataset_name(dataset),
        weights=text("--weights", weights),
        bn=bn,
        preprocess="notebook",
        image_size=NOTEBOOK_SIZE if image_size is None else image_size,
        limit=limit,
        device=device,
        cache_dir=text("--cache-dir", cache_dir),
        data_dir=text("--data-dir", data_dir),
    )
    heads = RunSpec(seeds=seeds, runs_dir=text("--runs-dir", runs_dir))
    seed = TrainSpec(seed=seed).seed
    table = _table(asked, spec, heads, seed)
    note(f"systems: {', '.join(system.name for system in asked.systems)}")
    backbones = [asked.backbone_of(system) for system in asked.systems]
    have_statistics = _require_weights(backbones, spec)
    for i, system in enumerate(asked.systems):
        note(f"system {i + 1} of {len(asked.systems)}: {system.name}")
        its = _extraction(spec, asked.backbone_of(system), have_statistics)
        extracted = extract(**asdict(its), on_progress=on_progress, on_note=on_note)
        if extracted.n_rows_computed:
            table.remember(extracted.fingerprint, extracted.images_per_s)
        training = asdict(replace(system.train, seed=seed))
        del training["window_rows"]  # follows from train_head's max_memory
        trained = train_head(
            extracted.path,
            **asdict(system.head),
            **training,
            recipe="notebook",
            seeds=heads.seeds,
            device=spec.device,
            cache_dir=spec.cache_dir,
            runs_dir=heads.runs_dir,
            on_progress=on_train_progress,
            on_note=on_note,
        )
        is_own = _is_the_notebooks(system, its.backbone, spec)
        table.add(_result(system, its.backbone, trained, table, is_own=is_own))
    return Reproduction(spec.dataset, tuple(table.systems), table.markdown, table.json)


def _extraction(
    spec: ExtractSpec, backbone: str, have_statistics: Mapping[str, bool]
) -> ExtractSpec:
    """Take from what was asked what a backbone has a use for."""
    if backbone == PIXELS:
        return replace(spec, backbone=PIXELS, weights=ExtractSpec.weights, bn=ExtractSpec.bn)
    bn = spec.bn if have_statistics[backbone] else ExtractSpec.bn
    return replace(spec, backbone=backbone, bn=bn)


def _table(asked: ReproduceSpec, spec: ExtractSpec, heads: RunSpec, seed: int) -> _Table:
    """Open the table of a call, which is named by what decides its figures."""
    options = {
        "dataset": portable(spec.dataset),
        "only": [system.name for system in asked.systems],
        "backbone_for": asked.backbone_for,
        "weights": portable(spec.weights),
        "bn": spec.bn,
        "image_size": spec.image_size,
        "limit": spec.limit,
        "seed": seed,
        "seeds": heads.seeds,
    }
    folder = Path(heads.runs_dir) / dataset_slug(spec.dataset)
    return _Table(folder / f"reproduce-{fingerprint(options)[:8]}", options)


class _Table:
    """The lines that are done, and what their extractions cost, on disk after each line."""

    def __init__(self, stem: Path, options: Mapping[str, Any]) -> None:
        self.markdown = stem.with_name(stem.name + ".md")
        self.json = stem.with_name(stem.name + ".json")
        self.options = options
        self.systems: list[SystemResult] = []
        self.images_per_s: dict[str, float] = {}
        if self.json.exists():
            try:
                self.images_per_s = json.loads(self.json.read_text())["images_per_s"]
            except (ValueError, LookupError) as err:
                raise UsageError(
                    f"{self.json} is not what reproduce wrote ({err}). Remove it and run the same "
                    f"command again: heads and caches are kept."
                ) from err

    def remember(self, cache: str, images_per_s: float) -> None:
        self.images_per_s[cache] = images_per_s
        self._write()

    def add(self, result: SystemResult) -> None:
        self.systems.append(result)
        self._write()

    def _write(self) -> None:
        with named_failures(self.json, kept="Nothing was started."):
            self.json.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "options": self.options,
            "systems": [asdict(system) for system in self.systems],
            "images_per_s": self.images_per_s,
        }
        replace_file(self.json, (json.dumps(content, indent=2, default=portable) + "\n").encode())
        replace_file(self.markdown, markdown_table(self.systems).encode())


def _is_the_notebooks(system: System, backbone: str, spec: ExtractSpec) -> bool:
    """Tell whether the notebook has figures of this; any weights but random ones are ImageNet's."""
    has_weights = backbone == PIXELS or spec.weights.lower() != RANDOM
    made = (spec.dataset, backbone, spec.limit, spec.image_size, spec.bn)
    usual = (DATASET, system.backbone, None, NOTEBOOK_SIZE, ExtractSpec.bn)
    return has_weights and made == usual


def _result(
    system: System, backbone: str, trained: TrainResult, table: _Table, *, is_own: bool
) -> SystemResult:
    from featcache.features.rows import bn_mode

    cache = open_cache(trained.cache)
    images_per_s = table.images_per_s.get(cache.fingerprint)
    n_rows = sum(len(split) for split in cache.splits.values())
    n_epochs = sum(run.n_epochs for run in trained.runs) / len(trained.runs)
    n_test = len(cache.splits["test"]) if "test" in cache.splits else 0
    end_to_end_s = None
    if images_per_s is not None and backbone != PIXELS:
        n_passes = n_epochs * len(cache["train"]) + n_test
        end_to_end_s = n_passes / images_per_s
    tested = [
        (run.test_acc, run.test_loss)
        for run in trained.runs
        if run.test_acc is not None and run.test_loss is not None
    ]
    acc, loss = map(Spread.of, zip(*tested, strict=True)) if tested else (None, None)
    published_acc = system.test_acc if is_own else None
    published_loss = system.test_loss if is_own else None
    acc_interval, acc_within = beside(acc, published_acc, SHARES)
    loss_interval, loss_within = beside(loss, published_loss, LOSSES)
    return SystemResult(
        name=system.name,
        backbone=backbone,
        bn=bn_mode(cache),
        test_acc=acc,
        test_loss=loss,
        published_acc=published_acc,
        published_loss=published_loss,
        acc_interval=acc_interval,
        loss_interval=loss_interval,
        acc_within=acc_within,
        loss_within=loss_within,
        extract_s=None if images_per_s is None else n_rows / images_per_s,
        train_s=sum(run.seconds for run in trained.runs) / len(trained.runs),
        end_to_end_s=end_to_end_s,
        runs=tuple(run.path for run in trained.runs),
    )


def _require_weights(backbones: Sequence[str], spec: ExtractSpec) -> dict[str, bool]:
    """Read, or download, the weights of all backbones before the first hour of work.

    Returns:
        Of each that runs a network, whether it has BatchNorm.
    """
    backbones = [backbone for backbone in dict.fromkeys(backbones) if backbone != PIXELS]
    for backbone in backbones:
        check_backbone_options(backbone, spec.weights, spec.image_size)
    from featcache.backbones.load import load_backbone  # it imports torch, which takes seconds

    loaded = (load_backbone(b, weights=spec.weights, image_size=spec.image_size) for b in backbones)
    return {backbone.name: backbone.has_batchnorm for backbone in loaded}
