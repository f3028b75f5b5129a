"""The harness: peers run in turn in one process, their answers agree first, ratios are of pairs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import featcache

Run = Callable[[], tuple[float, Any]]


@dataclass(frozen=True)
class Peer:
    """One way to do a piece of work.

    Attributes:
        name: In the table.
        run: Does the work; gives its seconds and an answer that `gate` can compare.
        n: Units of work that it does; a slow peer may do fewer.
        gated: Whether its answer must agree with the first peer's.
    """

    name: str
    run: Run
    n: int
    gated: bool = True


def left_out(name: str, packages: Mapping[str, str]) -> str | None:
    """Say that a peer is left out, and what to install; None if it is all there.

    Args:
        name: The peer's.
        packages: What it needs: pip's names, by the modules that are imported.
    """
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if not missing:
        return None
    return (
        f"{name} is left out: not installed: {', '.join(missing)}. "
        f'To have it compared: pip install -e ".[bench]"'
    )


def compare(
    title: str, peers: Sequence[Peer], *, gate: Callable[[Any, Any], float], repeats: int, unit: str
) -> dict[str, Any]:
    """Run peers in turn and compare them with the first, which is featcache's.

    Every peer runs once before anything is timed, and its answer passes the gate or the comparison
    is void; `error` is what the gate told of it. `ratio` is the median over the repeats of the
    peer's seconds per unit by featcache's in the same round: above 1, featcache is faster.
    """
    reference = peers[0].run()[1]
    errors = {}
    for peer in peers[1:]:
        answer = peer.run()[1]
        if peer.gated:
            errors[peer.name] = gate(reference, answer)
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(repeats):
        for peer in peers:
            seconds[peer.name].append(peer.run()[0] / peer.n)
    ours = seconds[peers[0].name]
    rows = []
    for peer in peers:
        each = seconds[peer.name]
        ratios = [theirs / own for theirs, own in zip(each, ours, strict=True)]
        rows.append(
            {
                "name": peer.name,
                "per_s": 1 / statistics.median(each),
                "low": 1 / max(each),
                "high": 1 / min(each),
                "n": len(each),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "gated": peer.gated,
                "error": errors.get(peer.name),
            }
        )
    result = {"title": title, "unit": unit, "rows": rows}
    print(table(result), flush=True)
    return result


def table(result: Mapping[str, Any]) -> str:
    """Write one comparison as Markdown."""
    lines = [
        f"### {result['title']}",
        "",
        f"| way | {result['unit']} a second | range | featcache is faster by | range | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        name = row["name"] if row["gated"] else f"{row['name']} (answer not compared)"
        lines.append(
            f"| {name} | {row['per_s']:,.3g} | {row['low']:,.3g} to {row['high']:,.3g} "
            f"| **{row['ratio']:.2f}** | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} "
            f"| {row['n']} |"
        )
    gated = [row for row in result["rows"] if row.get("error") is not None]
    if gated:
        errors = ", ".join(f"{row['name']} {row['error']:.1e}" for row in gated)
        lines += ["", f"Largest difference from the first way, of the largest number: {errors}."]
    return "\n".join(lines) + "\n"


def close(rtol: float) -> Callable[[Any, Any], float]:
    """Make a gate: no two numbers differ by more than `rtol` of the largest; by how much."""

    def gate(expected: torch.Tensor, answer: torch.Tensor) -> float:
        n = min(len(expected), len(answer))
        largest = expected[:n].abs().max()
        difference = (expected[:n] - answer[:n].to(expected.device)).abs().max()
        assert difference <= rtol * largest, f"answers differ by {difference / largest:.2g}"
        return float(difference / largest)

    return gate


def machine(device: str = "cpu") -> dict[str, Any]:
    """Name what the figures were taken on."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "pytorch_lightning": version("pytorch_lightning"),
        "featcache": featcache.__version__,
        "load_before": os.getloadavg()[0],
    }
    if device != "cpu":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
