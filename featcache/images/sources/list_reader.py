"""Read the text of a list of images: CSV with any usual separator, TSV, or JSON Lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featcache.errors import DatasetError, clipped
from featcache.images.sources.labelled_rows import refused_at

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
"""What a list is called that lies in the folder of its images."""
_SEPARATORS = ",;\t|"
_MOST_BYTES = 2**30  # of which rows take ten times as much


@dataclass(frozen=True)
class TextList:
    """A list of images, as text.

    Attributes:
        where: The file, for messages.
        columns: The names of its columns, in order.
        lines: The line of each row, from 1.
        rows: The values of each row: by name, or in the order of the columns.
    """

    where: str
    columns: tuple[str, ...]
    lines: Sequence[int]
    rows: Sequence[Mapping[str, Any] | Sequence[str]]

    def refusal(self, row: int, what: str) -> DatasetError:
        """Refuse one row, with its line."""
        return refused_at(self.where, f"line {self.lines[row]}", what)

    def column(self, name: str) -> list[str]:
        """Give the text of one column; empty where a row lacks it.

        Raises:
            DatasetError: If a value is neither text nor a whole number.
        """
        at = self.columns.index(name)
        texts = []
        for i, row in enumerate(self.rows):
            value = row.get(name) if isinstance(row, Mapping) else row[at]
            if value is None:
                value = ""
            elif isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            elif not isinstance(value, str):
                shown = clipped(json.dumps(value), 60)
                raise self.refusal(i, f"{name!r} is {shown}, but must be text or a whole number.")
            texts.append(value)
        return texts


def read_list(path: str) -> TextList:
    """Read a list as a whole, as `parse_list` does.

    Raises:
        DatasetError: If it is a pipe, has more than 1 GiB, or cannot be read, with the line.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - before the opening, since a pipe blocks
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"List {path!r} is no regular file. Nothing was extracted.")
        if status.st_size > _MOST_BYTES:
            raise DatasetError(
                f"List {path!r} has {status.st_size} bytes; at most {_MOST_BYTES} are read. "
                f"Nothing was extracted. Make several lists of it."
            )
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read()
    except DatasetError:  # which is an OSError
        raise
    except OSError as err:
        raise DatasetError(f"List {path!r} cannot be read: {err.strerror or err}.") from err
    return parse_list(path, content)


def parse_list(path: str, content: bytes) -> TextList:
    """Take the bytes of a list; by its ending it is JSON Lines, TSV or CSV.

    A CSV may have commas, semicolons, tabs or bars between its columns, and a byte order mark.
    Blank lines are passed over.

    Raises:
        DatasetError: If it is none, with the line.
    """
    text = _text(path, content)
    if path.lower().endswith((".jsonl", ".ndjson")):
        return _json_lines(repr(path), text)
    return _csv(repr(path), text, "\t" if path.lower().endswith(".tsv") else None)


def _text(path: str, content: bytes) -> str:
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise refused_at(
            repr(path), f"line {line}", "the text is not UTF-8. Save the list as UTF-8."
        ) from err


def _csv(where: str, text: str, separator: str | None) -> TextList:
    head = text[: text.find("\n") + 1] or text
    separator = separator or max(_SEPARATORS, key=head.count)  # the first of several at a tie
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] | None = None
    lines, rows = [], []
    line = 1
    try:
        for record in reader:
            if columns is None:
                columns = [name.strip() for name in record]
            elif record and (len(record) == len(columns) or len(columns) == 1):
                lines.append(line)
                # One column alone has no separator, so what looks like one belongs to the text.
                rows.append([separator.join(record)] if len(columns) == 1 else record)
            elif record:
                raise refused_at(
                    where,
                    f"line {line}",
                    f"{len(record)} values, but line 1 names {len(columns)} columns. Text with a "
                    f"{separator!r} in it stands in double quotes.",
                )
            line = reader.line_num + 1
    except csv.Error as err:
        is_quotes = "expected after" in str(err) or "unexpected end" in str(err)
        hint = " Double quotes do not match." if is_quotes else ""
        raise refused_at(where, f"line {line}", f"{err}.{hint}") from err
    return _checked(TextList(where, tuple(columns or ()), lines, rows))


def _json_lines(where: str, text: str) -> TextList:
    lines, rows = [], []
    columns: dict[str, None] = {}
    for line, said in enumerate(text.split("\n"), 1):
        if not said.strip():
            continue
        try:
            row = json.loads(said)
        except (ValueError, RecursionError) as err:
            raise refused_at(where, f"line {line}", f"no JSON: {err}.") from err
        if not isinstance(row, dict):
            raise refused_at(where, f"line {line}", "no JSON object with a path and a label.")
        lines.append(line)
        rows.append(row)
        columns |= dict.fromkeys(row)
    return _checked(TextList(where, tuple(columns), lines, rows))


def _checked(found: TextList) -> TextList:
    if not found.rows:
        what = "names columns, but no image" if found.columns else "is empty"
        raise refused_at(found.where, "line 1", f"the list {what}.")
    return found
