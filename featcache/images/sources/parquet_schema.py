"""What the columns of a Parquet file are: where the images, and the names of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from featcache.errors import DatasetError, FeatcacheError, UsageError, clipped
from featcache.images.parquet_images import damage_told
from featcache.images.sources.columns import PATH_NAMES, find_column

_IMAGE_NAMES = ("image", "img", "jpg", "png", "bytes", *PATH_NAMES)
_MOST_GROUP_BYTES = 2**31


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


def group_lengths(path: str, image: str) -> list[int]:
    """Count the rows of each row group; one that would fill the memory is refused."""
    from pyarrow import parquet

    with damage_told(_damaged(path)), parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        for i, group in enumerate(groups):
            parts = (group.column(c) for c in range(group.num_columns))
            nbytes = sum(p.total_uncompressed_size for p in parts if p.path_in_schema == image)
            if nbytes > _MOST_GROUP_BYTES:
                raise DatasetError(
                    f"{path!r}, row group {i}, has {nbytes} bytes of images; at most "
                    f"{_MOST_GROUP_BYTES} are held in memory. Nothing was extracted. Write the "
                    f"file again with fewer rows in a group (row_group_size=100)."
                )
        return [group.num_rows for group in groups]


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

    column = find_column(
        schema.names, asked, _IMAGE_NAMES, option="--path-column", where=repr(path)
    )
    if column is None:
        known = clipped(", ".join(map(repr, schema.names)))
        raise UsageError(
            f"{path!r} has no column 'image' or 'path'; its columns are {known}. Nothing was "
            f"extracted. Say which it is with --path-column."
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


def values_of(table: Any, column: str) -> list[Any]:
    """Take a column as Python values; a field of a struct comes inside it."""
    name, _, inside = column.partition(".")
    if name in table.column_names and inside and column not in table.column_names:
        return [None if value is None else value[inside] for value in table[name].to_pylist()]
    values: list[Any] = table[column].to_pylist()
    return values


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
