"""Limits of a container, as both versions of Linux's control groups tell them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import featcache
from featcache.core import cgroup, memory
from featcache.core.device import pick_batch_size, pick_n_workers
from featcache.core.memory import free_memory
from featcache.core.usable_cores import usable_cores
from featcache.features.residence import pick_residence

GB = 10**9
Machine = Callable[[dict[str, str]], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make what stands below the root; four cores and more memory than any limit here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(memory, "_free_of_host", lambda: 500 * GB)

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        monkeypatch.setattr(cgroup, "ROOT", tmp_path / "root")

    return make


V2 = {
    "proc/self/cgroup": "0::/jobs/mine",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory",
    "sys/fs/cgroup/jobs/memory.max": "max",
    "sys/fs/cgroup/jobs/memory.current": f"{90 * GB}",
    "sys/fs/cgroup/jobs/cpu.max": "max 100000",
    "sys/fs/cgroup/jobs/mine/memory.max": f"{4 * GB}",
    "sys/fs/cgroup/jobs/mine/memory.current": f"{3 * GB}",
    "sys/fs/cgroup/jobs/mine/memory.stat": f"anon 5\ninactive_file {1 * GB}\nactive_file 7",
    "sys/fs/cgroup/jobs/mine/cpu.max": "150000 100000",
}
V1 = {
    "proc/self/cgroup": "9:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12\n1:name=systemd:/",
    "sys/fs/cgroup/memory/docker/ab12/memory.limit_in_bytes": f"{4 * GB}",
    "sys/fs/cgroup/memory/docker/ab12/memory.usage_in_bytes": f"{3 * GB}",
    "sys/fs/cgroup/memory/docker/ab12/memory.stat": f"cache 3\ntotal_inactive_file {1 * GB}",
    "sys/fs/cgroup/cpu,cpuacct/docker/ab12/cpu.cfs_quota_us": "150000",
    "sys/fs/cgroup/cpu,cpuacct/docker/ab12/cpu.cfs_period_us": "100000",
}
# Inside of a container the group's folder is the mount itself, whatever its name outside.
V1_INSIDE = {name.replace("/docker/ab12", ""): text for name, text in V1.items()}
UNLIMITED = {
    "proc/self/cgroup": "9:memory:/\n3:cpu:/\n0::/",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/unified/cgroup.procs": "",
}


@pytest.mark.parametrize("files", [V2, V1, V1_INSIDE], ids=["v2", "v1", "v1 from inside"])
def test_the_limits_of_a_container_are_read(machine: Machine, files: dict[str, str]) -> None:
    machine(files)

    assert cgroup.memory_left() == 2 * GB
    assert cgroup.cores() == 1.5


def test_the_least_limit_of_all_groups_above_counts(machine: Machine) -> None:
    machine(
        V2
        | {
            "sys/fs/cgroup/jobs/memory.max": f"{91 * GB}",
            "sys/fs/cgroup/jobs/cpu.max": "50000 100000",
        }
    )

    assert cgroup.memory_left() == 1 * GB
    assert cgroup.cores() == 0.5


@pytest.mark.parametrize("files", [UNLIMITED, {}], ids=["no limit", "no groups"])
def test_without_a_limit_the_host_decides(machine: Machine, files: dict[str, str]) -> None:
    machine(files)

    assert free_memory("cpu") == (500 * GB, "memory")
    assert usable_cores() == (4, "4 cores")


def test_a_group_that_holds_more_than_its_limit_has_nothing_left(machine: Machine) -> None:
    machine(V2 | {"sys/fs/cgroup/jobs/mine/memory.current": f"{9 * GB}"})

    assert free_memory("cpu").n_bytes == 0


def test_batch_size_and_workers_keep_to_the_limits_and_say_so(machine: Machine) -> None:
    machine(V2)

    batch_size = pick_batch_size("cpu", nbytes_per_image=100_000_000)

    assert batch_size == (
        4,
        "2.0 GB of memory within the limit of this container (cgroup) are free",
    )
    assert pick_n_workers(None) == (2, "1.5 of 4 cores, the limit of this container (cgroup)")
    assert pick_n_workers(7) == (7, "asked for")


def test_a_gpu_is_fed_by_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    assert pick_n_workers(None).value == 8
    assert pick_n_workers(None, device="cuda:0").value == 16


def test_features_stay_in_the_file_where_the_container_has_no_memory_for_them(
    machine: Machine, tmp_path: Path
) -> None:
    path = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp_path).path
    machine(V2 | {"sys/fs/cgroup/jobs/mine/memory.max": f"{3 * GB + 50_000}"})

    residence = pick_residence(featcache.open_cache(path), device=torch.device("cpu"))

    assert residence.value == "file"
    assert "50.0 kB of memory within the limit of this container (cgroup) are free" in residence.why
