"""What `--devices` names, and how a refusal comes back from a worker."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import featcache
from featcache import errors
from featcache.config.scale_specs import device_list
from featcache.core.workers.messages import read_error, written_error
from featcache.errors import FeatcacheError, UnknownNameError, UsageError


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, FeatcacheError)
    ],
)
def test_a_refusal_comes_back_as_it_was(kind: type[FeatcacheError]) -> None:
    names = {"known": ("a", "b"), "listing": "featcache ls"}
    err = kind("sort", "c", **names) if issubclass(kind, UnknownNameError) else kind("a 'word'")

    found = read_error(written_error(err).encode())

    assert (type(found), str(found), found.exit_code) == (kind, str(err), kind.exit_code)


@pytest.mark.parametrize("name", ["os", "counted", "InterruptedRunError", "nothing"])
def test_what_is_no_refusal_is_an_error_without_a_kind(name: str) -> None:
    assert type(read_error(json.dumps([name, "text"]).encode())) is FeatcacheError


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("2", ("cuda:0", "cuda:1")),
        ("cuda:0,CUDA:3", ("cuda:0", "cuda:3")),
        ("cuda", ("cuda:0",)),
        (" cpu:2 ", ("cpu", "cpu")),
        ("cpu", ("cpu",)),
    ],
)
def test_devices_are_a_number_names_or_processes_on_the_cpu(
    typed: str, names: tuple[str, ...]
) -> None:
    assert device_list(typed) == names


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "0",
        "cpu:0",
        "cpu:999",
        "-1",
        "cpu,cpu",
        "cpu,cuda:0",
        "auto",
        "gpu",
        "cuda:",
        "²",
        "9" * 5000,
    ],
)
def test_other_devices_are_refused(typed: str) -> None:
    with pytest.raises(UsageError, match=r"--devices .* must be"):
        device_list(typed)


def test_device_and_devices_contradict_each_other(spec: featcache.ExtractSpec) -> None:
    with pytest.raises(UsageError, match="--device cpu and --devices cpu:2 both say"):
        featcache.extract_on_devices(replace(spec, device="cpu"), devices="cpu:2")
