"""Run a frozen backbone once, keep its features in one HDF5 file, train heads on it in seconds.

The public names are loaded when they are first used (PEP 562): `import featcache` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from featcache.version import __version__

if TYPE_CHECKING:
    from featcache.backbones.describe import describe_backbone, list_backbones
    from featcache.config import ExtractSpec, HeadSpec, TrainSpec
    from featcache.errors import FeatcacheError
    from featcache.evaluation.evaluate import Comparison, Evaluation, compare, evaluate
    from featcache.extraction.extract import ExtractResult, Failure, extract, extract_all
    from featcache.extraction.progress import Progress
    from featcache.extraction.repair import RepairReport, repair_cache
    from featcache.features.datamodule import FeatureDataModule
    from featcache.heads.head_file import TrainedHead, load_head
    from featcache.heads.run_files import HeadRun
    from featcache.heads.run_list import RunSummary, describe_runs
    from featcache.heads.runs import list_runs
    from featcache.images.datasets import list_datasets, load_dataset
    from featcache.notebook.parity import ParityReport, parity
    from featcache.notebook.parity_checks import NotebookComparison, ParityCheck
    from featcache.notebook.reproduce import Reproduction, reproduce
    from featcache.notebook.reproduce_table import SystemResult
    from featcache.store import (
        Cache,
        CacheSplit,
        describe_cache,
        find_cache,
        list_caches,
        open_cache,
        remove_cache,
        verify_cache,
    )
    from featcache.store.imports.import_features import ImportResult, import_features
    from featcache.training.module import HeadModule
    from featcache.training.sweeps.bank_trainer import SweepProgress
    from featcache.training.sweeps.sweep import sweep
    from featcache.training.sweeps.table import SweepResult, SweepSetting
    from featcache.training.train_head import TrainResult, train_head
    from featcache.training.trainer import TrainProgress

_HOME = {
    "Cache": "store",
    "CacheSplit": "store",
    "Comparison": "evaluation.evaluate",
    "Evaluation": "evaluation.evaluate",
    "ExtractResult": "extraction.extract",
    "ExtractSpec": "config",
    "Failure": "extraction.extract",
    "FeatcacheError": "errors",
    "FeatureDataModule": "features.datamodule",
    "HeadModule": "training.module",
    "HeadRun": "heads.run_files",
    "HeadSpec": "config",
    "ImportResult": "store.imports.import_features",
    "NotebookComparison": "notebook.parity_checks",
    "ParityCheck": "notebook.parity_checks",
    "ParityReport": "notebook.parity",
    "Progress": "extraction.progress",
    "RepairReport": "extraction.repair",
    "Reproduction": "notebook.reproduce",
    "RunSummary": "heads.run_list",
    "SweepProgress": "training.sweeps.bank_trainer",
    "SweepResult": "training.sweeps.table",
    "SweepSetting": "training.sweeps.table",
    "SystemResult": "notebook.reproduce_table",
    "TrainProgress": "training.trainer",
    "TrainResult": "training.train_head",
    "TrainSpec": "config",
    "TrainedHead": "heads.head_file",
    "compare": "evaluation.evaluate",
    "describe_backbone": "backbones.describe",
    "describe_cache": "store",
    "describe_runs": "heads.run_list",
    "evaluate": "evaluation.evaluate",
    "extract": "extraction.extract",
    "extract_all": "extraction.extract",
    "find_cache": "store",
    "import_features": "store.imports.import_features",
    "list_backbones": "backbones.describe",
    "list_caches": "store",
    "list_datasets": "images.datasets",
    "list_runs": "heads.runs",
    "load_dataset": "images.datasets",
    "load_head": "heads.head_file",
    "open_cache": "store",
    "parity": "notebook.parity",
    "remove_cache": "store",
    "repair_cache": "extraction.repair",
    "reproduce": "notebook.reproduce",
    "sweep": "training.sweeps.sweep",
    "train_head": "training.train_head",
    "verify_cache": "store",
}

__all__ = [
    "Cache",
    "CacheSplit",
    "Comparison",
    "Evaluation",
    "ExtractResult",
    "ExtractSpec",
    "Failure",
    "FeatcacheError",
    "FeatureDataModule",
    "HeadModule",
    "HeadRun",
    "HeadSpec",
    "ImportResult",
    "NotebookComparison",
    "ParityCheck",
    "ParityReport",
    "Progress",
    "RepairReport",
    "Reproduction",
    "RunSummary",
    "SweepProgress",
    "SweepResult",
    "SweepSetting",
    "SystemResult",
    "TrainProgress",
    "TrainResult",
    "TrainSpec",
    "TrainedHead",
    "__version__",
    "compare",
    "describe_backbone",
    "describe_cache",
    "describe_runs",
    "evaluate",
    "extract",
    "extract_all",
    "find_cache",
    "import_features",
    "list_backbones",
    "list_caches",
    "list_datasets",
    "list_runs",
    "load_dataset",
    "load_head",
    "open_cache",
    "parity",
    "remove_cache",
    "repair_cache",
    "reproduce",
    "sweep",
    "train_head",
    "verify_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"featcache.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
