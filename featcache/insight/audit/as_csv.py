"""What an audit found as one table, a row for each finding; no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from featcache.insight.audit.result import AuditedImage, AuditResult

_COLUMNS = (
    *("finding", "kind", "split", "id", "label", "other_split", "other_id", "other_label"),
    *("cosine", "correlation", "difference", "p_label", "p_other", "deviations", "reason"),
)


def as_csv(result: AuditResult) -> str:
    """Write all findings: duplicate, label_issue, outlier and unreadable."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _printable(v) for name, v in row.items()} for row in _rows(result))
    return text.getvalue()


def _rows(result: AuditResult) -> Iterator[dict[str, Any]]:
    for pair in result.duplicates:
        yield {
            "finding": "duplicate",
            "kind": pair.kind,
            **_image(pair.first),
            **{f"other_{name}": value for name, value in _image(pair.second).items()},
            "cosine": pair.cosine,
            "correlation": pair.correlation,
            "difference": pair.difference,
        }
    for issue in result.label_issues:
        yield {
            "finding": "label_issue",
            **_image(issue.image),
            "other_label": issue.suggested,
            "p_label": issue.p_label,
            "p_other": issue.p_suggested,
        }
    for outlier in result.outliers:
        yield {
            "finding": "outlier",
            **_image(outlier.image),
            "cosine": outlier.cosine,
            "deviations": outlier.deviations,
        }
    for one in result.unreadable:
        yield {"finding": "unreadable", **_image(one.image), "reason": one.reason}


def _image(image: AuditedImage) -> dict[str, str]:
    return {"split": image.split, "id": image.id, "label": image.label}


def _printable(value: Any) -> Any:
    """Escape bytes of a file name that are not UTF-8, which no table can hold."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
