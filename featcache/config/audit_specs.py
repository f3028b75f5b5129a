"""The options of an audit."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.options import check_fields, option, options_in

MOST_TOLD = 1_000_000


@options_in("Audit")
@dataclass(frozen=True, kw_only=True)
class AuditSpec:
    """How the images of a cache are audited."""

    top: int = option(
        20,
        "Name this many of the likeliest label errors, and of the outliers.",
        least=1,
        most=MOST_TOLD,
    )
    write_list: str | None = option(
        None,
        "Write a list of the images, without those that are there twice or cannot be read. The "
        "file must not exist. `extract --dataset list:FILE` takes it.",
        unset="none",
    )
    run: str | None = option(
        None,
        "A run's folder, or part of its name: this head is tested without the test images that "
        "are in train too.",
        unset="the newest of this cache",
    )

    def __post_init__(self) -> None:
        check_fields(self)
