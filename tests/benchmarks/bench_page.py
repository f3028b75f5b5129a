"""The report of `bench` as a page and a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.benchmarks.measure import table

Result = dict[str, Any]


def picture(growth: Result, path: Path) -> None:
    """Draw the curves of `growth`, on logarithmic axes."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, curve) in zip(figure.subplots(1, len(growth)), growth.items(), strict=True):
        sizes, seconds = zip(*curve["seconds"].items(), strict=True)
        axes.loglog(sizes, seconds, "o-")
        axes.set(xlabel=name, title=f"exponent {curve['exponent']:.2f}")
        axes.grid(visible=True, alpha=0.3)
    figure.supylabel("seconds an epoch")
    with rc_context({"svg.hashsalt": "featcache"}):
        figure.savefig(path, metadata={"Date": None})


def markdown(report: Result) -> str:
    """Write the report as a page."""
    facts = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    peaks = ", ".join(f"{name} {value:.3g}" for name, value in report["limits"].items())
    lines = ["# featcache beside its peers", ""]
    lines += ["[How these figures are taken](../benchmarks.md#how-the-figures-are-taken).", ""]
    lines += [*textwrap.wrap(f"Machine: {facts}.", 100), "", f"Measured peaks: {peaks}.", ""]
    for result in report["tables"]:
        lines.append(table(result))
        if limit := result.get("limit"):
            lines += [
                f"The limit, {limit['what']}: {limit['per_s']:,.3g} {result['unit']} a second; "
                f"featcache has {limit['share']:.2f} of it.",
                "",
            ]
        if step := result.get("bare_step_ms"):
            told = ", ".join(f"{name} {ms:.2f}" for name, ms in step.items())
            lines += [f"A step of the bare loop divides into, in ms: {told}.", ""]
    lines += [line for said in report["left_out"] for line in (said, "")]
    lines += ["### How an epoch grows", "", "| with | seconds | exponent |", "|---|---|---|"]
    for name, curve in report["growth"].items():
        seconds = ", ".join(f"{n:,}: {s:.3g}" for n, s in curve["seconds"].items())
        lines.append(f"| {name} | {seconds} | {curve['exponent']:.2f} |")
    for precision, whole in report["account"].items():
        title = f"The whole notebook (in fp32), featcache's extraction in {precision}"
        lines += ["", f"### {title}, by counted passes", ""]
        lines += ["| part | notebook, hours | featcache, hours |", "|---|---|---|"]
        for name, part in whole["parts"].items():
            hours = (part["notebook_s"] / 3600, part["featcache_s"] / 3600)
            lines.append(f"| {name} | {hours[0]:.2f} | {hours[1]:.3f} |")
        lines.append(
            f"| all | {whole['notebook_s'] / 3600:.1f} | {whole['featcache_s'] / 3600:.2f}: "
            f"**{whole['ratio']:.1f} times less** |"
        )
        lines += [
            "",
            f"With MobileNetV3 stopped after 10 epochs: "
            f"{whole['ratio_mobilenet_10_epochs']:.1f} times less.",
        ]
    return "\n".join(lines) + "\n"
