"""The HDF5 cache: how it is written, read and trusted. See docs/format.md."""

from featcache.core.files import human_bytes, is_there, named_failures, require_space
from featcache.core.locks import locked
from featcache.core.replace import remove_leftovers, replace_file
from featcache.core.side_files import partial_path
from featcache.store.catalog import (
    CacheSummary,
    cache_path,
    caches_in,
    find_cache,
    find_fingerprint,
    list_caches,
    near_misses,
    remove_cache,
    require_fields,
    require_identity,
    summarise,
)
from featcache.store.columns import SplitRows, encode_id
from featcache.store.describe import CacheDescription, SplitDescription, describe_cache
from featcache.store.extract_command import command_of, extract_command, made_with
from featcache.store.hdf5_file import FilePlan, SplitPlan, was_made_from
from featcache.store.identity import PART, Identity, NumericClass, Provenance, named_backbone
from featcache.store.manifest import FILE_VERSION, PARTS, Block, Extent, Manifest, rows_per_block
from featcache.store.reader import (
    Cache,
    CacheState,
    open_cache,
    opened_readonly,
    read_reference,
    read_state,
    read_trunk_statistics,
)
from featcache.store.split import CacheSplit
from featcache.store.structure_repair import mend_structure
from featcache.store.verify import (
    Damage,
    VerifyReport,
    require_classes,
    require_sound,
    verify_cache,
)
from featcache.store.writer import CacheWriter

__all__ = [
    "FILE_VERSION",
    "PART",
    "PARTS",
    "Block",
    "Cache",
    "CacheDescription",
    "CacheSplit",
    "CacheState",
    "CacheSummary",
    "CacheWriter",
    "Damage",
    "Extent",
    "FilePlan",
    "Identity",
    "Manifest",
    "NumericClass",
    "Provenance",
    "SplitDescription",
    "SplitPlan",
    "SplitRows",
    "VerifyReport",
    "cache_path",
    "caches_in",
    "command_of",
    "describe_cache",
    "encode_id",
    "extract_command",
    "find_cache",
    "find_fingerprint",
    "human_bytes",
    "is_there",
    "list_caches",
    "locked",
    "made_with",
    "mend_structure",
    "named_backbone",
    "named_failures",
    "near_misses",
    "open_cache",
    "opened_readonly",
    "partial_path",
    "read_reference",
    "read_state",
    "read_trunk_statistics",
    "remove_cache",
    "remove_leftovers",
    "replace_file",
    "require_classes",
    "require_fields",
    "require_identity",
    "require_sound",
    "require_space",
    "rows_per_block",
    "summarise",
    "verify_cache",
    "was_made_from",
]
