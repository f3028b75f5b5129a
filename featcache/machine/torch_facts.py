"""torch and what it sees: asked in a process of its own, which a broken torch may end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from featcache.core.files import human_bytes
from featcache.core.gpus_seen import gpus_seen
from featcache.errors import clipped, counted
from featcache.machine.finding import OK, PROBLEM, WARNING, Finding

Facts = Mapping[str, Mapping[str, Any]]

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from featcache.machine.torch_child import main; main()"
)
_TIMEOUT_S = 180.0  # the first import from a cold disk of a cluster takes a minute
_INSTALL = "Install torch and torchvision of one release (README, Install)."
_LEAST_MEMORY = 1_000_000_000  # an extraction takes 0.8 GB (docs/benchmarks/older.md#memory)
_FAILED = "failed"
_MOST_NAMED = 8  # backbones


def look() -> Iterator[Finding]:
    """Ask torch, in a process of its own."""
    facts = _asked()
    if isinstance(facts, Finding):
        yield facts
    else:
        yield from findings(facts, gpus=gpus_seen(), environment=os.environ)


def findings(
    facts: Facts, *, gpus: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Say what the facts mean.

    Args:
        facts: As `torch_child.facts` gives them.
        gpus: What `gpus_seen` sees without torch.
        environment: Of this process.
    """
    torch = facts["torch"]
    if _FAILED in torch:
        yield Finding("torch", PROBLEM, f"cannot be imported: {torch[_FAILED]}", _INSTALL)
        return
    built_for = f"for CUDA {torch['built_for']}" if torch["built_for"] else "for the CPU alone"
    yield Finding("torch", OK, f"{torch['version']}, built {built_for}")
    vision = facts["torchvision"]
    if _FAILED in vision:
        yield Finding("torchvision", PROBLEM, f"cannot be imported: {vision[_FAILED]}", _INSTALL)
    else:
        yield Finding("torchvision", OK, vision["version"])
    for name, look in (("device", _device), ("cores", _cores), ("memory", _memory)):
        if _FAILED in facts[name]:
            yield Finding(name, PROBLEM, f"cannot be told: {facts[name][_FAILED]}", _INSTALL)
        else:
            yield look(facts, gpus, environment)
    if _FAILED not in facts["weights"]:  # torchvision's failure is told above
        yield _weights(facts["weights"])


def _device(facts: Facts, gpus: Mapping[str, str], environment: Mapping[str, str]) -> Finding:
    device, torch = facts["device"], facts["torch"]
    said = f"{device['device']}: {device['why']}; {device['precision']}"
    if device["device"] != "cpu":
        return Finding("device", OK, f"{said}, {human_bytes(device['free'])} of GPU memory free")
    said = f"{said}, {device['simd']}"
    if not gpus["devices"]:
        return Finding("device", OK, said)
    said = f"{said}. There is a GPU ({gpus['devices']}), which is not used"
    hidden = [name for name in gpus if name.endswith("VISIBLE_DEVICES")]
    if not torch["built_for"]:
        way_out = "Install a CUDA build of torch (README, Install)."
    elif hidden:
        way_out = f"{hidden[0]} is {gpus[hidden[0]]!r}, which may hide it: unset it to use the GPU."
    else:
        way_out = (
            f"Its driver may be too old for CUDA {torch['built_for']}, or may not be running: see "
            f"what nvidia-smi says."
        )
    return Finding("device", WARNING, said, way_out)


def _cores(facts: Facts, gpus: Mapping[str, str], environment: Mapping[str, str]) -> Finding:
    cores = facts["cores"]
    named = f", {cores['processor']}" if cores["processor"] else ""
    said = f"{cores['why']}{named}; torch computes with {counted(cores['n_threads'], 'thread')}"
    variables = [n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if environment.get(n)]
    if not variables or cores["n_threads"] >= cores["n_cores"]:
        return Finding("cores", OK, said)
    way_out = f"{variables[0]} is {environment[variables[0]]}: unset it to use all cores."
    return Finding("cores", WARNING, said, way_out)


def _memory(facts: Facts, gpus: Mapping[str, str], environment: Mapping[str, str]) -> Finding:
    memory = facts["memory"]
    said = f"{human_bytes(memory['n_bytes'])} of {memory['kind']} free"
    if memory["n_bytes"] >= _LEAST_MEMORY:
        return Finding("memory", OK, said)
    return Finding(
        "memory",
        WARNING,
        f"{said}: an extraction, or a training beside its rows, takes about 0.8 GB",
        "End other programs, raise the limit of the container, or take a smaller backbone.",
    )


def _weights(weights: Mapping[str, Any]) -> Finding:
    names = [f"{name} ({', '.join(of_it)})" for name, of_it in weights["here"].items()]
    shown = ", ".join(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        shown += f" and {len(names) - _MOST_NAMED} more"
    if names:
        return Finding("weights", OK, f"{shown} in {weights['folder']}")
    return Finding(
        "weights",
        OK,
        f"none of torchvision's in {weights['folder']}",
        "extract downloads what it needs; without a network, put the file there.",
    )


def _asked() -> Facts | Finding:
    """Start the process, and read what it says; a Finding if it does not come to that."""
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        said = f"could not be imported within {_TIMEOUT_S:.0f} s"
        return Finding("torch", PROBLEM, said, "See whether its disk or network is slow.")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Finding("torch", PROBLEM, f"Python ended by {name} when it was imported", _INSTALL)
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        facts: Facts = json.loads(lines[-1])
    except (IndexError, ValueError):
        complaints = done.stderr.decode(errors="replace").strip().splitlines()
        said = clipped(complaints[-1]) if complaints else "Python ended without a word"
        return Finding("torch", PROBLEM, f"cannot be looked at: {said}", _INSTALL)
    return facts
