"""The card of an exported file: what it is, for people, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featcache.core.preprocess import Preprocess
from featcache.deployment.exports.check import CheckReport
from featcache.deployment.exports.run_facts import Figure, RunFacts
from featcache.deployment.exports.snippets import snippets
from featcache.deployment.exports.targets import ExportTarget
from featcache.errors import counted

_MOST_CLASSES = 100  # in the table of counts
_INPUTS = {
    "crop": "uint8 RGB images that Pillow has resized and cropped, as `prepare` does",
    "any": "uint8 RGB images of any one size; they are resized inside",
}
_NEEDS = {
    "onnx": "pip install onnxruntime pillow",
    "pt2": "pip install torch pillow",
    "safetensors": "pip install featcache",
    "hf": "pip install featcache",
}
# Identifiers of https://huggingface.co/docs/hub/repositories-licenses that weights have.
_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")


def card(
    about: Mapping[str, Any], facts: RunFacts, check: CheckReport | None, target: ExportTarget
) -> str:
    """Write the card.

    Args:
        about: The description of the file.
        facts: What is known of the data and of the head.
        check: What the check found; None where it was left out.
        target: The files.
    """
    parts = [
        _front(about) if about["format"] == "hf" else "",
        f"# {_text(about['backbone']['name'])} with a head for {_text(about['dataset'])}\n\n"
        f"It takes images and gives a probability for each of "
        f"{counted(len(about['class_names']), 'class')}. A frozen backbone turns an image into "
        f"{about['head']['n_features']} numbers, and a trained head turns these into "
        f"probabilities.\n",
        _use(about, target),
        _network(about),
        _data(about, facts),
        _figures(about, facts),
        _limits(about, facts, check),
        _check(check),
        _provenance(about),
    ]
    return "\n".join(part for part in parts if part)


def _front(about: Mapping[str, Any]) -> str:
    """Write the metadata that the hub reads."""
    licence = str(about["licence"]).lower()
    lines = ["library_name: featcache", "pipeline_tag: image-classification"]
    if licence in _LICENCES:
        lines.append(f"license: {licence}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(licence.partition(':')[0])}"]
    lines.append(f"tags: {json.dumps(['featcache', about['backbone']['name']])}")
    return "\n".join(["---", *lines, "---", ""])


def _use(about: Mapping[str, Any], target: ExportTarget) -> str:
    blocks = [
        f"### {snippet.title}\n\n```python\n{snippet.code}```\n"
        for snippet in snippets(about, target)
    ]
    needs = f"The code runs in the folder of this card, after `{_NEEDS[about['format']]}`.\n"
    return "\n".join(["## Use it\n", needs, *blocks])


def _network(about: Mapping[str, Any]) -> str:
    backbone, takes = about["backbone"], about["takes"]
    resized = f"uint8 RGB images of {about['input']} pixels; Pillow's resizing is inside"
    rows = {
        "takes": f"`{takes['name']}`, {_shape(takes)} {takes['dtype']}: "
        f"{_INPUTS.get(about['input'], resized)}",
        "gives": f"`probabilities`, {_shape(about['gives'])} float32",
        "backbone": f"{backbone['name']}, {backbone['layer']}",
        "weights": f"{backbone['weights']} (SHA-256 {backbone['weights_sha256'][:16]})",
        "licence of the weights": about["licence"],
        "preprocessing": Preprocess.from_json(about["preprocess"]).told,
        "head": about["head_told"],
    }
    return f"## What it is\n\n{_table(('part', 'what'), rows.items())}"


def _data(about: Mapping[str, Any], facts: RunFacts) -> str:
    said = about["head"]
    lines = [f"Dataset: {_text(about['dataset'])}. {about['split_told']}"]
    splits = list(facts.rows_per_class)
    names = about["class_names"]
    if splits and len(names) <= _MOST_CLASSES:
        counts = [
            (name, *(facts.rows_per_class[split].get(name, 0) for split in splits))
            for name in names
        ]
        total = ("all", *(sum(facts.rows_per_class[split].values()) for split in splits))
        lines.append(_table(("class", *splits), [*counts, total]))
    elif splits:
        sums = {s: sum(facts.rows_per_class[s].values()) for s in splits}
        told = ", ".join(f"{n} in {split}" for split, n in sums.items())
        lines.append(f"Images: {told}, of {len(names)} classes.\n")
    else:
        rows = {
            part: said["split"][part]["n_rows"]
            for part in ("train", "val")
            if part in said["split"]
        }
        told = ", ".join(f"{n} for {part}" for part, n in rows.items())
        lines.append(f"Images: {told}. Their cache was not at hand to count them by class.\n")
    return "\n\n".join(["## Data", *lines])


def _figures(about: Mapping[str, Any], facts: RunFacts) -> str:
    if not facts.figures:
        return "## How good it is\n\nNo figures are there: the head was not evaluated.\n"
    is_refitted = about["head"].get("found", {}).get("refitted", False)
    blocks = []
    for split, figures in facts.figures.items():
        n = facts.n_images.get(split)
        of = f"{counted(n, 'image')} of split {split}" if n else f"split {split}, by the training"
        if split == "val" and is_refitted:
            of += ", before these images trained the head too"
        rows = [(figure.name, f"{figure.value:.4f}", _interval(figure)) for figure in figures]
        blocks.append(f"Of {of}:\n\n{_table(('figure', 'value', '95% interval'), rows)}")
    return "\n".join(["## How good it is\n", *blocks])


def _interval(figure: Figure) -> str:
    has_one = figure.low is not None and figure.high is not None
    return f"{figure.low:.4f} to {figure.high:.4f}" if has_one else "-"


def _limits(about: Mapping[str, Any], facts: RunFacts, check: CheckReport | None) -> str:
    lines = [
        "It always names one of its classes, also for an image of something else.",
        "The figures hold for images like those of the dataset. Other cameras, cuts or sources "
        "can make it much worse.",
        "A probability is the head's own. It says how sure the head is, not how often it is right.",
    ]
    lines += [
        f"In split {split}, {100 * share:.0f}% of the images are of one class: always naming that "
        f"one would be right as often."
        for split, share in facts.largest_share.items()
    ]
    lines += about["limits"]
    if not about["is_calibrated"]:
        lines.append(
            "Its probabilities mean nothing beside their order: there were no images to fit their "
            "scale on."
        )
    if about["input"] == "any":
        lines.append(
            "Its resizing is that of ONNX Runtime on a CPU. Another runtime or a GPU may resize in "
            "another way, for which nothing is promised."
        )
    if about["format"] == "pt2":
        lines.append(
            f"A PT2 file is read by versions of PyTorch near its own, {about['versions']['torch']}."
        )
    if check is None:
        lines.append("**The file was not checked** after it was written (`--unchecked`).")
    else:
        lines += check.limits_told
    return "\n".join(["## Limits\n", *(f"- {line}" for line in lines), ""])


def _check(check: CheckReport | None) -> str:
    if check is None:
        return ""
    return (
        f"## Check\n\nAfter it was written, a new process loaded the file and ran "
        f"{counted(check.n_images, 'image')} of {_text(check.images)}, in batches of "
        f"{', '.join(map(str, check.batch_sizes[:8]))}"
        f"{', ...' if len(check.batch_sizes) > 8 else ''}. Beside PyTorch in fp32 on a CPU: "
        f"{check.told}.\n"
    )


def _provenance(about: Mapping[str, Any]) -> str:
    rows = {
        **{
            f"fingerprint of the {name}": f"`{told}`"
            for name, told in about["fingerprints"].items()
        },
        **about["versions"],
    }
    return f"## Where it is from\n\n{_table(('what', 'which'), rows.items())}"


def _shape(said: Mapping[str, Any]) -> str:
    return f"({', '.join(map(str, said['shape']))})"


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(_cell, titles)) + " |", "|---" * len(titles) + "|"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return _text(value).replace("|", "\\|")


def _text(value: object) -> str:
    """Show a stranger's text in one line, without what would be markup of HTML."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
    return shown.replace("&", "&amp;").replace("<", "&lt;")
