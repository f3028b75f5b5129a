"""One cache, computed on several devices of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from featcache.config import ExtractSpec
from featcache.config.scale_specs import DevicesSpec, devices_asked
from featcache.core.reporting import NoteCallback, silent
from featcache.core.starting import ANY_START, starting
from featcache.errors import UsageError
from featcache.extraction.extract import find_or_make
from featcache.extraction.progress import ProgressCallback
from featcache.extraction.result import ExtractResult

if TYPE_CHECKING:
    from featcache.extraction.plan import Plan
    from featcache.extraction.run import Made


@starting(*ANY_START)
def extract_on_devices(
    spec: ExtractSpec,
    *,
    devices: str | None = DevicesSpec.devices,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ExtractResult:
    """Run a dataset through a frozen backbone once, on several devices of this machine.

    Each device has a process of its own, and all of them write one file: that of a single process,
    byte for byte, if its CPU threads are as many. A partial file is continued on any number of
    devices. One device runs in this process.

    Args:
        spec: What the cache is to be, as `extract` takes it; its device is "auto".
        devices: As in `DevicesSpec`.
        on_progress: Called about once a second.
        on_note: Called with a sentence for each choice that was made.

    Returns:
        The path of the cache, and how it came to be.

    Raises:
        DeviceError: If a device is missing or fails, or workers die again and again.
        FeatcacheError: As `extract` raises them.

    Example:
        >>> import featcache
        >>> spec = featcache.ExtractSpec(dataset="digits", backbone="pixels", cache_dir=str(tmp))
        >>> featcache.extract_on_devices(spec, devices="cpu:1").n_rows
        1797
    """
    asked = DevicesSpec(devices=devices)
    if asked.devices is None:
        raise UsageError("--devices says where the cache is computed, but was not given.")
    names = devices_asked(asked.devices, spec.device, usual=ExtractSpec.device)

    def making(
        plans: Sequence[Plan], *, on_progress: ProgressCallback, on_note: NoteCallback
    ) -> list[Made]:
        from featcache.scale.devices.leader import make_on_devices  # it imports torch

        return make_on_devices(names, plans, on_progress=on_progress, on_note=on_note)

    first = replace(spec, device=names[0])
    [result] = find_or_make([first], on_progress or silent, on_note or silent, making=making)
    return result
