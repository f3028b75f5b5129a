"""What an export is to do, settled before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featcache.config.export_specs import ExportSpec
from featcache.deployment.exports.check_images import CheckImages
from featcache.deployment.exports.run_facts import RunFacts
from featcache.deployment.exports.targets import ExportTarget
from featcache.deployment.named_backbone import NamedBackbone
from featcache.heads.trained_head import TrainedHead


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """An export.

    Attributes:
        spec: Which kind of file.
        target: Its name, and those of the files beside it.
        run: The folder of the head.
        head: The head.
        named: Its backbone.
        facts: What its card tells of its data and figures.
        images: Those of the check; None leaves it out.
    """

    spec: ExportSpec
    target: ExportTarget
    run: Path
    head: TrainedHead
    named: NamedBackbone
    facts: RunFacts
    images: CheckImages | None
