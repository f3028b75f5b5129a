"""The table of systems, with what they are compared with."""

from __future__ import annotations

from dataclasses import astuple

from featcache.insight.page.bars import Bar, dots
from featcache.insight.page.document import Section
from featcache.insight.page.markup import Content, Html, element, joined, paragraph
from featcache.insight.page.table import table
from featcache.insight.report.cache_facts import SimpleClassifier
from featcache.insight.report.material import SIMPLE, Material, interval, signed
from featcache.insight.report.systems import ReportedSystem, compared


def systems(material: Material) -> Section:
    """Write all systems with their figures, and the simplest classifiers below them."""
    is_answered = any(system.acc is not None for system in material.systems)
    parts: list[Content] = [_table(material)]
    if is_answered:
        parts += [*_explained(material), _picture(material)]
    parts += _remarks(material)
    title = "Systems" if len(material.systems) > 1 else "The head"
    return Section("systems", title, joined(*parts))


def _table(material: Material) -> Html:
    several = len(material.systems) > 1
    splits = list(dict.fromkeys(system.split for system in material.systems if system.split))
    split = splits[0] if len(splits) == 1 else ""
    columns = ["system", "#heads", f"#{split or 'test or val'}_acc"]
    columns += ["#less the first", "#p"] * several
    columns += ["#loss", "#macro F1", "#calibration error", "#val_acc", "remark"]
    rows = [_row(material, system, several) for system in material.systems]
    rows += [_simple_row(one, told, several) for told, one in _simple(material)]
    told = [i for i in range(len(columns)) if any(row[i] not in ("", "-") for row in rows)]
    return table(
        [columns[i] for i in told],
        [[row[i] for i in told] for row in rows],
        caption="Figures of each system, and of the simplest classifiers, with 95% intervals",
    )


def _row(material: Material, system: ReportedSystem, several: bool) -> list[Content]:
    acc, loss, f1, error = system.acc, system.loss, system.macro_f1, system.calibration_error
    cells: list[Content] = [system.name, len(system.runs)]
    cells.append("-" if acc is None else _with_interval(f"{acc.value:.4f}", interval(acc)))
    if several:
        cells += _less_first(material, system)
    cells += [
        "-" if loss is None else f"{loss.value:.4f}",
        "-" if f1 is None else f"{f1.value:.4f}",
        "-" if error is None else f"{error:.4f}",
        _validated(system),
        _mark(material, system),
    ]
    return cells


def _less_first(material: Material, system: ReportedSystem) -> list[Content]:
    if system is material.systems[0]:
        return ["", ""]
    asked = material.figures
    found = compared(system, material.systems[0], draws=asked.draws, seed=asked.seed)
    if found is None:
        return ["-", "-"]
    p = "-" if found.p_value is None else f"{found.p_value:.3g}"
    value, low, high = map(signed, astuple(found.difference))
    return [_with_interval(value, f"{low} to {high}"), p]


def _with_interval(value: str, ends: str) -> Html:
    """Write a figure and its interval below it: side by side, a table is too wide to be seen."""
    return joined(value, element("br"), element("span", ends, class_="muted"))


def _validated(system: ReportedSystem) -> str:
    """Show the accuracy of the validation, the mean over the seeds."""
    accs = [r.trained.val_acc for r in system.runs if r.trained is not None]
    known = [acc for acc in accs if acc is not None]
    return f"{sum(known) / len(known):.4f}" if known else "-"


def _mark(material: Material, system: ReportedSystem) -> Content:
    """Mark a head that one of the simplest classifiers beats, beyond its interval or within it."""
    acc = system.acc
    if acc is None:
        return "not evaluated"
    others = [one for one in material.simple_of(system) if one.solver != system.head.solver.solver]
    better = [one for one in others if one.acc >= acc.value]
    if not better:
        return ""
    best = max(better, key=lambda one: one.acc)
    word = "below" if best.acc > acc.high else "not above"
    return element("span", f"{word} {SIMPLE[best.solver]}", class_="mark")


def _simple(material: Material) -> list[tuple[str, SimpleClassifier]]:
    """Name the simplest classifiers on each cache; the largest class is the same on all."""
    found: dict[str, SimpleClassifier] = {}
    several = len(material.facts) > 1
    splits = {system.split for system in material.systems}
    for facts in material.facts.values():
        if facts.simple is None or facts.simple.split not in splits:
            continue  # tested on other images than the heads
        for one in facts.simple.each:
            setting = f", {one.setting}" if one.setting else ""
            of_cache = several and one.solver != "majority"
            on = f" on {facts.cache.path.stem}" if of_cache else ""
            found.setdefault(f"{SIMPLE[one.solver]}{setting}{on}", one)
    return list(found.items())


def _simple_row(one: SimpleClassifier, told: str, several: bool) -> list[Content]:
    acc = _with_interval(f"{one.acc:.4f}", interval(one.estimate))
    return [told, "", acc, *[""] * (2 * several), *[""] * 5]


def _explained(material: Material) -> list[Html]:
    """Say what the intervals are, and what the simplest classifiers were fitted on."""
    said = [
        "Intervals: of one head, the bootstrap over images; of several seeds, Student's t over the "
        "seeds, around their mean."
    ]
    if len(material.systems) > 1:
        said.append(
            " Differences are of the same images, one by one: their bootstrap draws images and "
            "seeds. p is McNemar's exact test, of one head against one. Of many comparisons, one "
            "in twenty differs by chance at this level."
        )
    parts = [paragraph(*said)]
    for facts in material.facts.values():
        simple = facts.simple
        if simple is None or simple.split not in {s.split for s in material.systems}:
            continue
        parts.append(
            paragraph(
                f"The simplest classifiers on {facts.cache.path.stem} were fitted on "
                f"{simple.n_fitted:,} of {simple.n_train:,} training images, and tested on "
                f"{simple.n_test:,} {simple.split} images. A head below one of them is marked: it "
                f"has not learned what the features say by themselves."
            )
        )
    return parts


def _picture(material: Material) -> Html:
    rows = [
        Bar(s.name, s.acc.value, s.acc.low, s.acc.high, f"{s.acc.value:.3f}")
        for s in material.systems
        if s.acc is not None
    ]
    several = len(material.facts) > 1
    rows += [
        Bar(told if several else SIMPLE[one.solver], one.acc, one.low, one.high, f"{one.acc:.3f}")
        for told, one in _simple(material)
    ]
    told = "; ".join(f"{row.name} {row.shown}" for row in rows[:20])
    return dots(
        rows,
        x_title="accuracy",
        caption="Accuracy with its 95% interval",
        alt=f"Accuracies with intervals: {told}",
    )


def _remarks(material: Material) -> list[Html]:
    """List what the figures do not say by themselves."""
    instead = "Something could not be computed of a cache; the message names files."
    said = [
        element("li", material.naming.message(problem, instead=instead))
        for problem in material.problems
    ]
    for system in material.systems:
        for run in system.runs:
            of_run = f"{system.name}, seed {run.head.train.seed}: "
            if run.evaluation is None:
                instead = "its head could not be evaluated; the message names files."
                problem = material.naming.message(run.problem, instead=instead)
                said.append(element("li", of_run, problem))
            else:
                said += [element("li", of_run, remark) for remark in run.evaluation.remarks]
            if run.trained is None:
                said.append(element("li", of_run, "its training was stopped and is not finished."))
    return [element("ul", *said)] if said else []
