"""What an audit finds of what was planted, and on the true CIFAR-10.

    python -m tests.benchmarks.auditing thresholds IMAGES [--n 2000]
    python -m tests.benchmarks.auditing planted IMAGES [--weights FILE] [--tries 3]
    python -m tests.benchmarks.auditing labels [--n 90] [--tries 5]
    python -m tests.benchmarks.auditing solvers CACHE [--n 3000] [--solvers ridge,knn]
    python -m tests.benchmarks.auditing cifar10 CACHE DATA [--pairs PAIRS.png]

IMAGES is a folder with train/<class>/ and test/<class>/. `thresholds` compares images with copies
of them (JPEG 75, resized, cropped, brighter), and with the most similar other images. `planted`
hides 20 exact and 20 near copies of training images among the test images, once more where 5% of
the training images are there twice, too. `labels` makes labels of digits wrong, and counts how many
of the first n that are named are among those. `solvers` does so on a cache, with each solver of the
out-of-fold heads. `cifar10` audits a cache of the whole of CIFAR-10, and draws pairs to look at.
All print Markdown.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import featcache
from featcache.images.splits import Dataset
from featcache.insight.audit.grey import are_alike, compared, to_grey
from featcache.insight.audit.label_issues import out_of_fold
from featcache.insight.audit.rows import AuditedRows
from tests.benchmarks.measure import machine
from tests.benchmarks.planting import COPIES, plant, with_wrong_labels
from tests.benchmarks.resultfile import markdown_table

BARZ_AND_DENZLER = 3.3  # percent of CIFAR-10's test images with a near duplicate in train
SOLVERS = ("ridge", "lda", "knn", "ncm", "logreg")
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("thresholds", "planted", "labels", "solvers", "cifar10"))
    parser.add_argument("places", nargs="*")
    parser.add_argument("--n", type=int)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="DEFAULT")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--shares", default="0,0.05")
    parser.add_argument("--solvers", default=",".join(SOLVERS))
    parser.add_argument("--pairs", type=Path)
    options = parser.parse_args()
    told = ", ".join(f"{name} {value}" for name, value in machine("cpu").items())
    print(f"Machine: {told}.\n")
    print("\n".join(globals()[options.what](options)))


def small(image: Image.Image) -> np.ndarray:
    pixels = np.array(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    return to_grey(pixels[None])[0]


def thresholds(options: argparse.Namespace) -> list[str]:
    """Compare images with their copies, and each with the image that looks most like it."""
    source, rng = Path(options.places[0]), np.random.default_rng(0)
    paths = sorted((source / "train").glob("*/*"))
    drawn = [paths[i] for i in rng.permutation(len(paths))[: options.n or 2000]]
    images = [Image.open(io.BytesIO(path.read_bytes())).convert("RGB") for path in drawn]
    grey = np.stack([small(image) for image in images])
    rows: list[Sequence[object]] = []
    for kind, copy in COPIES.items():
        copies = np.stack([small(Image.open(io.BytesIO(copy(image)))) for image in images])
        rows.append(_row(kind, *_compared(grey, copies)))
    rows.append(_row("the most similar other", *_most_similar(grey)))
    columns = ["pair", "n", "correlation, 1%", "5%", "median", "99%"]
    columns += ["difference, 1%", "median", "95%", "99%", "taken for a copy"]
    return markdown_table(columns, rows)


def _most_similar(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compare each image with the twenty that correlate best with it, and keep the best."""
    unit = grey.reshape(len(grey), -1).astype(np.float32)
    unit -= unit.mean(1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -1)
    others = np.argpartition(-similar, 20)[:, :20]
    pairs = np.stack([np.repeat(np.arange(len(grey)), 20), others.ravel()], 1)
    correlations, differences = compared(grey, pairs, on_portion=lambda *_: None)
    best = correlations.reshape(-1, 20).argmax(1) + np.arange(len(grey)) * 20
    return correlations[best], differences[best]


