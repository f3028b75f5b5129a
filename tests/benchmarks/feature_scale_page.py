"""What tests.benchmarks.feature_scale found, as a page and a picture."""

from __future__ import annotations

import textwrap
from fractions import Fraction

from matplotlib.figure import Figure

from featcache.training.notebook_systems import find_system
from tests.benchmarks.resultfile import ResultFile, markdown_table

PLAIN, L1L2, DROPOUT = SYSTEM_NAMES = ("vgg16", "vgg16-l1l2", "vgg16-dropout")
FIGURES = ("test_acc", "test_loss")


def chosen_scale(file: ResultFile) -> str:
    """Choose the scale where the plain system's test_loss is nearest to the notebook's."""
    wanted = find_system(PLAIN).test_loss

    def distance(scale: str) -> float:
        return abs(file.spread("test_loss", scale=scale, system=PLAIN).mean - wanted)

    return min(_scales(file), key=distance)


def page(file: ResultFile) -> str:
    """Write the page."""
    machine = ", ".join(f"{name} {value}" for name, value in file.content["machine"].items())
    lines = ["# The scale of VGG16's features", ""]
    lines += _paragraph(
        "Made by `python -m tests.benchmarks.feature_scale`. Each head is the notebook's, trained "
        "on the cache's rows times s; mean ± standard deviation (n seeds)."
    )
    lines += _paragraph(f"Machine: {machine}.")
    if shown := file.content.get("homogeneous"):
        lines += _paragraph(
            f"Rows of the network whose last convolution is scaled are the rows times s, bit for "
            f"bit: {shown['n_images']} images, {shown['n_features']:,} features, the largest "
            f"{shown['largest']:.1f}, backbone by {shown['engine']}."
        )
    return (
        "\n".join([*lines, *_all_scales(file), *_predictions(file), *_pairs(file)]).rstrip() + "\n"
    )


def picture(file: ResultFile) -> Figure:
    """Draw the figures over the scale, the notebook's as broken lines."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    scales = _scales(file)
    at = [float(Fraction(scale)) for scale in scales]
    for axes, name in zip(figure.subplots(1, 2), FIGURES, strict=True):
        for i, system in enumerate(SYSTEM_NAMES):
            spreads = [file.spread(name, scale=scale, system=system) for scale in scales]
            axes.errorbar(
                at,
                [spread.mean for spread in spreads],
                yerr=[spread.sd or 0 for spread in spreads],
                fmt="o-",
                capsize=3,
                color=f"C{i}",
                label=system,
            )
            axes.axhline(getattr(find_system(system), name), ls="--", lw=1, color=f"C{i}")
        axes.axvline(float(Fraction(chosen_scale(file))), color="grey", lw=1)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="scale of the features", ylabel=name)
        axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return figure


def _all_scales(file: ResultFile) -> list[str]:
    head = ["s", *(f"{system}: {name}" for system in SYSTEM_NAMES for name in FIGURES), "order"]
    rows = []
    for scale in _scales(file):
        spreads = [
            file.spread(name, scale=scale, system=system)
            for system in SYSTEM_NAMES
            for name in FIGURES
        ]
        rows.append([scale, *spreads, _in_order(file, scale)])
    own = [
        f"{getattr(find_system(system), name):.4f}" for system in SYSTEM_NAMES for name in FIGURES
    ]
    rows.append(["the notebook", *own, ""])
    told = (
        "Order: in how many seeds test_acc of plain is at least l1l2's, and l1l2's above dropout's."
    )
    return [*markdown_table(head, rows), *_paragraph(told)]


def _predictions(file: ResultFile) -> list[str]:
    scale = chosen_scale(file)
    rows = []
    for system in SYSTEM_NAMES:
        for name in FIGURES:
            spread = file.spread(name, scale=scale, system=system)
            published = getattr(find_system(system), name)
            interval = spread.prediction()
            is_within = "-" if interval is None else "yes" if published in interval else "no"
            if (system, name) == (PLAIN, "test_loss"):
                is_within = "s was chosen by it"
            rows.append([system, name, f"{published:.4f}", spread, interval or "-", is_within])
    told = (
        "The scale is chosen by the plain system's test_loss alone. The interval is where one "
        "further seed is expected with 95%; it takes the scale for known."
    )
    head = ["system", "figure", "the notebook", "predicted", "95% interval", "within"]
    return [f"## Predicted at s = {scale}", "", *_paragraph(told), *markdown_table(head, rows)]


def _pairs(file: ResultFile) -> list[str]:
    rows = []
    for scale in _scales(file):
        for system in (L1L2, DROPOUT):
            first, second = ({"scale": scale, "system": name} for name in (PLAIN, system))
            pairs = [file.difference(name, first, second) for name in FIGURES]
            cells = [f"{spread.mean:+.4f} ({interval or '-'})" for spread, interval in pairs]
            rows.append([scale, f"{system} minus {PLAIN}", *cells, pairs[0][0].n])
    told = "Differences of heads of the same seed: their mean, and its 95% interval."
    head = ["s", "difference", *FIGURES, "n"]
    return ["## The same seeds", "", *_paragraph(told), *markdown_table(head, rows)]


def _in_order(file: ResultFile, scale: str) -> str:
    by_system = [
        {r["seed"]: r["test_acc"] for r in file.results if (r["scale"], r["system"]) == (scale, s)}
        for s in SYSTEM_NAMES
    ]
    seeds = set.intersection(*map(set, by_system))
    triples = [[accuracies[seed] for accuracies in by_system] for seed in seeds]
    n = sum(plain >= l1l2 > dropout for plain, l1l2, dropout in triples)
    return f"{n} of {len(triples)}"


def _scales(file: ResultFile) -> list[str]:
    """List the scales that all three systems have, the largest first."""
    by_system = [{r["scale"] for r in file.results if r["system"] == s} for s in SYSTEM_NAMES]
    return sorted(set.intersection(*by_system), key=Fraction, reverse=True)


def _paragraph(text: str) -> list[str]:
    return [*textwrap.wrap(text, 100), ""]
