"""A small cache of random rows, written block after block as `extract` does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from featcache.store import (
    Block,
    CacheWriter,
    FilePlan,
    Identity,
    NumericClass,
    Provenance,
    SplitPlan,
    SplitRows,
    encode_id,
    partial_path,
)


@dataclass
class Rows:
    """The rows of one split, as they should be read back.

    Attributes:
        features: (N, ...) in the storage type.
        labels: (N,) int64; None if the images have none.
        ids: N ids.
        reasons: Why a row is not valid, by row.
        image_sha256: (N, 32) uint8; None if the file does not hold them.
    """

    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None
    ids: Sequence[str]
    reasons: Mapping[int, str] = field(default_factory=dict)
    image_sha256: npt.NDArray[np.uint8] | None = None


def random_rows(
    n: int, *row_shape: int, dtype: str = "<f4", reasons: Mapping[int, str] | None = None
) -> Rows:
    """Make N rows of a shape; the same arguments give the same rows."""
    rng = np.random.default_rng(n)
    features = (rng.standard_normal((n, *row_shape)) * 50).astype(dtype)
    ids = [f"class {i % 3}/image-{i}.png" for i in range(n)]
    return Rows(features, np.arange(n, dtype=np.int64) % 3, ids, reasons or {})


@dataclass
class Recipe:
    """All that is needed to write one cache, as a whole or in steps."""

    path: Path
    splits: dict[str, Rows]
    rows_per_block: int = 4
    class_names: tuple[str, ...] = ("ant", "bee", "cow")
    identity: Mapping[str, Any] = field(default_factory=lambda: {"backbone": "toy", "seed": 0})
    numerics: Mapping[str, Any] = field(default_factory=lambda: {"precision": "fp32"})
    statistics: npt.NDArray[np.float32] | None = None
    reference: npt.NDArray[np.float32] | None = None
    has_reasons: bool = True
    version: int = 2

    @property
    def partial(self) -> Path:
        return partial_path(self.path)

    def plan(self) -> FilePlan:
        splits = {
            name: SplitPlan(
                n_rows=len(rows.ids),
                feature_shape=rows.features.shape[1:],
                feature_dtype=rows.features.dtype.str.replace("=", "<"),
                id_nbytes=max(len(encode_id(i)) for i in rows.ids),
                has_reasons=self.has_reasons,
                has_labels=rows.labels is not None,
                has_image_sha256=rows.image_sha256 is not None,
            )
            for name, rows in self.splits.items()
        }
        statistics = None
        if self.statistics is not None:
            half = len(self.statistics) // 2
            rest = len(self.statistics) - half
            statistics = (("bn.running_mean", (half,)), ("bn.running_var", (1, rest)))
        return FilePlan(
            identity=Identity.from_json(self.identity),
            numerics=NumericClass.from_json(self.numerics),
            provenance=Provenance.from_json({"dataset": "toys"}),
            class_names=self.class_names,
            rows_per_block=self.rows_per_block,
            splits=splits,
            statistics=statistics,
            reference=None if self.reference is None else self.reference.shape,
            version=self.version,
        )

    def rows(self) -> dict[str, SplitRows]:
        return {n: SplitRows(r.labels, r.ids, r.image_sha256) for n, r in self.splits.items()}

    def create(self) -> CacheWriter:
        writer = CacheWriter.create(self.path, self.plan(), self.rows())
        if self.statistics is not None:
            writer.write_statistics(self.statistics)
        if self.reference is not None:
            writer.write_reference(self.reference)
        return writer

    def write(self, writer: CacheWriter, blocks: Sequence[Block], *, commit: bool = True) -> None:
        for block in blocks:
            rows = self.splits[block.split]
            inside = range(block.start, block.stop)
            reasons = {i - block.start: r for i, r in rows.reasons.items() if i in inside}
            valid = np.array([i not in rows.reasons for i in inside])
            writer.write_block(block, rows.features[block.start : block.stop], valid, reasons)
        if commit:
            writer.commit()

    def resume_and_finish(self) -> None:
        with CacheWriter.resume(self.path, self.rows()) as writer:
            writer.recheck()
            if self.statistics is not None and writer.read_statistics() is None:
                writer.write_statistics(self.statistics)
            if self.reference is not None and writer.read_reference() is None:
                writer.write_reference(self.reference)
            self.write(writer, writer.pending())
            writer.finish()

    def build(self) -> Path:
        with self.create() as writer:
            self.write(writer, writer.pending())
            writer.finish()
        return self.path


MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    """Make a recipe: by default 2 splits of 10 and 3 rows of 5 features, in 4 blocks."""

    def make(name: str = "toys/toy-00000000.h5", **options: Any) -> Recipe:
        options.setdefault(
            "splits",
            {"train": random_rows(10, 5, reasons={3: "truncated"}), "test": random_rows(3, 5)},
        )
        return Recipe(tmp_path / name, **options)

    return make


@pytest.fixture
def recipe(make_recipe: MakeRecipe) -> Recipe:
    """The default recipe."""
    return make_recipe()


@pytest.fixture
def built(recipe: Recipe) -> Path:
    """The path of a finished cache made by `recipe`."""
    return recipe.build()
