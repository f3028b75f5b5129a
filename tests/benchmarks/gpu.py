"""featcache on one CUDA GPU: is it right, how fast is it, and what bounds it?

    python -m tests.benchmarks.gpu OUT_STEM [PART ...] [--images N] [--compile ENGINE] [--rehearse]

All parts take some 8 minutes on an H100. Needs no network: weights are random, images noise of
CIFAR-10's size. A part that fails is reported, and the others go on; figures are written after each
one. Parts of an earlier call with the same OUT_STEM are kept. Without a GPU it says so and ends
with 0; --rehearse runs every part on the CPU, with small sizes, to see that it runs at all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from featcache.config import ExtractSpec
from tests.benchmarks import gpu_checks, gpu_rates
from tests.benchmarks.gpu_subjects import Bench, Figures
from tests.benchmarks.measure import machine

PARTS: Mapping[str, Callable[[Bench], Figures]] = {
    "limits": gpu_rates.limits,
    "precision": gpu_checks.precision_under_settings,
    "pixels": gpu_checks.pixels,
    "features": gpu_checks.features,
    "same_bytes": gpu_checks.same_bytes,
    "memory": gpu_checks.memory,
    "losses": gpu_checks.losses,
    "heads": gpu_checks.heads,
    "backbones": gpu_rates.backbones,
    "extractions": gpu_rates.extractions,
    "image_files": gpu_rates.image_files,
    "head_epochs": gpu_rates.head_epochs,
    "replayed_steps": gpu_rates.replayed_steps,
    "many_heads": gpu_rates.many_heads,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--compile", default=ExtractSpec.compile)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not (options.rehearse or torch.cuda.is_available()):
        print("No CUDA device is visible: nothing was measured.")
        return
    bench = _rehearsal() if options.rehearse else _on_gpu(options.images, options.compile)
    file = options.stem.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text())["parts"] if file.exists() else {}
    report = {
        "machine": machine(bench.device),
        "bench": vars(bench),
        "parts": before,
    }
    chosen = options.parts or list(PARTS)
    for name in chosen:
        report["parts"][name] = _measured(name, bench)
        file.write_text(json.dumps(report, indent=1, default=str) + "\n")
    failed = [name for name in chosen if "failed" in report["parts"][name]]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} parts hold. Failed: {failed or 'none'}")
    sys.exit(1 if failed else 0)


def _measured(name: str, bench: Bench) -> Figures:
    started = time.perf_counter()
    try:
        figures = PARTS[name](bench)
    except Exception:  # a part that fails must not take the others with it
        figures = {"failed": traceback.format_exc()}
    figures["took_s"] = time.perf_counter() - started
    print(f"== {name}\n{json.dumps(figures, indent=1, default=str)}", flush=True)
    if not bench.is_rehearsal:
        torch.cuda.empty_cache()
    return figures


def _on_gpu(n_images: int, compile: str) -> Bench:
    names = ("vgg16", "mobilenet_v3_large", "resnet50")
    return Bench("cuda:0", n_images, 256, 224, names, 40_000, compile)


def _rehearsal() -> Bench:
    return Bench("cpu", 64, 8, 32, ("resnet18", "mobilenet_v3_large"), 640, "never")


if __name__ == "__main__":
    main()
