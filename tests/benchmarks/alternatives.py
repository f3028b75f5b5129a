"""What a user would pick instead on a CPU: ONNX Runtime, OpenVINO, scikit-learn; alone, in minutes.

    python -m tests.benchmarks.alternatives OUT_STEM [--quick] [--data-dir DATA]

The same tables as in `bench`, of which these are a part: the engines on a backbone alone, and an
epoch of a head. Writes OUT_STEM.json and .md. Peers that are not installed are left out, by name
(`pip install -e ".[bench]"`). The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks import peers_heads
from tests.benchmarks.bench import (
    CPU,
    FULL,
    N_FEATURES,
    QUICK,
    Result,
    Size,
    engines,
    images,
    not_installed,
)
from tests.benchmarks.measure import close, compare, machine, table

PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    for said in not_installed():
        print(said, flush=True)
    facts = machine() | versions()
    pixels = images(max(size.n_images.values()), options.data_dir)
    tables = [engines(name, pixels, size) for name in N_FEATURES]
    tables += [head(name, size) for name in N_FEATURES]
    report = {
        "machine": facts,
        "quick": options.quick,
        "tables": tables,
        "left_out": not_installed(),
    }
    stem = options.stem
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = [f"Machine: {told}.", "", *map(table, tables), *report["left_out"]]
    stem.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


def head(name: str, size: Size) -> Result:
    """Compare ways to train an epoch of a head, without those that read rows one at a time."""
    rows = peers_heads.synthetic_rows(size.n_rows[name], N_FEATURES[name], CPU)
    listed = peers_heads.peers(rows, N_FEATURES[name])
    title = f"An epoch of the {name} head, {len(rows.labels):,} rows of {N_FEATURES[name]:,}"
    return compare(title, listed, gate=close(1e-4), repeats=size.repeats, unit="rows")


def versions() -> dict[str, str]:
    """Name the versions of what is installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    main()
