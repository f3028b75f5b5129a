"""The table of `reproduce`: each system beside the notebook's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.evaluation.metrics import Interval, Spread


@dataclass(frozen=True)
class SystemResult:
    """One line of the table.

    Attributes:
        name: The system.
        backbone: The backbone that was used.
        bn: "frozen" or "adapted".
        test_acc: Over the seeds; None where the dataset has no split "test".
        test_loss: Over the seeds.
        published_acc: The notebook's figure; None where dataset or backbone are not its own.
        published_loss: The notebook's figure.
        acc_interval: Where one further seed's test_acc is expected with 95%; None for one seed.
        loss_interval: Where its test_loss is expected.
        acc_within: Whether the notebook's figure lies there; None where one of the two is missing.
        loss_within: The same for test_loss.
        extract_s: Seconds of the extraction, all images at its rate; None if it was there before.
        train_s: Seconds of training, the mean over the seeds.
        end_to_end_s: Seconds that images and backbone alone would take in one end-to-end run of as
            many epochs, at the rate of the extraction; None without a backbone or that rate.
        runs: The folders of its heads.
    """

    name: str
    backbone: str
    bn: str
    test_acc: Spread | None
    test_loss: Spread | None
    published_acc: float | None
    published_loss: float | None
    acc_interval: Interval | None
    loss_interval: Interval | None
    acc_within: bool | None
    loss_within: bool | None
    extract_s: float | None
    train_s: float
    end_to_end_s: float | None
    runs: Sequence[Path]


def beside(
    seeds: Spread | None, published: float | None, possible: Interval
) -> tuple[Interval | None, bool | None]:
    """Predict a further seed's figure with 95%, and tell whether a published one lies there.

    Each is None where it cannot be said: of fewer than two seeds, or with nothing published.
    `possible` is what a figure can be.
    """
    interval = seeds.prediction(possible) if seeds else None
    if interval is None or published is None:
        return interval, None
    return interval, published in interval


def markdown_table(systems: Sequence[SystemResult]) -> str:
    """Write the table as Markdown: mean ± standard deviation (n)."""
    lines = [
        "| system | backbone | BatchNorm | test_acc | notebook | within 95% | test_loss | notebook "
        "| within 95% | extraction s | training s | end to end s, at least |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for system in systems:
        cells = [system.name, system.backbone, system.bn, *figures(system)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figures(system: SystemResult) -> list[str]:
    """Write the figures of a line for people, "-" where there is none."""
    return [
        str(system.test_acc or "-"),
        _number(system.published_acc, "{:.4f}"),
        _within(system.acc_within, system.acc_interval),
        str(system.test_loss or "-"),
        _number(system.published_loss, "{:.4f}"),
        _within(system.loss_within, system.loss_interval),
        _number(system.extract_s, "{:.0f}"),
        _number(system.train_s, "{:.1f}"),
        _number(system.end_to_end_s, "{:.0f}"),
    ]


def _within(is_within: bool | None, interval: Interval | None) -> str:
    return "-" if is_within is None else f"{'yes' if is_within else 'no'} ({interval})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
