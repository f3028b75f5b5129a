"""Run a frozen trunk once, keep its features in one HDF5 file, train heads on it in seconds.

The public names are loaded when they are first used (PEP 562): `import featcache` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.backbones import describe_backbone, list_backbones
    from featcache.datasets import list_datasets, load_dataset
    from featcache.errors import FeatcacheError
    from featcache.extraction import ExtractResult, Failure, extract
    from featcache.pipeline import Progress
    from featcache.specs import ExtractSpec
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

__version__ = "0.1.0"

_HOME = {
    "Cache": "store",
    "CacheSplit": "store",
    "ExtractResult": "extraction",
    "ExtractSpec": "specs",
    "Failure": "extraction",
    "FeatcacheError": "errors",
    "Progress": "pipeline",
    "describe_backbone": "backbones",
    "describe_cache": "store",
    "extract": "extraction",
    "find_cache": "store",
    "list_backbones": "backbones",
    "list_caches": "store",
    "list_datasets": "datasets",
    "load_dataset": "datasets",
    "open_cache": "store",
    "remove_cache": "store",
    "verify_cache": "store",
}

__all__ = [
    "Cache",
    "CacheSplit",
    "ExtractResult",
    "ExtractSpec",
    "Failure",
    "FeatcacheError",
    "Progress",
    "__version__",
    "describe_backbone",
    "describe_cache",
    "extract",
    "find_cache",
    "list_backbones",
    "list_caches",
    "list_datasets",
    "load_dataset",
    "open_cache",
    "remove_cache",
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