def _compared(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(first)
    pairs = np.stack([np.arange(n), np.arange(n) + n], 1)
    return compared(np.concatenate([first, second]), pairs, on_portion=lambda *_: None)


def _row(name: str, correlations: np.ndarray, differences: np.ndarray) -> list[object]:
    of_correlation = np.percentile(correlations, (1, 5, 50, 99))
    of_difference = np.percentile(differences, (1, 50, 95, 99))
    share = are_alike(correlations, differences).mean()
    cells = [f"{v:.3f}" for v in of_correlation] + [f"{v:.1f}" for v in of_difference]
    return [name, len(correlations), *cells, f"{100 * share:.2f}%"]


def planted(options: argparse.Namespace) -> list[str]:
    """Hide copies, audit, and count."""
    rows: list[Sequence[object]] = []
    for share in map(float, options.shares.split(",")):
        for seed in range(options.tries):
            with tempfile.TemporaryDirectory() as place:
                rows.append(_planted(options, Path(place), share, seed))
                print(rows[-1], file=sys.stderr)
    columns = ["copies inside train", "seed", "images", "exact", "near", *COPIES]
    columns += ["other pairs", "their share of the images", "seconds"]
    return markdown_table(columns, rows)


def _planted(options: argparse.Namespace, place: Path, share: float, seed: int) -> list[object]:
    n = options.n or 1000
    known = plant(
        Path(options.places[0]),
        place / "images",
        n_train=n,
        n_test=n // 4,
        share_in_train=share,
        seed=seed,
    )
    cache = featcache.extract(
        f"folder:{known.folder}",
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        cache_dir=place / "cache",
    )
    found = featcache.audit(cache.path, runs_dir=place)
    by_kind: dict[str, set[frozenset[str]]] = {"exact": set(), "near": set()}
    for pair in found.duplicates:
        by_kind[pair.kind].add(frozenset((pair.first.id, pair.second.id)))
    near = {kind: sum(p in by_kind["near"] for p in pairs) for kind, pairs in known.near.items()}
    there = {pair for pairs in known.near.values() for pair in pairs} | set(known.exact)
    others = (by_kind["near"] | by_kind["exact"]) - there
    n_images = sum(found.n_images.values())
    return [
        f"{100 * share:.0f}%",
        seed,
        n_images,
        f"{sum(p in by_kind['exact'] for p in known.exact)} of {len(known.exact)}",
        f"{sum(near.values())} of {sum(map(len, known.near.values()))}",
        *(f"{near[kind]} of {len(pairs)}" for kind, pairs in known.near.items()),
        len(others),
        f"{100 * len(others) / n_images:.2f}%",
        f"{found.seconds:.1f}",
    ]


def labels(options: argparse.Namespace) -> list[str]:
    """Make labels of digits wrong, and count how many of the first n are."""
    n, rows = options.n or 90, list[Sequence[object]]()
    for seed in range(options.tries):
        with tempfile.TemporaryDirectory() as place:
            digits = featcache.load_dataset("digits", data_dir=place)
            splits, wrong = {}, set[tuple[str, str]]()
            for name, split in digits.splits.items():
                assert split.labels is not None
                share = round(n * len(split) / 1797)
                changed, at = with_wrong_labels(split.labels, share, n_classes=10, seed=seed)
                splits[name] = (split.images.pixels, changed)  # type: ignore[union-attr]
                wrong |= {(name, f"{i}") for i in at.tolist()}
            given = featcache.make_dataset(splits, name="digits")
            cache = featcache.extract(given, backbone="pixels", image_size=8, cache_dir=place)
            found = featcache.audit(cache.path, top=n, dataset=given, runs_dir=place)
        assert found.out_of_fold is not None
        named = {(issue.image.split, issue.image.id) for issue in found.label_issues}
        right = len(named & wrong)
        rows.append(
            [
                seed,
                f"{right} of the first {n}",
                f"{right / n:.3f}",
                f"{found.out_of_fold.acc:.4f} ({found.out_of_fold.solver})",
                found.out_of_fold.n_doubted,
                f"{found.seconds:.1f}",
            ]
        )
    columns = ["seed", "wrong labels", "precision", "out-of-fold accuracy", "doubted", "seconds"]
    return markdown_table(columns, rows)


def solvers(options: argparse.Namespace) -> list[str]:
    """Make labels of a cache wrong, and rank them by the heads of each solver."""
    cache = featcache.open_cache(options.places[0])
    features, labels = cache["train"].arrays()
    assert labels is not None
    if options.n is not None:  # of CIFAR-10, the order of images is one of chance
        features, labels = features[: options.n], labels[: options.n]
    n, n_classes = len(labels) // 20, len(cache.class_names)
    changed, wrong = with_wrong_labels(labels, n, n_classes=n_classes, seed=0)
    table: list[Sequence[object]] = []
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "changed.npz")
        np.savez(file, features=features.reshape(len(features), -1), labels=changed)
        path = featcache.import_features(
            file, name="changed", features="features", labels="labels", cache_dir=place
        ).path
        rows = AuditedRows.of_cache(featcache.open_cache(path))
        for solver in options.solvers.split(","):
            started = time.perf_counter()
            judged = out_of_fold(rows, changed, solver=solver, device=CPU, on_fold=lambda: None)
            seconds, order = time.perf_counter() - started, judged.doubted(changed)
            right = len({*order[:n].tolist()} & {*wrong.tolist()})
            acc = 1 - len(order) / len(rows)
            found = [f"{right} of {n}", f"{right / n:.3f}", f"{seconds:.0f}"]
            table.append([solver, len(rows), f"{acc:.4f}", *found])
    columns = ["solver", "images", "out-of-fold accuracy", "wrong among the first"]
    return markdown_table([*columns, "precision", "seconds"], table)


