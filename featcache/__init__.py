"""Run a frozen backbone once, keep its features in one HDF5 file, train heads on it in seconds.

The public names are loaded when they are first used (PEP 562): `import featcache` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from featcache.version import __version__ as __version__

if TYPE_CHECKING:  # the same as _NAMES, as type checkers read it
    from featcache.backbones.describe import describe_backbone as describe_backbone
    from featcache.backbones.describe import list_backbones as list_backbones
    from featcache.backbones.own import Backbone as Backbone
    from featcache.config import ExtractSpec as ExtractSpec
    from featcache.config import HeadSpec as HeadSpec
    from featcache.config import SolverSpec as SolverSpec
    from featcache.config import TrainSpec as TrainSpec
    from featcache.core.jupyter import JupyterProgress as JupyterProgress
    from featcache.core.preprocess import Preprocess as Preprocess
    from featcache.deployment.exports.export import ExportedModel as ExportedModel
    from featcache.deployment.exports.export import export as export
    from featcache.deployment.exports.tensors_file import load_exported as load_exported
    from featcache.deployment.predict import ImagePrediction as ImagePrediction
    from featcache.deployment.predict import Predictions as Predictions
    from featcache.deployment.predict import predict as predict
    from featcache.deployment.predictor import PredictedImages as PredictedImages
    from featcache.deployment.predictor import Predictor as Predictor
    from featcache.deployment.predictor import load_predictor as load_predictor
    from featcache.errors import FeatcacheError as FeatcacheError
    from featcache.evaluation.compare import Comparison as Comparison
    from featcache.evaluation.compare import compare as compare
    from featcache.evaluation.evaluate import Evaluation as Evaluation
    from featcache.evaluation.evaluate import evaluate as evaluate
    from featcache.extraction.extract import extract as extract
    from featcache.extraction.extract import extract_all as extract_all
    from featcache.extraction.progress import Progress as Progress
    from featcache.extraction.repair import RepairReport as RepairReport
    from featcache.extraction.repair import repair_cache as repair_cache
    from featcache.extraction.result import ExtractResult as ExtractResult
    from featcache.extraction.result import Failure as Failure
    from featcache.extraction.verify_images import ChangedImage as ChangedImage
    from featcache.extraction.verify_images import ImagesReport as ImagesReport
    from featcache.extraction.verify_images import verify_images as verify_images
    from featcache.features.datamodule import FeatureDataModule as FeatureDataModule
    from featcache.heads.head_file import load_head as load_head
    from featcache.heads.run_files import HeadRun as HeadRun
    from featcache.heads.run_list import RunSummary as RunSummary
    from featcache.heads.run_list import describe_runs as describe_runs
    from featcache.heads.runs import list_runs as list_runs
    from featcache.heads.trained_head import TrainedHead as TrainedHead
    from featcache.images.datasets import list_datasets as list_datasets
    from featcache.images.datasets import load_dataset as load_dataset
    from featcache.images.sources.given import make_dataset as make_dataset
    from featcache.insight.audit.audit import audit as audit
    from featcache.insight.audit.result import AuditedImage as AuditedImage
    from featcache.insight.audit.result import AuditResult as AuditResult
    from featcache.insight.audit.result import ClassCount as ClassCount
    from featcache.insight.audit.result import DuplicatePair as DuplicatePair
    from featcache.insight.audit.result import LabelIssue as LabelIssue
    from featcache.insight.audit.result import Outlier as Outlier
    from featcache.insight.audit.result import OutOfFold as OutOfFold
    from featcache.insight.audit.result import TestedWithout as TestedWithout
    from featcache.insight.audit.result import UnreadableImage as UnreadableImage
    from featcache.insight.probe import probe as probe
    from featcache.insight.probe_result import FewShotFigures as FewShotFigures
    from featcache.insight.probe_result import ProbedCache as ProbedCache
    from featcache.insight.probe_result import ProbeFigures as ProbeFigures
    from featcache.insight.probe_result import ProbeResult as ProbeResult
    from featcache.insight.report.report import ReportResult as ReportResult
    from featcache.insight.report.report import report as report
    from featcache.insight.similar.result import Neighbour as Neighbour
    from featcache.insight.similar.result import SimilarImages as SimilarImages
    from featcache.insight.similar.similar import similar as similar
    from featcache.machine.doctor import doctor as doctor
    from featcache.machine.finding import Checkup as Checkup
    from featcache.machine.finding import Finding as Finding
    from featcache.notebook.parity import ParityReport as ParityReport
    from featcache.notebook.parity import parity as parity
    from featcache.notebook.parity_checks import NotebookComparison as NotebookComparison
    from featcache.notebook.parity_checks import ParityCheck as ParityCheck
    from featcache.notebook.reproduce import Reproduction as Reproduction
    from featcache.notebook.reproduce import reproduce as reproduce
    from featcache.notebook.reproduce_table import SystemResult as SystemResult
    from featcache.scale.devices.extract_on_devices import (
        extract_on_devices as extract_on_devices,
    )
    from featcache.scale.extract_share import extract_share as extract_share
    from featcache.scale.forecast import Forecast as Forecast
    from featcache.scale.forecast import forecast as forecast
    from featcache.scale.merge_parts import MergeResult as MergeResult
    from featcache.scale.merge_parts import merge_parts as merge_parts
    from featcache.scale.parts import PartsDescription as PartsDescription
    from featcache.scale.parts import PartState as PartState
    from featcache.scale.parts import describe_parts as describe_parts
    from featcache.scale.remote.fetch_cache import FetchResult as FetchResult
    from featcache.scale.remote.fetch_cache import fetch_cache as fetch_cache
    from featcache.scale.share_result import ShareResult as ShareResult
    from featcache.store import Cache as Cache
    from featcache.store import CacheSplit as CacheSplit
    from featcache.store import describe_cache as describe_cache
    from featcache.store import find_cache as find_cache
    from featcache.store import list_caches as list_caches
    from featcache.store import open_cache as open_cache
    from featcache.store import remove_cache as remove_cache
    from featcache.store import verify_cache as verify_cache
    from featcache.store.exports.export_features import ExportResult as ExportResult
    from featcache.store.exports.export_features import export_features as export_features
    from featcache.store.imports.import_features import ImportResult as ImportResult
    from featcache.store.imports.import_features import import_features as import_features
    from featcache.training.module import HeadModule as HeadModule
    from featcache.training.solvers.solver_run import SolverProgress as SolverProgress
    from featcache.training.sweeps.bank_trainer import SweepProgress as SweepProgress
    from featcache.training.sweeps.sweep import sweep as sweep
    from featcache.training.sweeps.table import SweepResult as SweepResult
    from featcache.training.sweeps.table import SweepSetting as SweepSetting
    from featcache.training.train_head import train_head as train_head
    from featcache.training.train_result import TrainResult as TrainResult
    from featcache.training.trainer import TrainProgress as TrainProgress

_NAMES = {
    "backbones.describe": ("describe_backbone", "list_backbones"),
    "backbones.own": ("Backbone",),
    "config": ("ExtractSpec", "HeadSpec", "SolverSpec", "TrainSpec"),
    "core.jupyter": ("JupyterProgress",),
    "core.preprocess": ("Preprocess",),
    "deployment.exports.export": ("ExportedModel", "export"),
    "deployment.exports.tensors_file": ("load_exported",),
    "deployment.predict": ("ImagePrediction", "Predictions", "predict"),
    "deployment.predictor": ("PredictedImages", "Predictor", "load_predictor"),
    "errors": ("FeatcacheError",),
    "evaluation.compare": ("Comparison", "compare"),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "extraction.extract": ("extract", "extract_all"),
    "extraction.progress": ("Progress",),
    "extraction.repair": ("RepairReport", "repair_cache"),
    "extraction.result": ("ExtractResult", "Failure"),
    "extraction.verify_images": ("ChangedImage", "ImagesReport", "verify_images"),
    "features.datamodule": ("FeatureDataModule",),
    "heads.head_file": ("load_head",),
    "heads.run_files": ("HeadRun",),
    "heads.run_list": ("RunSummary", "describe_runs"),
    "heads.runs": ("list_runs",),
    "heads.trained_head": ("TrainedHead",),
    "images.datasets": ("list_datasets", "load_dataset"),
    "images.sources.given": ("make_dataset",),
    "insight.audit.audit": ("audit",),
    "insight.audit.result": (
        "AuditedImage",
        "AuditResult",
        "ClassCount",
        "DuplicatePair",
        "LabelIssue",
        "Outlier",
        "OutOfFold",
        "TestedWithout",
        "UnreadableImage",
    ),
    "insight.probe": ("probe",),
    "insight.probe_result": ("FewShotFigures", "ProbedCache", "ProbeFigures", "ProbeResult"),
    "insight.report.report": ("ReportResult", "report"),
    "insight.similar.result": ("Neighbour", "SimilarImages"),
    "insight.similar.similar": ("similar",),
    "machine.doctor": ("doctor",),
    "machine.finding": ("Checkup", "Finding"),
    "notebook.parity": ("ParityReport", "parity"),
    "notebook.parity_checks": ("NotebookComparison", "ParityCheck"),
    "notebook.reproduce": ("Reproduction", "reproduce"),
    "notebook.reproduce_table": ("SystemResult",),
    "scale.devices.extract_on_devices": ("extract_on_devices",),
    "scale.extract_share": ("extract_share",),
    "scale.forecast": ("Forecast", "forecast"),
    "scale.merge_parts": ("MergeResult", "merge_parts"),
    "scale.parts": ("PartState", "PartsDescription", "describe_parts"),
    "scale.remote.fetch_cache": ("FetchResult", "fetch_cache"),
    "scale.share_result": ("ShareResult",),
    "store": (
        "Cache",
        "CacheSplit",
        "describe_cache",
        "find_cache",
        "list_caches",
        "open_cache",
        "remove_cache",
        "verify_cache",
    ),
    "store.exports.export_features": ("ExportResult", "export_features"),
    "store.imports.import_features": ("ImportResult", "import_features"),
    "training.module": ("HeadModule",),
    "training.sweeps.bank_trainer": ("SweepProgress",),
    "training.sweeps.sweep": ("sweep",),
    "training.sweeps.table": ("SweepResult", "SweepSetting"),
    "training.solvers.solver_run": ("SolverProgress",),
    "training.train_head": ("train_head",),
    "training.train_result": ("TrainResult",),
    "training.trainer": ("TrainProgress",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
