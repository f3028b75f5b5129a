"""What cached views bring: test accuracy with 1, 2, 4, ... views of each image, and what they cost.

    python -m tests.benchmarks.views STEM CACHE [--views 1 2 4] [--seeds N] [--hidden 50,20]
        [--extracted EXTRACT.json] [--device DEVICE]

One cache is enough: the first two views of a cache with four are those of a cache with two, bit for
bit. So the rows are read and verified once, and each head is given the first views alone. Heads are
trained by the library's own code, in the general recipe, with the order of batches that their seed
has; so a seed has the same initial weights and the same order with every number of views. Where the
test images have views too (`extract --views-of all`), each head is also tested on the mean of as
many views as it was trained on.

EXTRACT.json is what `featcache extract --json` printed of that cache; the time of fewer views is
that of the whole, by the images that run through the backbone. Each head is written to STEM.json
as it is done, and the same command goes on; STEM.md is made of what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.arithmetic import head_arithmetic
from featcache.core.device import pick_device
from featcache.core.reporting import silent
from featcache.features.resident import Resident, load_sound
from featcache.features.rows import FeatureRows, load_rows
from featcache.features.split import valid_rows
from featcache.heads.head_file import load_head
from featcache.store import Cache, human_bytes
from featcache.training.recipes import pick_recipe
from featcache.training.run import HeadJob
from tests.benchmarks.resultfile import ResultFile, markdown_table

KEPT = ("test_acc", "test_loss", "val_acc", "val_loss", "n_epochs", "best_epoch", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hidden", default="50,20", help="'' is a linear probe")
    parser.add_argument("--extracted", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device).value
    cache = featcache.open_cache(options.cache)
    most = cache["train"].n_views
    assert max(options.views) <= most, f"the cache has {most} views of each training image"
    hidden = tuple(int(width) for width in options.hidden.split(",") if width)
    path = options.stem.with_suffix(".json")
    file = ResultFile(path, {"cache": cache.fingerprint, "hidden": options.hidden}, device=device)
    file.content["cost"] = costs(cache, options.views, options.extracted)
    file.save()
    train_all(file, cache, options.views, HeadSpec(hidden=hidden), options.seeds, device=device)
    options.stem.with_suffix(".md").write_text(page(file, options.views))


def costs(cache: Cache, views: Sequence[int], extracted: Path | None) -> dict[str, Any]:
    """Count what a cache with fewer views takes: images through the backbone, bytes, seconds."""
    seconds = None if extracted is None else json.loads(extracted.read_text())["seconds"]
    n_all = sum(len(rows) * rows.n_views for rows in cache.splits.values())
    found = {}
    for n in views:
        n_images = sum(len(rows) * min(n, rows.n_views) for rows in cache.splits.values())
        nbytes = sum(rows.features.nbytes * min(n, rows.n_views) for rows in cache.splits.values())
        share = None if seconds is None else seconds * n_images / n_all
        found[str(n)] = {"n_images": n_images, "nbytes": int(nbytes), "seconds": share}
    return found


def train_all(
    file: ResultFile,
    cache: Cache,
    views: Sequence[int],
    head: HeadSpec,
    n_seeds: int,
    *,
    device: str,
) -> None:
    """Train what is missing; the seeds are the outer loop, so a stopped call leaves whole rows."""
    resident = load_sound(cache, device=device, window_rows=None, draws_views=True)
    assert resident.rows, "the features must fit into memory"
    [(_, train)] = pick_recipe("general", cache, TrainSpec()).completed(
        [(head, TrainSpec())], given={"hidden": head.hidden}, on_note=silent
    )
    for seed in range(n_seeds):
        for n in views:
            if not file.has(views=n, seed=seed):
                figures = trained(cache, resident, head, replace(train, seed=seed), n)
                file.add({"views": n, "seed": seed, **figures})
                print(f"{n} views, seed {seed}: test_acc {figures['test_acc']:.4f}")


def trained(
    cache: Cache, resident: Resident, head: HeadSpec, train: TrainSpec, n_views: int
) -> dict[str, Any]:
    """Train and test one head on the first views of each image."""
    rows = {**resident.rows, "train": first_views(resident.rows["train"], n_views)}
    with TemporaryDirectory() as folder:
        job = HeadJob(
            cache,
            head,
            replace(resident, rows=rows),
            runs_dir=Path(folder),
            resume=False,
            on_progress=silent,
            on_note=silent,
        )
        started = time.perf_counter()
        run = job.run(train)
        wall_s = time.perf_counter() - started
        averaged = tta_accuracy(cache, run.path, n_views, device=str(resident.device))
    figures = {name: getattr(run, name) for name in KEPT}
    return {**figures, "wall_s": wall_s, "tta_acc": averaged}


def first_views(rows: FeatureRows, n: int) -> FeatureRows:
    """Keep the first views of each row, as a cache with so many has them."""
    if n == rows.n_views:
        return rows
    kept = rows.features.unflatten(0, (-1, rows.n_views))[:, :n].flatten(0, 1).contiguous()
    return replace(rows, features=kept, n_views=n)


def tta_accuracy(cache: Cache, run: Path, n_views: int, *, device: str) -> float | None:
    """Test a head on the mean probability of so many views; None if test images have fewer."""
    if cache["test"].n_views < n_views:
        return None
    where = torch.device(device)
    rows = load_rows(cache, "test", device=where, residence="memory", n_views=cache["test"].n_views)
    index, n_right = valid_rows(cache["test"]), 0
    module = load_head(run).module().to(where)
    with head_arithmetic(device), torch.inference_mode():
        for part in index.split(1024):
            total = torch.zeros(())
            for view in range(n_views):
                features, labels = rows.take(part, view=view)
                total = total + module(features).double().softmax(1)
            n_right += int((total.argmax(1) == labels).sum())
    return n_right / len(index)


def page(file: ResultFile, views: Sequence[int]) -> str:
    """Write the table: figures and costs by number of views, and the differences from one."""
    cost = file.content["cost"]
    with_tta = any(row["tta_acc"] is not None and row["views"] > 1 for row in file.results)
    head = ["views", "test_acc, mean ± sd (n)", "minus 1 view, 95% interval", "test_loss"]
    head += ["mean of all views"] if with_tta else []
    head += ["val_acc", "epochs", "seconds a head", "images through the backbone", "extraction"]
    head += ["features"]
    rows: list[list[object]] = []
    for n in views:
        said = cost[str(n)]
        difference: object = "-"
        if n != 1 and 1 in views:
            spread, interval = file.difference("test_acc", {"views": 1}, {"views": n})
            difference = f"{spread.mean:+.4f}" + (f" ({interval})" if interval else "")
        row: list[object] = [n, file.spread("test_acc", views=n), difference]
        row.append(f"{file.spread('test_loss', views=n).mean:.4f}")
        if with_tta:
            known = all(r["tta_acc"] is not None for r in file.results if r["views"] == n)
            row.append(file.spread("tta_acc", views=n) if known else "-")
        row += [
            f"{file.spread('val_acc', views=n).mean:.4f}",
            f"{file.spread('n_epochs', views=n).mean:.1f}",
            f"{file.spread('wall_s', views=n).mean:.1f}",
            said["n_images"],
            "-" if said["seconds"] is None else f"{said['seconds']:.0f} s",
            human_bytes(said["nbytes"]),
        ]
        rows.append(row)
    return "\n".join(markdown_table(head, rows)).rstrip() + "\n"


if __name__ == "__main__":
    main()
