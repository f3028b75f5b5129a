"""How far apart two right computations of the same features may be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

TF32_ON_CPU = "--precision tf32 exists only on CUDA. Use fp32 or bf16 on a CPU."
OF_PRECISION: Mapping[str, float] = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""The largest difference of a feature, in units of the largest feature.

fp32 differs by the order of its sums. The others round the operands of every layer to 10, 7 and 10
bits of fraction, and the layers of a backbone add that up (docs/benchmarks.md has what was seen).
"""
REFERENCE_TOLERANCE: Mapping[str, float] = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}
"""The largest difference of reference rows that are of the same function, likewise by precision.

It is wider than that of rows: they are compared from machine to machine, and over the years. A
function that was changed on purpose differs by far more.
"""


def feature_tolerance(precision: str, store_dtype: str = "float32") -> float:
    """Say by how much features may differ, in units of the largest feature.

    Args:
        precision: "fp32", "tf32", "bf16" or "fp16": the less exact one of both computations.
        store_dtype: "float32" or "float16", in which nearly equal numbers may round to neighbours.
    """
    rounding = float(np.finfo(np.float16).eps) if store_dtype == "float16" else 0.0
    return OF_PRECISION[precision] + rounding
