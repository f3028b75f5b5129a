"""`featcache extract --plan`: what it will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featcache.config import ExtractSpec, ForecastSpec
from featcache.errors import UsageError, counted
from featcache_cli.console import duration, note, rate_of, show_json
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache import Forecast


def show_forecast(
    specs: Sequence[ExtractSpec], asked: ForecastSpec, *, share: str | None, json: bool
) -> Forecast:
    """Show the forecast of one extraction."""
    from featcache import forecast

    if len(specs) != 1:
        raise UsageError(f"--plan takes one backbone, but {len(specs)} are named.")
    found = forecast(specs[0], share=share, **vars(asked), on_note=note)
    if json:
        show_json(found)
    else:
        _show(found)
    for remark in found.remarks:
        note(remark)
    return found


def _show(found: Forecast) -> None:
    from featcache.store import human_bytes

    facts: dict[str, object] = {
        "rows": f"{found.rows:,} of {counted(found.n_features, 'feature')}",
        "cache": f"{human_bytes(found.nbytes)}, in {counted(found.n_blocks, 'block')} of "
        f"{counted(found.rows_per_block, 'row')}",
    }
    if found.n_shares > 1:
        size = human_bytes(found.nbytes_per_share)
        facts["shares"] = f"{found.n_shares}, of {found.rows_per_share:,} rows and {size} at most"
    if found.images_per_s is not None:
        facts["backbone"] = f"{rate_of(found.images_per_s)} on one device ({found.device})"
    if found.decoded_per_s is not None:
        facts["decoding"] = f"{rate_of(found.decoded_per_s)} a core"
        if found.images_per_s is not None:
            needed = f"{found.cores_per_device:.3g} for each device"
            facts["cores"] = f"{needed}; this machine has {found.cores}"
    facts["bound by"] = found.bound_by
    if math.isfinite(found.rate):
        facts["rate"] = f"{rate_of(found.rate)} on one machine with one device"
        reads, writes = (
            human_bytes(round(found.read_per_s)),
            human_bytes(round(found.written_per_s)),
        )
        facts["read, written"] = f"{reads} and {writes} a second"
        facts["time"] = duration(found.hours_per_share * 3600)
        if found.n_shares > 1:
            kind = "CPU" if found.device == "cpu" else "GPU"
            facts["time"] = f"{found.device_hours:,.2f} {kind} hours, {facts['time']} a share"
    if found.n_shares > 1:
        facts["array"] = f"--array={found.array}"
    facts["share" if found.n_shares > 1 else "command"] = found.command
    show_facts(facts)
