"""The reference notebook's five systems on CIFAR-10, with the figures it prints.

Its data: Resize((224, 224)), ToTensor, Normalize(.5); 40,000 / 10,000 by random_split with seed 42.
Its figures come from one unseeded run each, of the last weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featcache.config import HeadSpec, TrainSpec
from featcache.core.backbone_names import PIXELS, backbone_name
from featcache.core.options import check_fields, option, options_in
from featcache.errors import UnknownNameError

DATASET = "cifar10"


@dataclass(frozen=True)
class System:
    """One of the five systems.

    Attributes:
        name: As `reproduce` knows it.
        backbone: Its backbone.
        head: Its head.
        train: Its training.
        test_acc: What the notebook prints.
        test_loss: What the notebook prints.
    """

    name: str
    backbone: str
    head: HeadSpec
    train: TrainSpec
    test_acc: float
    test_loss: float


SYSTEMS = (
    # Its text says 50 epochs, its code 10.
    System(
        "scratch-mlp",
        PIXELS,
        HeadSpec(hidden=(256, 64)),
        TrainSpec(max_epochs=10, patience=5),
        0.5134,
        1.3992,
    ),
    System("vgg16", "vgg16", HeadSpec(), TrainSpec(max_epochs=5, patience=3), 0.8031, 0.6668),
    System(
        "vgg16-l1l2",
        "vgg16",
        HeadSpec(reg="l1l2"),
        TrainSpec(max_epochs=5, patience=0),
        0.8015,
        0.6868,
    ),
    System(
        "vgg16-dropout",
        "vgg16",
        HeadSpec(reg="dropout"),
        TrainSpec(max_epochs=5, patience=0),
        0.7663,
        1.0495,
    ),
    System(
        "mobilenet-v3",
        "mobilenet_v3_large",
        HeadSpec(),
        TrainSpec(max_epochs=50, patience=3),
        0.7414,
        0.7419,
    ),
)


@options_in("Systems")
@dataclass(frozen=True, kw_only=True)
class ReproduceSpec:
    """Which of the systems `reproduce` runs, and with which backbones.

    It stands here and not in config, because it names the systems.
    """

    only: tuple[str, ...] = option(
        (), "Run only these systems.", choices=tuple(system.name for system in SYSTEMS)
    )
    backbone_for: Mapping[str, str] | None = option(
        None, "Let another backbone stand in for one of the notebook's: vgg16=mobilenet_v2."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        known = list(dict.fromkeys(system.backbone for system in SYSTEMS))
        stand_ins = {}
        for name, backbone in (self.backbone_for or {}).items():
            if name.lower() not in known:
                raise UnknownNameError(
                    "backbone of the notebook", name, known, listing="featcache reproduce --help"
                )
            stand_ins[name.lower()] = backbone_name(backbone)
        object.__setattr__(self, "backbone_for", stand_ins)

    @property
    def systems(self) -> tuple[System, ...]:
        """The systems that are run, in the order that was asked for."""
        return tuple(map(find_system, self.only)) or SYSTEMS

    def backbone_of(self, system: System) -> str:
        """The backbone that a system is run with."""
        assert self.backbone_for is not None, "settled before"
        return self.backbone_for.get(system.backbone, system.backbone)


def find_system(name: str) -> System:
    """Find a system by its name.

    Raises:
        UnknownNameError: If there is none.
    """
    by_name = {system.name: system for system in SYSTEMS}
    if name.lower() not in by_name:
        raise UnknownNameError("system", name, by_name, listing="featcache reproduce --help")
    return by_name[name.lower()]
