"""Write a table as Parquet, for pandas, polars, DuckDB and Spark; needs the extra `parquet`."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from featcache.errors import UsageError
from featcache.store.exports.table import ABOUT, NAMES, Table

_TEXTS = ("ids", "split", "class_name", "reason")


def require_pyarrow() -> None:
    """Refuse where pyarrow is not installed.

    Raises:
        UsageError: With the line that installs it.
    """
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as err:
        raise UsageError(
            "Parquet files need pyarrow, which is not installed here. Nothing was written. Install "
            'it with: pip install "featcache[parquet]"'
        ) from err


def write_parquet(table: Table, file: BinaryIO) -> None:
    """Write one row group a block; features are lists of fixed length."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [pa.field(NAMES[name], _type_of(table, name)) for name in table.names],
        metadata={ABOUT: table.about_json},
    )
    rows = table.about["rows_per_block"]
    with parquet.ParquetWriter(file, schema) as writer:
        for parts in zip(*(table.parts(name, n_rows=rows) for name in table.names), strict=True):
            arrays = [_array(part, field.type) for part, field in zip(parts, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _type_of(table: Table, name: str) -> Any:
    import pyarrow as pa

    extent = table.extent(name)
    if name in _TEXTS:
        is_utf8 = all(map(_is_utf8, table.parts(name)))
        return pa.string() if is_utf8 else pa.binary()
    if name == "valid":
        return pa.bool_()
    if name == "image_sha256":
        return pa.binary(extent.row_nbytes)
    value = pa.from_numpy_dtype(np.dtype(extent.dtype))
    return pa.list_(value, extent.n_values) if name == "features" else value


def _is_utf8(texts: npt.NDArray[Any]) -> bool:
    try:
        b"\n".join(texts.tolist()).decode()
    except UnicodeDecodeError:
        return False
    return True


def _array(part: npt.NDArray[Any], kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), type=kind)
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([row.tobytes() for row in part], kind)
    if part.dtype.kind == "S":
        return pa.array(part.tolist(), pa.binary()).cast(kind)
    return pa.array(part.astype(np.bool_) if kind == pa.bool_() else part, kind)
