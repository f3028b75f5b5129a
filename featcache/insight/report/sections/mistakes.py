"""The most confident mistakes as pictures, each beside the training image nearest to it."""

from __future__ import annotations

from featcache.insight.page.document import Section
from featcache.insight.page.markup import Content, Html, joined, name, paragraph
from featcache.insight.page.pictures import Picture, picture_rows
from featcache.insight.report.material import Material, percent
from featcache.insight.report.mistakes import Mistake, Shown


def mistakes(material: Material) -> Section | None:
    """Show the most confident mistakes of the best system's first head."""
    best = material.best
    if best is None:
        return None
    title = "The most confident mistakes"
    if not material.mistakes:
        return Section("mistakes", title, paragraph(f"{best.name} makes no mistake."))
    seed = f", seed {best.answered[0].head.train.seed}" if len(best.runs) > 1 else ""
    said = [f"Images that {best.name}{seed} takes for another class with the highest probability"]
    has_nearest = any(one.nearest is not None for one in material.mistakes)
    if has_nearest:
        said.append(
            ", each beside the training image whose features are nearest. Where the two are of one "
            "kind, the label may be wrong; where they are the same image, the test is not fair"
        )
    parts: list[Content] = [paragraph(*said, ".")]
    if material.no_pictures:
        instead = "the images are no longer where they were."
        why = material.naming.message(material.no_pictures, instead=instead)
        parts.append(paragraph(f"There are no pictures: {why}"))
    elif material.mistakes[0].image.row is None:
        parts.append(paragraph("The cache is gone, so there is neither picture nor neighbour."))
    rows = [(_pictures(one, material), _told(one, material)) for one in material.mistakes]
    label = f"Mistakes of {best.name}"
    parts.append(picture_rows(rows, label=label))
    return Section("mistakes", title, joined(*parts))


def _pictures(mistake: Mistake, material: Material) -> list[Picture]:
    if not _has_picture(mistake, material):
        return []
    names = material.class_names
    taken_for = f"taken for {names[mistake.prediction]}"
    shown = [_picture(mistake.image, f"{names[mistake.image.label]}, {taken_for}", material)]
    if mistake.nearest is not None:
        said = f"nearest: {names[mistake.nearest.label]}"
        shown.append(_picture(mistake.nearest, said, material))
    return shown


def _has_picture(mistake: Mistake, material: Material) -> bool:
    return not material.no_pictures and mistake.image.row is not None


def _picture(shown: Shown, said: str, material: Material) -> Picture:
    called = _called(shown, material)
    reason = material.naming.message(shown.reason, instead="")
    caption = joined(f"{reason}: " if reason else None, called)
    return Picture(shown.source, alt=f"{said} ({called})", caption=caption)


def _called(shown: Shown, material: Material) -> str:
    if shown.row is None:
        return f"{shown.split} {shown.id}" if material.naming.paths else shown.split
    return material.naming.image(shown.split, shown.row, shown.id)


def _told(mistake: Mistake, material: Material) -> Html:
    names = material.class_names
    parts: list[Content] = [
        name(names[mistake.image.label]),
        " taken for ",
        name(names[mistake.prediction]),
        f" with {percent(mistake.confidence)}",
    ]
    if mistake.nearest is not None:
        parts += ["; nearest: ", name(names[mistake.nearest.label])]
        parts.append(f", cosine {mistake.cosine:.3f}")
    if not _has_picture(mistake, material):
        parts.append(f" ({_called(mistake.image, material)})")
    return paragraph(*parts)
