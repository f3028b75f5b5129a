"""What the columns of a Parquet file are: where the images, and the names of classes."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Any

from featcache.errors import DatasetError, FeatcacheError, UsageError, clipped
from featcache.images.parquet_images import damage_told, require_small
from featcache.images.sources.columns import PATH_NAMES, require_column

_IMAGE_NAMES = ("image", "img", "jpg", "png", "bytes", *PATH_NAMES)


def read_schema(path: str) -> Any:
    """Read the schema of a file as a pyarrow.Schema.

    Raises:
        DatasetError: If it is no Parquet file, or a damaged one.
    """
    from pyarrow import parquet

    try:
        with damage_told(_damaged(path)):
            schema = parquet.read_schema(path)
            _ = schema.names  # of which some may be no text
            return schema
    except FeatcacheError:  # some are OSErrors
        raise
    except OSError as err:
        raise DatasetError(f"{path!r} cannot be read: {err.strerror or err}.") from err


def group_lengths(path: str, columns: Collection[str]) -> list[int]:
    """Count the rows of each row group; what would fill the memory is refused.

    Args:
        path: The file.
        columns: Those that will be read; "image.bytes" is a field of a struct.

    Raises:
        DatasetError: If the file is damaged, or says more than it can hold.
    """
    from pyarrow import parquet

    with damage_told(_damaged(path)), parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        for i, group in enumerate(groups):
            parts = (group.column(c) for c in range(group.num_columns))
            sizes = (p.total_uncompressed_size for p in parts if p.path_in_schema in columns)
            require_small(path, i, sum(sizes))
        lengths = [group.num_rows for group in groups]
        n_bytes = os.path.getsize(path)  # noqa: PTH202
        # A few bytes can say any number of equal rows; different images take a byte each at least.
        if min(lengths, default=0) < 0 or sum(lengths) > n_bytes:
            raise DatasetError(
                f"{path!r} has {n_bytes} bytes, but says that it has {sum(lengths)} rows. No such "
                f"file holds images. Nothing was extracted."
            )
        return lengths


def read_texts(path: str, group: int, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read columns of one row group as Python values; a field of a struct is such a column too.

    A text that stands in many rows is held once, so rows take no more than the file has.

    Raises:
        DatasetError: If it is damaged, with the file and the row group.
    """
    from pyarrow import parquet

    with (
        damage_told(f"{path!r}, row group {group}, is damaged"),
        parquet.ParquetFile(
            path, read_dictionary=list(columns), page_checksum_verification=True
        ) as file,
    ):
        table = file.read_row_group(group, columns=list(columns), use_threads=False)
        return {column: _values(table, column) for column in columns}


def _values(table: Any, column: str) -> list[Any]:
    from pyarrow import compute, types

    name, _, inside = column.partition(".")
    is_field = column not in table.column_names and name in table.column_names
    found = compute.struct_field(table[name], inside) if is_field else table[column]
    values: list[Any] = []
    for chunk in found.chunks:
        if not types.is_dictionary(chunk.type):
            values += chunk.to_pylist()
            continue
        texts = chunk.dictionary.to_pylist()
        values += [None if i is None else texts[i] for i in chunk.indices.to_pylist()]
    return values


def require_text(schema: Any, column: str, path: str) -> None:
    """Refuse a column that is neither text nor whole numbers before it is read.

    Raises:
        UsageError: If it holds lists, say, of which one row may hold any number.
    """
    from pyarrow import types

    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_null)
    if not any(test(kind) for test in (*tests, types.is_string_view)):
        raise UsageError(
            f"Column {column!r} of {path!r} holds {clipped(str(kind), 60)}; expected text or whole "
            f"numbers. Nothing was extracted."
        )


def _damaged(path: str) -> str:
    return f"Nothing was extracted: {path!r} is no Parquet file, or is cut short or damaged"


def image_column(schema: Any, asked: str | None, path: str) -> tuple[str, bool, str | None]:
    """Find the images.

    Returns:
        The column of bytes or paths, whether it is bytes, and the column that names the files.
    """
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    column = require_column(
        schema.names, asked, _IMAGE_NAMES, option="--path-column", where=repr(path)
    )
    kind = schema.field(column).type
    if types.is_struct(kind) and "bytes" in (inside := [field.name for field in kind]):
        named = f"{column}.path" if "path" in inside else None
        return f"{column}.bytes", True, named
    if is_bytes(kind):
        return column, True, None
    if types.is_string(kind) or types.is_large_string(kind):
        return column, False, column
    raise UsageError(
        f"Column {column!r} of {path!r} holds {clipped(str(kind), 60)}; expected bytes, a struct "
        f"of bytes and path, or paths. Nothing was extracted. Say which it is with --path-column."
    )


def names_of_classes(schema: Any, column: str) -> tuple[str, ...]:
    """Read the names of numbered classes, as Hugging Face's `ClassLabel` writes them.

    Source: https://huggingface.co/docs/datasets, `Features.arrow_schema`.
    """
    from pyarrow import types

    said = (schema.metadata or {}).get(b"huggingface")
    if said is None or not types.is_integer(schema.field(column).type):
        return ()
    try:
        names = json.loads(said)["info"]["features"][column]["names"]
        is_text = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
        return tuple(names) if is_text and len(set(names)) == len(names) else ()
    except (ValueError, KeyError, TypeError):
        return ()
