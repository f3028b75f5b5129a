"""An evaluation as a notebook shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.core.html_table import html_facts, html_table

if TYPE_CHECKING:
    from featcache.evaluation.evaluate import Evaluation
    from featcache.evaluation.metrics import Estimate


def evaluation_html(found: Evaluation) -> str:
    """Write its figures with 95% intervals, and the table of its classes."""
    facts = {
        f"{found.split}_acc": _with_interval(found.acc),
        f"{found.split}_loss": _with_interval(found.loss),
        "macro_f1": _with_interval(found.macro_f1),
        "balanced_acc": _with_interval(found.balanced_acc),
        f"top{found.k}_acc": _with_interval(found.top_k),
        "train_acc": None if found.train_acc is None else f"{found.train_acc:.4f}",
        "auroc": None if found.auroc is None else f"{found.auroc:.4f}",
        "images": found.n_images,
        "views of each, averaged": found.n_views if found.n_views > 1 else None,
        **{f"remark {i}": remark for i, remark in enumerate(found.remarks, 1)},
    }
    figures = html_facts(facts, caption=found.run)
    if found.confusion is None:  # above 100 classes
        return figures
    rows = (
        (c.name, c.n, f"{c.precision:.4f}", f"{c.recall:.4f}", f"{c.f1:.4f}") for c in found.classes
    )
    return figures + html_table(["class", "images", "precision", "recall", "f1"], rows)


def _with_interval(estimate: Estimate | None) -> str | None:
    if estimate is None:
        return None
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"
