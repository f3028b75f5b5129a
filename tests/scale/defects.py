"""What can be wrong with a folder of parts, each with the error and the field that it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from featcache.core.side_files import partial_path
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    UnsafeFileError,
)
from featcache.scale.plan_file import PartsPlan
from featcache.store import Identity
from featcache.store.manifest import MANIFEST_OFFSET
from tests.scale.breaking import (
    at,
    column_of,
    cut,
    file_of,
    identity_of,
    in_column,
    in_ledger,
    in_numerics,
    in_statistics,
    numerics_of,
    provenance_of,
    remade,
    removed,
    renamed,
    replaced_by,
    resealed,
    resized,
    splits_of,
    swapped,
)
from tests.store.damage import flip


@dataclass(frozen=True)
class Defect:
    """Something that is wrong with a folder of parts.

    Attributes:
        name: For the report.
        do: Does it.
        error: How a merge is refused.
        told: What its message says: the field, as a regular expression.
    """

    name: str
    do: Callable[[PartsPlan], object]
    error: type[FeatcacheError]
    told: str


_MANIFEST = MANIFEST_OFFSET + 300
_OTHER_N = "part-00001-of-00024-00000000.h5"

DEFECTS = [
    Defect("the first part is missing", removed(0), CacheMissingError, r"lacks 1 of 3 shares: 0\."),
    Defect("the last part is missing", removed(2), CacheMissingError, "--array=2 with"),
    Defect("two parts are missing", removed(0, 1), CacheMissingError, "--array=0-1 with"),
    Defect(
        "a part is not complete",
        lambda plan: plan.part(1).rename(partial_path(plan.part(1))),
        CacheMissingError,
        "--array=1 with",
    ),
    Defect(
        "the plan is missing", lambda plan: plan.path.unlink(), CacheMissingError, "no folder of"
    ),
    Defect(
        "a part of another number of shares",
        lambda plan: renamed(plan, _OTHER_N),
        MismatchError,
        "n_shares: found 24, wanted 3",
    ),
    Defect(
        "a partial part of another number of shares",
        lambda plan: renamed(plan, f"{_OTHER_N}.partial"),
        MismatchError,
        "n_shares: found 24, wanted 3",
    ),
    Defect(
        "a part under another name",
        lambda plan: renamed(plan, "part-00001-of-00003-00000000.h5"),
        MismatchError,
        r"\(part: none of this plan",
    ),
    Defect("two parts swapped", swapped, MismatchError, r"identity\.part: found \[2,4,6\], wanted"),
    Defect(
        "a part twice",
        lambda plan: plan.part(1).write_bytes(plan.part(0).read_bytes()),
        MismatchError,
        r"identity\.part: found \[0,2,6\], wanted \[2,4,6\]",
    ),
    Defect(
        "an older part: dataset",
        identity_of(dataset_sha256="0" * 64),
        MismatchError,
        r"identity\.dataset_sha256: found",
    ),
    Defect(
        "an older part: weights",
        identity_of(weights_sha256="1" * 64),
        MismatchError,
        r"identity\.weights_sha256: found",
    ),
    Defect("another layer", identity_of(layer="x"), MismatchError, r"identity\.layer: found"),
    Defect("another BatchNorm", identity_of(bn="frozen"), MismatchError, r"identity\.bn"),
    Defect(
        "another precision", identity_of(precision="bf16"), MismatchError, r"identity\.precision"
    ),
    Defect(
        "another storage type",
        identity_of(store_dtype="float32"),
        MismatchError,
        r"identity\.store_dtype",
    ),
    Defect(
        "another limit of pixels",
        identity_of(max_pixels=7),
        MismatchError,
        r"identity\.max_pixels: found 7, wanted null",
    ),
    Defect(
        "another orientation",
        identity_of(exif_orientation="apply"),
        MismatchError,
        r"identity\.exif_orientation",
    ),
    Defect("another backbone", identity_of(backbone="vgg16"), MismatchError, r"identity\.backbone"),
    Defect("another pool", identity_of(pool="avg"), MismatchError, r"identity\.pool"),
    Defect(
        "other blocks", identity_of(part=[2, 4, 7]), MismatchError, r"identity\.part: found \[2,4,7"
    ),
    Defect(
        "no blocks",
        lambda plan: remade(
            plan,
            lambda made: replace(
                made,
                identity=Identity.from_json(
                    {n: v for n, v in made.identity.items() if n != "part"}
                ),
            ),
        ),
        MismatchError,
        r"identity\.part: found null",
    ),
    Defect(
        "other versions",
        lambda plan: remade(plan, provenance_of),
        MismatchError,
        r"provenance\.torch: found \"1\.0\"",
    ),
    Defect("a class renamed", file_of(class_names=("cat", "pup")), MismatchError, "class_names: f"),
    Defect(
        "classes in another order",
        file_of(class_names=("dog", "cat")),
        MismatchError,
        "class_names: found",
    ),
    Defect(
        "a class more", file_of(class_names=("cat", "dog", "x")), MismatchError, "class_names: f"
    ),
    Defect(
        "other blocks in the file", file_of(rows_per_block=8), MismatchError, "rows_per_block: f"
    ),
    Defect(
        "another type of features",
        splits_of(feature_dtype="<f4"),
        MismatchError,
        r"splits\.train\.feature_dtype: found \"<f4\", wanted \"<f2\"",
    ),
    Defect(
        "wider ids", splits_of(id_nbytes=99), MismatchError, r"splits\.train\.id_nbytes: found 99"
    ),
    Defect(
        "no reasons", splits_of(has_reasons=False), MismatchError, r"splits\.train\.has_reasons"
    ),
    Defect("no labels", splits_of(has_labels=False), MismatchError, r"splits\.train\.has_labels"),
    Defect(
        "no digests of images",
        splits_of(has_image_sha256=False),
        MismatchError,
        r"splits\.train\.has_image_sha256",
    ),
    Defect("fewer rows", resized(-1), MismatchError, r"splits\.train\.n_rows: found 5, wanted 6"),
    Defect("more rows", resized(1), MismatchError, r"splits\.train\.n_rows: found 7, wanted 6"),
    Defect(
        "another split",
        lambda plan: remade(plan, lambda made: replace(made, splits={"val": made.splits["train"]})),
        MismatchError,
        r"splits\.train.*found null",
    ),
    Defect(
        "another numeric class",
        lambda plan: remade(plan, numerics_of),
        MismatchError,
        r"numerics: threads: found 99",
    ),
    Defect(
        "blocks of another numeric class",
        in_numerics,
        MismatchError,
        r"numerics: blocks that another numeric class computed: 2",
    ),
    Defect("other labels", column_of("labels"), MismatchError, "shares_sha256"),
    Defect("other ids", column_of("ids"), MismatchError, "shares_sha256"),
    Defect("other images", column_of("image_sha256"), MismatchError, "shares_sha256"),
    Defect(
        "other statistics",
        lambda plan: remade(plan, lambda made: made, values=1.0),
        MismatchError,
        "other values of 'trunk'",
    ),
    Defect("a bit of the features", in_column("features"), CorruptError, "SHA-256 of train rows"),
    Defect("a bit of the masks", in_column("valid"), CorruptError, "SHA-256 of train rows"),
    Defect("a bit of the labels", in_column("labels"), CorruptError, "SHA-256 of train rows"),
    Defect("a bit of the ledger", at(in_ledger), CorruptError, "slots of its ledger: 1"),
    Defect("a bit of the statistics", at(in_statistics), CorruptError, "its 'trunk' is not as"),
    Defect("a bit of the manifest", at(lambda _: _MANIFEST), CorruptError, "manifest is damaged"),
    Defect("a bit of HDF5's own", at(lambda _: 50), CorruptError, "outside its rows"),
    Defect("a part cut short", cut(-8), CorruptError, "cut or extended"),
    Defect("a part extended", cut(8), CorruptError, "cut or extended"),
    Defect("a folder as a part", replaced_by(Path.mkdir), UnsafeFileError, "not a regular file"),
    Defect("a pipe as a part", replaced_by(os.mkfifo), UnsafeFileError, "not a regular file"),
    Defect(
        "a part that is none",
        replaced_by(lambda path: path.write_text("none")),
        CorruptError,
        "not an HDF5 file",
    ),
    Defect("a bit of the plan", lambda plan: flip(plan.path, 200), CorruptError, "not a plan that"),
    Defect(
        "a plan that is none",
        lambda plan: plan.path.write_text("[]"),
        CorruptError,
        "not a plan that featcache wrote",
    ),
    Defect("a plan of other shares", resealed(n_shares=2), CorruptError, "3 digests of 2 shares"),
    Defect(
        "a plan of two shares",
        resealed(n_shares=2, shares_sha256=lambda digests: digests[:2]),
        MismatchError,
        "n_shares: found 3, wanted 2",
    ),
    Defect("a plan without its rows", resealed(reference=None), CorruptError, "without a place"),
    Defect("a later plan", resealed(version=2), MismatchError, "its version is 2, and this one"),
]
