"""The result of an audit as JSON, and read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from featcache.core.from_file import from_file
from featcache.core.paths import native, portable
from featcache.insight.audit.result import (
    AuditedImage,
    AuditResult,
    ClassCount,
    DuplicatePair,
    LabelIssue,
    Outlier,
    OutOfFold,
    UnreadableImage,
)

T = TypeVar("T")


def audit_to_json(found: AuditResult) -> dict[str, Any]:
    """Write what an audit found of images; of a list that it wrote, and of a head, nothing."""
    of_this_time = dict.fromkeys(("kept", "n_kept", "tested"))
    return {**asdict(found), **of_this_time, "cache": portable(found.cache)}


def audit_from_json(said: Mapping[str, Any]) -> AuditResult:
    """Read what an audit found.

    Raises:
        KeyError, TypeError, ValueError: If it is not what was written.
    """
    judged = said["out_of_fold"]
    return from_file(
        AuditResult,
        said,
        cache=Path(native(said["cache"])),
        kept=None,
        n_images=_counts(said["n_images"]),
        in_train=_counts(said["in_train"]),
        duplicates=_each(said["duplicates"], _pair),
        label_issues=_each(said["label_issues"], lambda one: _about(LabelIssue, one)),
        outliers=_each(said["outliers"], lambda one: _about(Outlier, one)),
        unreadable=_each(said["unreadable"], lambda one: _about(UnreadableImage, one)),
        balance=_each(said["balance"], lambda one: from_file(ClassCount, one, n=_counts(one["n"]))),
        remarks=tuple(map(str, said["remarks"])),
        out_of_fold=None if judged is None else from_file(OutOfFold, judged),
        tested=None,  # the heads of a report tell it of themselves
    )


def _each(said: Sequence[Any], read: Callable[[Any], T]) -> tuple[T, ...]:
    return tuple(read(one) for one in said)


def _pair(said: Mapping[str, Any]) -> DuplicatePair:
    first, second = (from_file(AuditedImage, said[name]) for name in ("first", "second"))
    return from_file(DuplicatePair, said, first=first, second=second)


def _about(kind: type[T], said: Mapping[str, Any]) -> T:
    return from_file(kind, said, image=from_file(AuditedImage, said["image"]))


def _counts(said: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(n) for name, n in said.items()}
