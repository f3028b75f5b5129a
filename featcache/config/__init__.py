"""Every option with its default, help text and limits, once; no torch.

`specs` has those of an extraction, `head_specs` those of a head and of its training, `solver_specs`
those of other solvers, `export_specs` those of a file for other programs, `scale_specs` those of
shares and devices; `calls` has those of a whole call. The two of `reproduce` alone stand in
training/notebook_systems.py, beside what they name.
"""

from featcache.config.audit_specs import AuditSpec
from featcache.config.calls import EvaluateSpec, ParitySpec, RunSpec
from featcache.config.export_specs import ExportSpec
from featcache.config.head_specs import (
    NOTEBOOK_VALUES,
    OF_THE_RECIPE,
    OPTIONS_OF_REG,
    REGULARISATIONS,
    VAL_FRACTION,
    HeadSpec,
    TrainSpec,
)
from featcache.config.insight_specs import ProbeSpec, SimilarSpec
from featcache.config.predict_specs import PredictSpec
from featcache.config.report_specs import ReportSpec
from featcache.config.scale_specs import DevicesSpec, ForecastSpec, ShareSpec
from featcache.config.solver_specs import SOLVERS, TREATMENTS, SolverSpec
from featcache.config.specs import (
    BN_MODES,
    EXIF_ORIENTATIONS,
    IMPORTED,
    MAX_PIXELS,
    NOTEBOOK_SIZE,
    POOLS,
    SPLITS,
    TOLD_OF_HEADERS,
    ExtractSpec,
)

__all__ = [
    "BN_MODES",
    "EXIF_ORIENTATIONS",
    "IMPORTED",
    "MAX_PIXELS",
    "NOTEBOOK_SIZE",
    "NOTEBOOK_VALUES",
    "OF_THE_RECIPE",
    "OPTIONS_OF_REG",
    "POOLS",
    "REGULARISATIONS",
    "SOLVERS",
    "SPLITS",
    "TOLD_OF_HEADERS",
    "TREATMENTS",
    "VAL_FRACTION",
    "AuditSpec",
    "DevicesSpec",
    "EvaluateSpec",
    "ExportSpec",
    "ExtractSpec",
    "ForecastSpec",
    "HeadSpec",
    "ParitySpec",
    "PredictSpec",
    "ProbeSpec",
    "ReportSpec",
    "RunSpec",
    "ShareSpec",
    "SimilarSpec",
    "SolverSpec",
    "TrainSpec",
]
