"""How a head is found: by which solver, on which treatment of the features, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from featcache.core.arguments import option_name, require_above_zero, typed
from featcache.core.options import check_fields, option, options_in
from featcache.errors import UsageError

MLP = "mlp"
SOLVERS = (MLP, "logreg", "knn", "ncm", "ridge", "lda")
TREATMENTS = ("raw", "standard", "l2")
MOST_VALUES = 200  # of --C or --k
MOST_STEPS = 1000  # of L-BFGS

DECADES = tuple(10.0**power for power in range(-6, 7))
# 10^linspace(-6, 5, 45): https://github.com/facebookresearch/dinov2, dinov2/eval/log_regression.py
DINOV2 = tuple(10.0 ** (-6 + 11 * i / 44) for i in range(45))

# The options that each solver has, and their defaults; every solver has a treatment.
OPTIONS_OF_SOLVER: Mapping[str, Mapping[str, Any]] = {
    MLP: {"features": "raw"},
    "logreg": {"features": "standard", "C": DECADES, "refit": True},
    "knn": {"features": "l2", "k": (10, 20, 100, 200), "temperature": 0.07},
    "ncm": {"features": "l2"},
    "ridge": {"features": "raw"},
    "lda": {"features": "standard"},
}
_OFF: Mapping[str, Any] = {"C": (), "refit": None, "k": (), "temperature": None}


def _solvers_with(name: str) -> str:
    """Name the solvers that an option belongs to."""
    return " or ".join(solver for solver, own in OPTIONS_OF_SOLVER.items() if name in own)


@options_in("Solver")
@dataclass(frozen=True, kw_only=True)
class SolverSpec:
    """How a head is found; None stands for the solver's own default."""

    solver: str = option(
        MLP,
        "How the head is found. mlp: layers trained by Adam. logreg: logistic regression by "
        "L-BFGS. knn: votes of the nearest neighbours. ncm: nearest class mean. ridge: regression "
        "with leave-one-out. lda: linear discriminant with shrinkage.",
        choices=SOLVERS,
    )
    features: str | None = option(
        None,
        "Treatment of the features. raw: as they are. standard: mean 0 and deviation 1 over the "
        "training rows. l2: rows of length 1.",
        choices=TREATMENTS,
        unset="raw for mlp and ridge, standard for logreg and lda, l2 for knn and ncm",
    )
    C: tuple[float, ...] | None = option(
        None,
        "Inverse strength of logreg's L2 penalty, as scikit-learn's: a value, several with commas "
        "between, or dinov2 (45 values). The one with the lowest val_loss is taken.",
        unset="1e-6 to 1e6 in decades",
        words={"dinov2": DINOV2},
    )
    refit: bool | None = option(  # None of a solver that has no refit
        True, "Fit logreg's chosen C again on training and validation rows together."
    )
    k: tuple[int, ...] | None = option(
        None,
        "Neighbours that vote with knn; of several the one with the lowest val_loss is taken.",
        least=1,
        unset=typed(OPTIONS_OF_SOLVER["knn"]["k"]),
    )
    temperature: float | None = option(
        None,
        "A neighbour of similarity s votes with exp(s / temperature).",
        unset=str(OPTIONS_OF_SOLVER["knn"]["temperature"]),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        own = OPTIONS_OF_SOLVER[self.solver]
        if self.features is None:
            object.__setattr__(self, "features", own["features"])
        for name in _OFF:
            self._settle(name, own)
        for name in ("C", "k"):
            self._check_several(name)
        for value in self.C or ():
            require_above_zero("--C", value)
        if self.temperature is not None:
            require_above_zero("--temperature", self.temperature)

    def _settle(self, name: str, own: Mapping[str, Any]) -> None:
        """Put the default where nothing was given; refuse what the solver has no use for."""
        value = getattr(self, name)
        if name in own:
            object.__setattr__(self, name, own[name] if value is None else value)
        elif value in (None, _OFF[name], getattr(SolverSpec, name)):
            object.__setattr__(self, name, _OFF[name])
        else:
            given = "--no-refit" if value is False else f"{option_name(name)} {typed(value)}"
            raise UsageError(
                f"{given} does nothing with --solver {self.solver}. Nothing was started. Use "
                f"--solver {_solvers_with(name)}, or leave it out."
            )

    def _check_several(self, name: str) -> None:
        """Sort the values of an option, each once; refuse none of them, and too many."""
        values = tuple(sorted(set(getattr(self, name))))
        if name in OPTIONS_OF_SOLVER[self.solver] and not values:
            raise UsageError(f"{option_name(name)} has no value. Give one, or leave it out.")
        if len(values) > MOST_VALUES:
            raise UsageError(
                f"{option_name(name)} has {len(values)} values, but must have at most "
                f"{MOST_VALUES}."
            )
        object.__setattr__(self, name, values)

    def require_one_value(self) -> None:
        """Refuse to choose between values, where there are no rows to choose by.

        Raises:
            UsageError: If there are several values.
        """
        for name in ("C", "k"):
            if len(values := getattr(self, name)) > 1:
                raise UsageError(
                    f"--{name} has {len(values)} values, but no row is left to choose between them "
                    f"by. Nothing was fitted. Give one value, or a --val-fraction above 0."
                )

    @property
    def is_mlp(self) -> bool:
        """Whether the head is layers that Adam trains."""
        return self.solver == MLP

    @property
    def treatment(self) -> str:
        """The treatment of the features."""
        assert self.features is not None, "settled before"
        return self.features

    @property
    def identity(self) -> dict[str, Any]:
        """What of it stands in the identity of a run: nothing for an MLP on raw features."""
        own = OPTIONS_OF_SOLVER[self.solver]
        if self.is_mlp and self.features == own["features"]:
            return {}
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: told[name] for name in ("solver", *own)}

    @classmethod
    def from_identity(cls, said: Mapping[str, Any]) -> SolverSpec:
        """Read what an identity says; what it does not say is at its default."""
        read: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in said.items()}
        return cls(**read)
