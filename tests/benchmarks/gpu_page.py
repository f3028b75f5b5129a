"""Write a page for people from the figures of the GPU benchmark.

python -m tests.benchmarks.gpu_page STEM      reads STEM.json, writes STEM.md
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def page(report: dict[str, Any]) -> str:
    """Render the parts that are there."""
    machine, bench, parts = report["machine"], report["bench"], report["parts"]
    described = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [
        f"# featcache on {machine.get('gpu', bench['device'])}",
        "",
        "Made by `python -m tests.benchmarks.gpu STEM`, then `python -m tests.benchmarks.gpu_page",
        "STEM`. Weights are random, images noise of the size of CIFAR-10. Rates are medians of 3",
        "rounds; extractions and trainings ran once each.",
        "",
        *textwrap.wrap(f"Machine: {described}.", 100),
        "",
    ]
    for name, render in _PARTS.items():
        if name in parts:
            figures = {k: v for k, v in parts[name].items() if k != "took_s"}
            shown = ["FAILED, see the JSON file."] if "failed" in figures else render(figures)
            lines += [f"## {_TITLES[name]}", "", *shown, ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in row) + " |" for row in cells]


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _pairs(figures: dict[str, Any]) -> list[str]:
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        inner = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}: {k}": v for k, v in inner} if inner else {name: value}
    return _table(["what", "figure"], [[k.replace("_", " "), _number(v)] for k, v in flat.items()])


def _rates(figures: dict[str, Any]) -> list[str]:
    head = ["backbone, precision, memory format", "images/s", "with preprocessing", "TFLOP/s"]
    rows = [[name, *(_number(v) if v else "-" for v in f.values())] for name, f in figures.items()]
    return _table(head, rows)


def _extractions(figures: dict[str, Any]) -> list[str]:
    head = ["extraction", "images/s", "fill, s", "whole call, s", "engine", "GPU memory, GB"]
    rows = [
        [
            name,
            _number(f["img_per_s"]),
            _number(f["fill_s"]),
            _number(f["whole_call_s"]),
            f["choices"]["trunk"].partition(";")[0],
            _number(f["peak_gpu_gb"]),
        ]
        for name, f in figures.items()
    ]
    return _table(head, rows)


def _images(figures: dict[str, Any]) -> list[str]:
    rows = [
        [name, _number(f["img_per_s"] if isinstance(f, dict) else f)] for name, f in figures.items()
    ]
    return _table(["way", "images/s"], rows)


def _epochs(figures: dict[str, Any]) -> list[str]:
    return [line for each in figures.values() for line in (*each["table"].splitlines(), "")][:-1]


def _replayed(figures: dict[str, Any]) -> list[str]:
    head = ["head", "rows/s, replayed", "times as fast as plain steps", "range"]
    rows = [
        [
            name,
            _number(f["replayed_rows_per_s"]),
            _number(f["gain"]),
            f"{min(f['gains']):.3g} to {max(f['gains']):.3g}",
        ]
        for name, f in figures.items()
    ]
    return _table(head, rows)


_PARTS = {
    "limits": _pairs,
    "precision": _pairs,
    "features": _pairs,
    "same_bytes": _pairs,
    "memory": _pairs,
    "losses": _pairs,
    "backbones": _rates,
    "extractions": _extractions,
    "image_files": _images,
    "heads": _pairs,
    "head_epochs": _epochs,
    "replayed_steps": _replayed,
    "many_heads": _pairs,
}
_TITLES = {
    "limits": "What the machine allows",
    "precision": "Errors against float64, whatever the user has set",
    "features": "Features against the CPU's in fp32, in units of the largest",
    "same_bytes": "Cut in the middle and resumed: the same file",
    "memory": "A card that gets smaller: batch size, and a digest of the features",
    "losses": "Losses of 100 steps against the CPU's",
    "backbones": "Backbones on a resident batch",
    "extractions": "Whole extractions",
    "image_files": "Photos of 500 x 375 in a folder",
    "heads": "Heads by the front door",
    "head_epochs": "An epoch of a head, beside peers",
    "replayed_steps": "Steps replayed as CUDA graphs",
    "many_heads": "Many heads side by side",
}


def main() -> None:
    stem = Path(sys.argv[1])
    report = json.loads(stem.with_suffix(".json").read_text())
    stem.with_suffix(".md").write_text(page(report))


if __name__ == "__main__":
    main()
