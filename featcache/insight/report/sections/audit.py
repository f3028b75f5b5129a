"""What an audit found in a cache: duplicates, doubtful labels, outliers, as pictures and lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache.errors import counted
from featcache.insight.audit.result import (
    CANDIDATE,
    AuditedImage,
    AuditResult,
    DuplicatePair,
    LabelIssue,
    Outlier,
)
from featcache.insight.page.document import Section
from featcache.insight.page.markup import Content, Html, element, joined, name, paragraph
from featcache.insight.page.pictures import Picture, picture_rows, pictures
from featcache.insight.page.table import details, table
from featcache.insight.report.material import Material, percent

N_PAIRS, N_PICTURES = 8, 12
"""So many pictures of each kind."""
_MOST_ROWS = 50  # of a table


def audit(material: Material) -> Section | None:
    """Write what is known of the images of the caches; nothing where no audit was asked for."""
    audited = [facts.audit for facts in material.facts.values() if facts.audit is not None]
    if not audited:
        return None
    parts: list[Content] = []
    for found in audited:
        if len(audited) > 1:
            parts.append(paragraph(element("strong", f"By the features of {found.cache.stem}")))
        parts += _of_cache(found, material)
    return Section("audit", "Audit of the images", joined(*parts))


def shown_images(found: AuditResult) -> list[AuditedImage]:
    """List the images of which a page shows pictures."""
    pairs = [one for pair in found.duplicates[:N_PAIRS] for one in (pair.first, pair.second)]
    doubtful = [one.image for one in found.label_issues[:N_PICTURES]]
    return [*pairs, *doubtful, *(one.image for one in found.outliers[:N_PICTURES])]


def _of_cache(found: AuditResult, material: Material) -> list[Content]:
    instead = "A remark of the audit names files, and is left out."
    remarks = [material.naming.message(remark, instead=instead) for remark in found.remarks]
    parts: list[Content] = [paragraph(_summary(found))]
    if told := [*dict.fromkeys(remarks), *_tested(found, material)]:
        parts.append(element("ul", *(element("li", said) for said in told)))
    parts += _duplicates(found, material)
    parts += _label_issues(found, material)
    parts += _outliers(found, material)
    parts += _lists(found, material)
    return parts


def _summary(found: AuditResult) -> str:
    kinds = [f"{found.n_duplicates(k):,} {k}" for k in ("exact", "near") if found.n_duplicates(k)]
    pairs = f"{' and '.join(kinds)} duplicates" if kinds else "no duplicates"
    crossing = ", ".join(f"{n:,} of {split!r}" for split, n in found.in_train.items() if n)
    in_train = f"; images that are in 'train' too: {crossing}" if crossing else ""
    judged = found.out_of_fold
    labels = ""
    if judged is not None:
        labels = (
            f". Heads that never saw an image ({judged.solver}, {judged.n_folds} folds) name "
            f"another class than its label for {judged.n_doubted:,} of {judged.n_images:,}; they "
            f"are right for {percent(judged.acc)}, so most of these doubts are their own mistakes"
        )
    return f"Of {sum(found.n_images.values()):,} images: {pairs}{in_train}{labels}."


def _tested(found: AuditResult, material: Material) -> list[str]:
    """Tell the accuracy of each system of this cache without test images that it was trained on."""
    seen = {
        one.id
        for pair in found.duplicates
        for one, other in ((pair.first, pair.second), (pair.second, pair.first))
        if pair.kind != CANDIDATE and one.split == "test" and other.split in ("train", "val")
    }
    said = []
    for system in material.systems:
        facts = material.facts_of(system)
        if not seen or facts is None or facts.audit is not found or system.split != "test":
            continue
        assert system.acc is not None
        ids = next(r.evaluation.answers.ids for r in system.answered if r.evaluation)
        is_kept = np.array([image_id not in seen for image_id in ids], np.bool_)
        if is_kept.any():
            acc, n_kept = system.is_right[:, is_kept].mean(), int(is_kept.sum())
            said.append(
                f"{system.name}: test_acc {system.acc.value:.4f} of {len(ids):,} images, "
                f"{acc:.4f} of the {n_kept:,} that are not in 'train' or 'val' too."
            )
    return said


def _duplicates(found: AuditResult, material: Material) -> list[Content]:
    if not found.duplicates:
        return []
    rows = [
        (
            [_picture(one, found, material) for one in (pair.first, pair.second)],
            paragraph(_of_pair(pair)),
        )
        for pair in found.duplicates[:N_PAIRS]
    ]
    title = "Duplicates" if found.near_decided_by == "images" else "Candidates for duplicates"
    return [element("h3", title), picture_rows(rows, label=title)]


def _of_pair(pair: DuplicatePair) -> str:
    cosine = "" if pair.cosine is None else f", cosine {pair.cosine:.3f}"
    labels = "; their labels differ" if pair.labels_differ else ""
    return f"{pair.kind}{cosine}{labels}"


def _label_issues(found: AuditResult, material: Material) -> list[Content]:
    if not found.label_issues:
        return []
    shown = [
        _picture(one.image, found, material, *_doubt(one))
        for one in found.label_issues[:N_PICTURES]
    ]
    said = "The likeliest label errors first. It is a ranking for a look by hand, and no proof."
    title = "Doubtful labels"
    return [element("h3", title), paragraph(said), pictures(shown, label=title)]


def _doubt(one: LabelIssue) -> tuple[Content, ...]:
    given, other = percent(one.p_label), percent(one.p_suggested)
    return name(one.image.label), f" {given}, or ", name(one.suggested), f" {other}?"


def _outliers(found: AuditResult, material: Material) -> list[Content]:
    if not found.outliers:
        return []
    shown = [
        _picture(one.image, found, material, *_far(one)) for one in found.outliers[:N_PICTURES]
    ]
    said = "Images far from all others, compared with images of their class."
    return [element("h3", "Outliers"), paragraph(said), pictures(shown, label="Outliers")]


def _far(one: Outlier) -> tuple[Content, ...]:
    return (f"{one.deviations:.1f} deviations below its class",)


def _picture(
    image: AuditedImage, found: AuditResult, material: Material, *said: Content
) -> Picture:
    called = material.naming.image(image.split, image.row, image.id)
    source = material.pictures.get((found.cache.name, image.split, image.row), "")
    label = joined(name(image.label), element("br")) if image.label and not said else None
    caption = joined(label, *said, element("br") if said else None, name(called))
    return Picture(source, alt=f"{image.label} {called}".strip(), caption=caption)


def _lists(found: AuditResult, material: Material) -> list[Content]:
    """Write the lists as tables that are folded away."""
    parts: list[Content] = []
    rows: list[tuple[Content, ...]]
    if found.duplicates:
        rows = [
            (_named(p.first, material), _named(p.second, material), p.kind, *_figures(p))
            for p in found.duplicates[:_MOST_ROWS]
        ]
        columns = ["image", "other", "kind", "#cosine", "#correlation"]
        parts.append(_list("Pairs", columns, rows, len(found.duplicates)))
    if found.label_issues:
        rows = [
            (_named(one.image, material), name(one.image.label), name(one.suggested), *_of(one))
            for one in found.label_issues[:_MOST_ROWS]
        ]
        columns = ["image", "label", "suggested", "#p of the label", "#p of the other"]
        parts.append(_list("Doubtful labels", columns, rows, len(found.label_issues)))
    if found.unreadable:
        rows = [(_named(one.image, material), one.reason) for one in found.unreadable[:_MOST_ROWS]]
        parts.append(_list("Unreadable images", ["image", "reason"], rows, len(found.unreadable)))
    if found.balance:
        splits = list(found.balance[0].n)
        rows = [
            (name(one.name), *(f"{one.n[split]:,}" for split in splits)) for one in found.balance
        ]
        columns = ["class", *(f"#{split}" for split in splits)]
        parts.append(_list("Images of each class", columns, rows, len(rows)))
    return parts


def _list(title: str, columns: list[str], rows: Sequence[Sequence[Content]], n: int) -> Html:
    first = f", the first {len(rows)} of {n:,}" if len(rows) < n else ""
    return details(
        f"{title} ({n:,})", table(columns, rows, caption=f"{title}: {counted(n, 'row')}{first}")
    )


def _figures(pair: DuplicatePair) -> tuple[str, str]:
    cosine = "-" if pair.cosine is None else f"{pair.cosine:.4f}"
    return cosine, "-" if pair.correlation is None else f"{pair.correlation:.4f}"


def _of(one: LabelIssue) -> tuple[str, str]:
    return f"{one.p_label:.4f}", f"{one.p_suggested:.4f}"


def _named(image: AuditedImage, material: Material) -> Html:
    return name(material.naming.image(image.split, image.row, image.id))