def cifar10(options: argparse.Namespace) -> list[str]:
    """Audit the whole of CIFAR-10."""
    cache, data = options.places
    found = featcache.audit(cache, data_dir=data, top=100, on_note=print)
    n_test, n_train = found.n_images["test"], found.n_images["train"]
    across = [pair for pair in found.duplicates if pair.crosses_splits]
    lines = [
        f"{found.in_train['test']} of {n_test} test images "
        f"({100 * found.in_train['test'] / n_test:.2f}%) have a duplicate in train; Barz and "
        f"Denzler (2020) report {BARZ_AND_DENZLER}%.",
        f"Pairs: {found.n_duplicates('exact')} exact, {found.n_duplicates('near')} near; "
        f"{len(across)} of them across splits, {sum(p.labels_differ for p in across)} of those of "
        f"two labels. Images of train: {n_train}.",
        f"test_acc without them: {found.tested}.",
        f"Labels: {found.out_of_fold}.",
        f"Seconds: {found.seconds:.0f}.",
        "",
    ]
    if options.pairs is not None:
        draw(options.pairs, across, featcache.load_dataset("cifar10", data_dir=data))
    rows = [
        [i.image.split, i.image.id, i.image.label, i.suggested, f"{i.p_label:.4f}"]
        for i in found.label_issues[:20]
    ]
    return lines + markdown_table(["split", "image", "label", "rather", "p(label)"], rows)


def draw(path: Path, pairs: Sequence[featcache.DuplicatePair], dataset: Dataset) -> None:
    """Draw up to 300 pairs, evenly spaced from the surest to the least sure."""
    near = [pair for pair in pairs if pair.kind == "near"]
    shown = [near[i] for i in np.linspace(0, len(near) - 1, min(300, len(near))).astype(int)]
    sheet = Image.new("RGB", (20 * 72, -(-len(shown) // 20) * 38), "white")
    for at, pair in enumerate(shown):
        for side, image in enumerate((pair.first, pair.second)):
            images = dataset.splits[image.split].images
            pixels = images.pixels[image.row]  # type: ignore[union-attr]
            sheet.paste(Image.fromarray(pixels), (at % 20 * 72 + 33 * side, at // 20 * 38))
    sheet.save(path)


if __name__ == "__main__":
    main()
