"""The options of `report`."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.core.options import check_fields, option, options_in


@options_in("Page")
@dataclass(frozen=True, kw_only=True)
class ReportSpec:
    """What a report is written to, and what it tells."""

    out: str = option("report.html", "The page to write; a report that is there is replaced.")
    paths: bool = option(
        True, "Tell the paths of files, and the ids of images, which may be paths."
    )
    audit: bool = option(
        False,
        "Also audit the images of the caches, as `featcache audit` does: minutes for large caches. "
        "The result is kept, and later reports show it in any case.",
    )
    pdf: bool = option(
        False, "Also write the page as a PDF file beside it, by a browser that is installed."
    )

    def __post_init__(self) -> None:
        check_fields(self)
