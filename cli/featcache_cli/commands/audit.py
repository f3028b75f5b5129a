"""`featcache audit`: duplicates, doubtful labels and outliers among the images of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.config import AuditSpec, ExtractSpec, RunSpec
from featcache.errors import UsageError, counted
from featcache_cli import completion as complete
from featcache_cli.console import (
    ProgressDisplay,
    duration,
    note,
    reset_progress,
    show_json,
    show_text,
    tell_remarks,
)
from featcache_cli.options import CsvOption, JsonOption, options_of, takes
from featcache_cli.tables import show_facts, show_table

if TYPE_CHECKING:
    from featcache import AuditedImage, AuditResult


@takes(
    options_of(AuditSpec),
    options_of(
        ExtractSpec,
        "dataset",
        help={"dataset": "Where the images are now."},
        optional=True,
        unset="where they were",
    ),
    options_of(ExtractSpec, "data_dir", "cache_dir", "device", "n_workers"),
    options_of(RunSpec, "runs_dir"),
)
def audit(
    cache: Annotated[
        str | None,
        typer.Argument(
            metavar="CACHE",
            autocompletion=complete.caches,
            help="A cache file, or part of its name. Without one, the cache that train-head takes.",
        ),
    ] = None,
    *,
    top: int,
    csv: CsvOption = False,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Look for duplicates, wrong labels and outliers among the images of a cache.

    Images of the same bytes are duplicates, and so are those that look alike. Labels and outliers
    are ranked, for you to look at: they are no proof. Nothing is edited.
    """
    from featcache import audit as run

    if json and csv:
        raise UsageError("--json and --csv both write to stdout. Give one of them.")
    display = ProgressDisplay()
    result = run(cache, top=top, **options, on_progress=display.show, on_note=note)
    reset_progress()
    if json:
        show_json(result)
    elif csv:
        from featcache.insight.audit.as_csv import as_csv

        show_text(as_csv(result))
    else:
        _show(result, top)
        tell_remarks(result.remarks)


def _show(result: AuditResult, top: int) -> None:
    show_facts(_facts(result))
    _show_duplicates(result, top)
    _show_labels(result, top)
    _show_outliers(result)
    _show_balance(result, top)
    if result.unreadable:
        _headed(f"not readable{_first(len(result.unreadable), top)}")
        rows = [[_at(one.image), one.reason] for one in result.unreadable[:top]]
        show_table(["image", "reason"], rows)


def _show_duplicates(result: AuditResult, top: int) -> None:
    if result.duplicates:
        _headed(f"duplicates{_first(len(result.duplicates), top)}")
        rows = [
            [p.kind, _figure(p.cosine), _figure(p.correlation), *_two(p.first, p.second)]
            for p in result.duplicates[:top]
        ]
        show_table(["kind", "#cosine", "#correlation", "image", "label", "same as", "label"], rows)


def _show_labels(result: AuditResult, top: int) -> None:
    if result.label_issues and result.out_of_fold:
        _headed(f"labels that others do not confirm{_first(result.out_of_fold.n_doubted, top)}")
        show_table(
            ["#p", "label", "#p", "rather", "image"],
            [
                [
                    f"{i.p_label:.3f}",
                    i.image.label,
                    f"{i.p_suggested:.3f}",
                    i.suggested,
                    _at(i.image),
                ]
                for i in result.label_issues
            ],
        )


def _show_outliers(result: AuditResult) -> None:
    if result.outliers:
        _headed("outliers")
        show_table(
            ["#deviations", "#cosine", "label", "image"],
            [
                [f"{o.deviations:.1f}", _figure(o.cosine), o.image.label or "-", _at(o.image)]
                for o in result.outliers
            ],
        )


def _show_balance(result: AuditResult, top: int) -> None:
    if result.balance:
        _headed("images of each class")
        splits = list(result.n_images)
        ordered = sorted(result.balance, key=lambda one: -sum(one.n.values()))
        counts = [[one.name, *(one.n.get(split, 0) for split in splits)] for one in ordered]
        show_table(["class", *(f"#{split}" for split in splits)], _both_ends(counts, top))


def _facts(result: AuditResult) -> dict[str, object]:
    counts = ", ".join(f"{split} {n}" for split, n in result.n_images.items())
    facts: dict[str, object] = {"cache": result.cache, "images": counts}
    near = "near" if result.near_decided_by == "images" else "candidate"
    facts["duplicates"] = ", ".join(
        f"{result.n_duplicates(kind)} {kind}" for kind in ("exact", near)
    ) + (" pairs" if near == "near" else " pairs (no image was there to decide)")
    for split, n in result.in_train.items():
        facts[f"{split} in train"] = f"{n} of {result.n_images[split]} images"
    if tested := result.tested:
        without = "-" if tested.test_acc_without is None else f"{tested.test_acc_without:.4f}"
        facts["test_acc"] = f"{tested.test_acc:.4f}, without them {without} ({tested.run})"
    if judged := result.out_of_fold:
        facts["labels"] = (
            f"{judged.n_doubted} of {judged.n_images} not confirmed by heads that are right for "
            f"{judged.acc:.4f} of all images ({judged.solver}, {judged.n_folds} folds)"
        )
    if result.unreadable:
        facts["not readable"] = counted(len(result.unreadable), "image")
    facts["time"] = duration(result.seconds)
    if result.kept is not None:
        facts["list"] = f"{result.kept} ({counted(result.n_kept or 0, 'image')})"
    return facts


def _headed(title: str) -> None:
    show_text(f"\n{title}\n")


def _first(n: int, top: int) -> str:
    return f": the first {top} of {n}" if n > top else ""


def _at(image: AuditedImage) -> str:
    return f"{image.split} {image.id}"


def _two(first: AuditedImage, second: AuditedImage) -> tuple[str, str, str, str]:
    return _at(first), first.label or "-", _at(second), second.label or "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _both_ends(rows: Sequence[list[Any]], top: int) -> Sequence[list[Any]]:
    """Show the largest and the smallest classes where there are many."""
    if len(rows) <= top:
        return rows
    half = max(1, top // 2)
    return [*rows[:half], ["...", *[""] * (len(rows[0]) - 1)], *rows[-half:]]
