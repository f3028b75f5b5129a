"""The options of what is larger than one process."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from featcache.core.arguments import device_name, option_name
from featcache.core.options import check_fields, option, options_in
from featcache.errors import UsageError, clipped

MOST_SHARES = 99_999  # five digits in the name of a part
MOST_HOURS = 24 * 365
MOST_ROWS = 10**12  # of a forecast
LEAST_RATE, MOST_RATE = 1e-6, 1e9  # images a second, likewise
MOST_DEVICES = 256
_NUMBER = re.compile(r"(cpu:)?([0-9]{1,6})")
_SHARE = re.compile(r"(?P<index>\d{0,6}|plan|ray)/(?P<n>\d{1,6})")


@options_in("Scale")
@dataclass(frozen=True, kw_only=True)
class ShareSpec:
    """Which share of a cache is computed here."""

    share: str | None = option(
        None,
        "Compute only one share, as a part that `cache merge` joins: I/N, with I from 0 to N-1. /N "
        "takes I from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX; plan/N makes the plan alone; "
        "ray/N computes all of them on a Ray cluster.",
        unset="the whole cache",
    )
    wait: float = option(
        6.0,
        "Hours to wait for the plan of the parts, while another process makes it.",
        least=0,
        most=MOST_HOURS,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if math.isnan(self.wait):
            raise UsageError("--wait is nan, but must be a number of hours.")
        if self.share is not None:
            split_share(self.share)


@options_in("Machine")
@dataclass(frozen=True, kw_only=True)
class DevicesSpec:
    """The devices of this machine that do one job together."""

    devices: str | None = option(
        None,
        "Compute on several devices, each by a process of its own: N for the first N GPUs, names "
        "like cuda:0,cuda:2, or cpu:N for N processes on the CPU.",
        unset="the one of --device",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.devices is not None:
            device_list(self.devices)


@options_in("Forecast")
@dataclass(frozen=True, kw_only=True)
class ForecastSpec:
    """What a forecast takes instead of finding it out."""

    rows: int | None = option(
        None,
        "With --plan: count so many images, of a dataset that is not opened.",
        least=1,
        most=MOST_ROWS,
        unset="those of the dataset",
    )
    images_per_s: float | None = option(
        None,
        "With --plan: images that one device computes a second.",
        unset="measured here",
    )
    decoded_per_s: float | None = option(
        None,
        "With --plan: image files that one core decodes a second.",
        unset="measured here",
    )
    image_nbytes: int | None = option(
        None,
        "With --plan: bytes of an image file.",
        least=1,
        unset="measured here",
        unit="bytes",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("images_per_s", "decoded_per_s"):
            rate = getattr(self, name)
            if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
                raise UsageError(
                    f"{option_name(name)} is {rate:g}, but must be from {LEAST_RATE:g} to "
                    f"{MOST_RATE:g}."
                )


def device_list(devices: str) -> tuple[str, ...]:
    """Read "2" as ("cuda:0", "cuda:1"), "cpu:2" as ("cpu", "cpu"), and names as they are.

    Raises:
        UsageError: If it is not written so, or CPU and GPUs are mixed.
    """
    asked = devices.strip().lower()
    if found := _NUMBER.fullmatch(asked):
        if not 1 <= int(found[2]) <= MOST_DEVICES:
            raise UsageError(
                f"--devices is {devices!r}, but the number of devices must be 1 to "
                f"{MOST_DEVICES}. Nothing was started."
            )
        return tuple("cpu" if found[1] else f"cuda:{i}" for i in range(int(found[2])))
    try:
        names = tuple(device_name(name.strip()) for name in asked.split(","))
    except UsageError as err:
        raise _no_devices(devices) from err
    names = tuple("cuda:0" if name == "cuda" else name for name in names)
    if "auto" in names or len(names) > MOST_DEVICES or ("cpu" in names and len(names) > 1):
        raise _no_devices(devices)
    return names


def devices_asked(devices: str, device: str, *, usual: str) -> tuple[str, ...]:
    """Read `--devices`, and refuse it beside a `--device` that is not at its default.

    Raises:
        UsageError: If both are given, or it is not written as `device_list` reads it.
    """
    names = device_list(devices)
    if device != usual:
        raise UsageError(
            f"--device {device} and --devices {devices} both say where to compute. Nothing was "
            f"started. Leave one of them out."
        )
    return names


def _no_devices(devices: str) -> UsageError:
    return UsageError(
        f"--devices is {clipped(devices)!r}, but must be a number of GPUs, names like "
        f"cuda:0,cuda:1, or cpu:N for N processes on the CPU. Nothing was started."
    )


def split_share(share: str) -> tuple[str, int]:
    """Read "3/16" as ("3", 16); before the slash may be "plan", "ray" or nothing.

    Raises:
        UsageError: If it is not written so, or names a share that does not exist.
    """
    found = _SHARE.fullmatch(share.strip())
    if found is None or not 1 <= int(found["n"]) <= MOST_SHARES:
        raise UsageError(
            f"--share is {share!r}, but must be I/N, like 0/16, with N from 1 to {MOST_SHARES}; or "
            f"/N, plan/N or ray/N. Nothing was started."
        )
    index, n = found["index"], int(found["n"])
    if index.isdigit():
        require_share(int(index), n)
    return index, n


def require_share(index: int, n: int, *, named: str = "--share") -> None:
    """Refuse the number of a share that does not exist.

    Raises:
        UsageError: If it is not within 0..N-1.
    """
    if index >= n:
        raise UsageError(
            f"{named} asks for share {index} of {n}, but shares are counted from 0 to {n - 1}. "
            f"Nothing was started. An array of SLURM is --array=0-{n - 1}."
        )
