"""How few images give the accuracy, and does storage as float16 cost any?

    python -m tests.benchmarks.shares STEM CACHE [--seeds N] [--shares 1 5 10 25 50 100]
        [--recipe general|notebook] [--max-epochs N] [--device DEVICE]

CACHE holds float32 features. For each share, in percent, heads are trained on so many of its
training images and chosen on as large a share of its validation images; each seed draws its own,
and a larger share holds the smaller ones. All are tested on all test images. The largest share is
also trained on the features rounded to float16, which is what `--store-dtype float16` stores; its
differences are of heads with the same seed, images and order.

Each head is written to STEM.json as it is done, and the same command goes on; STEM.md and STEM.svg
are made of what is there. The loop over the seeds is the outermost.
"""

from __future__ import annotations

import argparse
import math
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import Tensor

import featcache
from featcache.config import HeadSpec, TrainSpec
from featcache.core.device import pick_device
from featcache.core.reporting import silent
from featcache.features.split import training_rows
from featcache.store import Cache
from featcache.training.recipes import Setting, pick_recipe
from tests.benchmarks.altered import AlteredTraining
from tests.benchmarks.resultfile import ResultFile, markdown_table, save_picture

FIGURES = ("test_acc", "test_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stem", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--shares", nargs="+", type=float, default=[1, 5, 10, 25, 50, 100])
    parser.add_argument("--recipe", choices=["general", "notebook"], default="general")
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device).value
    cache = featcache.open_cache(options.cache)
    assert cache["train"].features.dtype == np.float32, "the features are not stored as float32"
    path = options.stem.with_name(options.stem.name + ".json")
    common = {
        "cache": cache.fingerprint,
        "backbone": cache.identity["backbone"],
        "recipe": options.recipe,
        "max_epochs": options.max_epochs,
    }
    file = ResultFile(path, common, device=device)
    training = AlteredTraining(cache, device=device)
    shares = sorted(options.shares)
    cells = [*((share, "float32") for share in shares), (shares[-1], "float16")]
    for seed in range(options.seeds):
        for share, stored in cells:
            train_one(file, training, share=share, stored=stored, seed=seed)
    path.with_suffix(".md").write_text(page(file))
    save_picture(picture(file), path.with_suffix(".svg"))


def train_one(
    file: ResultFile, training: AlteredTraining, *, share: float, stored: str, seed: int
) -> None:
    """Train a head, unless the file has it."""
    key = {"share": share, "stored": stored, "seed": seed}
    if file.has(**key):
        return
    head, train = setting(
        training.cache,
        share / 100,
        recipe=file.content["options"]["recipe"],
        max_epochs=file.content["options"]["max_epochs"],
    )
    started = time.perf_counter()
    figures = training.figures(
        head,
        replace(train, seed=seed),
        alter=as_float16 if stored == "float16" else as_it_is,
        share=share / 100,
    )
    file.add({**key, **figures})
    told = f"{figures['test_acc']:.4f} / {figures['test_loss']:.4f}, {figures['n_epochs']} epochs"
    print(f"{key}: {told}, {time.perf_counter() - started:.1f} s", flush=True)


def setting(cache: Cache, share: float, *, recipe: str, max_epochs: int | None) -> Setting:
    """Take what the recipe takes for a cache of so many images: its patience counts steps."""
    train = TrainSpec() if max_epochs is None else TrainSpec(max_epochs=max_epochs)
    given = () if max_epochs is None else ("max_epochs",)
    rows = training_rows(cache, val_fraction=None, split_seed=train.split_seed)[1]
    n_steps = math.ceil(max(1, round(share * len(rows))) / train.batch_size)
    taken = replace(pick_recipe(recipe, cache, train), n_steps=n_steps)
    [completed] = taken.completed([(HeadSpec(), train)], given=given, on_note=silent)
    return completed


def as_float16(rows: Tensor) -> Tensor:
    """Round features as they are stored with `--store-dtype float16`.

    Those that it cannot hold become infinite, and end the training with an error.
    """
    return rows.half().float()


def as_it_is(rows: Tensor) -> Tensor:
    return rows


def page(file: ResultFile) -> str:
    """Write the page."""
    content = file.content
    machine = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
    settings = ", ".join(f"{k} {v}" for k, v in content["options"].items() if v and k != "cache")
    lines = ["# How few images give the accuracy", ""]
    for text in (
        f"Made by `python -m tests.benchmarks.shares`: {settings}. Mean ± standard deviation (n "
        f"seeds).",
        f"Machine: {machine}.",
    ):
        lines += [*textwrap.wrap(text, 100), ""]
    rows = []
    for share, stored in sorted({(row["share"], row["stored"]) for row in file.results}):
        key = {"share": share, "stored": stored}
        images, epochs = (file.spread(name, **key) for name in ("n_train", "n_epochs"))
        spreads = [file.spread(name, **key) for name in FIGURES]
        rows.append([f"{share:g}%", f"{images.mean:.0f}", stored, *spreads, f"{epochs.mean:.1f}"])
    lines += markdown_table(["share", "images to train", "stored as", *FIGURES, "epochs"], rows)
    for share in sorted({row["share"] for row in file.results if row["stored"] == "float16"}):
        kinds = [{"share": share, "stored": stored} for stored in ("float32", "float16")]
        told = []
        for name in FIGURES:
            spread, interval = file.difference(name, *kinds)
            told.append(f"{name} {spread.mean:+.5f} (95% interval of the mean: {interval or '-'})")
        text = f"float16 minus float32 at {share:g}%, n = {spread.n}: {', '.join(told)}."
        lines += [*textwrap.wrap(text, 100), ""]
    return "\n".join(lines).rstrip() + "\n"


def picture(file: ResultFile) -> Figure:
    """Draw accuracy and loss over the number of training images."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), FIGURES, strict=True):
        for stored, form in (("float32", "o-"), ("float16", "x")):
            shares = sorted({row["share"] for row in file.results if row["stored"] == stored})
            keys = [{"share": share, "stored": stored} for share in shares]
            spreads = [file.spread(name, **key) for key in keys]
            axes.errorbar(
                [file.spread("n_train", **key).mean for key in keys],
                [spread.mean for spread in spreads],
                yerr=[spread.sd or 0 for spread in spreads],
                fmt=form,
                capsize=3,
                label=stored,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlabel="images to train", ylabel=name)
        axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
