"""What came of a share of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from featcache.extraction.result import Failure


@dataclass(frozen=True)
class ShareResult:
    """What `extract_share` did.

    Attributes:
        share: "3/16", "plan/16" or "ray/16".
        outcome: "computed", "resumed" (a partial part was completed), "reused" (nothing to do),
            "empty" (there are more shares than blocks) or "planned" (the plan alone was made).
        path: The part; the plan where that was all, or that says so; the folder of the parts after
            "ray/N"; the cache if it is complete.
            A URL of what lies in an object store.
        n_rows: Rows of the share.
        n_rows_computed: Rows that this run computed.
        nbytes: Size of the part.
        failures: Images that could not be read; their rows are marked invalid.
        seconds: Wall time of this call.
        images_per_s: Rate of the computed rows; 0 if there are none.
        choices: What was chosen automatically, with the reason.
        next: The command that joins the parts, once all are there.
    """

    share: str
    outcome: str
    path: Path | str
    n_rows: int = 0
    n_rows_computed: int = 0
    nbytes: int = 0
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0
    images_per_s: float = 0.0
    choices: Mapping[str, str] = field(default_factory=dict)
    next: str = ""
