"""Train a grid of heads in one pass over the features, and find the best setting honestly."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch

from featcache.arguments import require_one_of
from featcache.arithmetic import head_arithmetic
from featcache.bank import BYTES_PER_PARAMETER, Member
from featcache.bankrun import BankRun, Entry, SweepProgressCallback
from featcache.checkpoint import read_checkpoint, replace_file
from featcache.datamodule import FeatureDataModule
from featcache.errors import NonFiniteError, UsageError
from featcache.features import n_inputs, require_sound_rows
from featcache.grids import heads_of
from featcache.lookup import the_cache
from featcache.memory import free_memory
from featcache.metrics import Spread
from featcache.paths import portable
from featcache.recipes import pick_recipe
from featcache.remarks import remarks_on
from featcache.runfiles import HeadRun, has_test_rows, read_run, tested
from featcache.runs import RUNS_DIR, run_path
from featcache.runtime import NoteCallback, pick_device, silent
from featcache.specs import RECIPES, ExtractSpec, HeadSpec, TrainSpec, fingerprint
from featcache.stopping import working
from featcache.store import Cache, human_bytes, locked, named_failures
from featcache.sweeptable import SweepResult, SweepSetting, markdown_table
from featcache.training import by_hand, fitting_window


def sweep(
    cache: Cache | str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    backbone: str | None = None,
    recipe: str = RECIPES[0],
    reg: Sequence[str] = (HeadSpec.reg,),
    l1: Sequence[float] | None = None,
    weight_decay: Sequence[float] | None = None,
    dropout: Sequence[Sequence[float]] | None = None,
    hidden: Sequence[Sequence[int]] | None = None,
    lr: Sequence[float] | None = None,
    batch_size: int = TrainSpec.batch_size,
    max_epochs: int | None = None,
    patience: int | None = None,
    min_delta: float = TrainSpec.min_delta,
    val_fraction: float | None = TrainSpec.val_fraction,
    split_seed: int = TrainSpec.split_seed,
    select: str | None = None,
    seed: int = TrainSpec.seed,
    seeds: int = 1,
    max_memory: int | None = None,
    device: str = ExtractSpec.device,
    cache_dir: str | os.PathLike[str] = ExtractSpec.cache_dir,
    runs_dir: str | os.PathLike[str] = RUNS_DIR,
    on_progress: SweepProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> SweepResult:
    """Train a head for every setting and seed of a grid, side by side on the same batches.

    Each is the head that `train_head` trains with the same arguments and `order_seed=seed`, up to
    rounding, and a run folder like any other. Only the setting with the lowest mean val_loss is
    tested. Heads that are there are used; the same call goes on with a sweep that was stopped.

    Args:
        cache: A cache, its path, or part of its name; None finds it by `dataset` and `backbone`.
        dataset: Its dataset; None is "cifar10", or that of the only cache that fits.
        backbone: Its trunk; None is "vgg16", or that of the only cache that fits.
        recipe: As for `train_head`: "auto", "notebook" or "general".
        reg: "none", "l1", "l2", "l1l2", "dropout".
        l1: Factors of the L1 penalty, for each `reg` that has one.
        weight_decay: Adam's L2 factors, for each `reg` that has one.
        dropout: Probabilities after each hidden layer, for each `reg` that has them; each is cut,
            or its last one repeated, to the number of hidden layers.
        hidden: Widths of the hidden layers; an empty one is a linear probe; None is the recipe's.
        lr: Learning rates; None is the recipe's.
        batch_size: Rows in one step.
        max_epochs: Epochs at most; None is the recipe's.
        patience: Epochs without a better val_loss before a head stops; 0 is never; None is the
            recipe's.
        min_delta: By how much val_loss must fall to count as better.
        val_fraction: Share of the training rows kept for validation.
        split_seed: Seeds the choice of those rows.
        select: "last" or "best"; None is the recipe's.
        seed: The first seed of each setting, and the seed of the order of batches.
        seeds: Heads per setting, with seeds from `seed` on.
        max_memory: Bytes of features to keep in memory, as for `train_head`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cache_dir: Folder of all caches.
        runs_dir: Folder of all runs.
        on_progress: Called after every few steps.
        on_note: Called with a sentence for each choice that was made.

    Raises:
        UsageError: If arguments contradict each other, or leave no setting.
        NonFiniteError: If no setting has all its heads.
        InterruptedRunError: On Ctrl-C; heads are kept as of the last whole epoch.
        FeatcacheError: Those of `train_head`; a loss that is no number ends its head alone.

    Example:
        >>> import featcache
        >>> cache = featcache.extract("digits", backbone="pixels", image_size=8, cache_dir=tmp)
        >>> grid = {"reg": ("none", "l2"), "lr": (1e-3, 1e-2), "max_epochs": 3}
        >>> best = featcache.sweep(cache.path, **grid, runs_dir=tmp / "runs").settings[0]
        >>> best.lr
        0.01
    """
    note = on_note or silent
    values = {"l1": l1, "weight_decay": weight_decay, "dropout": dropout}
    given = by_hand(hidden=hidden, lr=lr, max_epochs=max_epochs, patience=patience, select=select)
    heads = list(heads_of(reg, given.get("hidden", (HeadSpec.hidden,)), values, note=note))
    rates = given.get("lr", (TrainSpec.lr,))
    base = TrainSpec(
        batch_size=batch_size,
        min_delta=min_delta,
        val_fraction=val_fraction,
        split_seed=split_seed,
        seed=seed,
        **by_hand(max_epochs=max_epochs, patience=patience, select=select),
    )
    require_one_of("--recipe", recipe, RECIPES)
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}, but must be at least 1.")
    settings = [(head, replace(base, lr=rate)) for head, rate in product(heads, rates)]
    if not settings:
        empty = [name for name, values in (("--reg", heads), ("--lr", rates)) if not values]
        raise UsageError(f"The grid has no setting: {' and '.join(empty)} gives none.")
    opened = the_cache(
        cache, dataset=dataset, backbone=backbone, cache_dir=Path(cache_dir), note=note
    )
    window = fitting_window(opened, base, max_memory)
    settings = [(head, replace(train, window_rows=window)) for head, train in settings]
    chosen = pick_device(device)
    note(f"device {chosen.value}: {chosen.why}")
    taken = pick_recipe(recipe, opened, base)
    settings = list(dict.fromkeys(taken.completed(settings, given=given, note=note)))
    choices = {
        "device": f"{chosen.value} ({chosen.why})",
        "recipe": f"{taken.name} ({taken.why})",
    }

    def entries_of(head: HeadSpec, train: TrainSpec) -> list[Entry]:
        trains = [replace(train, seed=s, order_seed=seed) for s in range(seed, seed + seeds)]
        paths = [run_path(Path(runs_dir), opened, head, t) for t in trains]
        members = [Member(p.name, head, t.lr, t.seed) for p, t in zip(paths, trains, strict=True)]
        return [Entry(*parts) for parts in zip(paths, members, trains, strict=True)]

    grid = [entries_of(head, train) for head, train in settings]
    stem = _stem(grid)
    pending = [e for entries in grid for e in entries if not e.path.exists()]
    batches = FeatureDataModule(
        opened,
        batch_size=batch_size,
        val_fraction=val_fraction,
        split_seed=split_seed,
        seed=seed,
        window_rows=window,
    )
    on_device = torch.device(chosen.value)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(stem),
        named_failures(stem, kept="The heads of the last epoch are kept."),
        head_arithmetic(chosen.value),
    ):
        require_sound_rows(opened)
        if pending:
            residence = batches.choose_residence(on_device)
            choices["features"] = f"{residence.value} ({residence.why})"
            note(f"features stay in {residence.value}: {residence.why}")
            for split in {batches.train_split, batches.val_split}:
                batches.load(split, on_device)
        started = time.perf_counter()
        with working():
            pending = _train(
                pending,
                batches,
                device=on_device,
                checkpoint=stem.with_name(stem.name + ".partial"),
                on_progress=on_progress or silent,
                note=note,
            )
        seconds = time.perf_counter() - started
        rows = sorted((_setting(entries) for entries in grid), key=_rank)
        chosen_runs = _test(rows[0], batches, on_device)
        remarks = remarks_on(chosen_runs, opened, base, recipe=taken)
        for remark in remarks:
            note(remark)
        result = SweepResult(
            settings=rows,
            test_acc=_spread([r.test_acc for r in chosen_runs]),
            test_loss=_spread([r.test_loss for r in chosen_runs]),
            n_trained=len(pending),
            seconds=seconds,
            cache=opened.path,
            json=stem.with_name(stem.name + ".json"),
            markdown=stem.with_name(stem.name + ".md"),
            choices=choices,
            remarks=remarks,
        )
        replace_file(result.json, (json.dumps(asdict(result), indent=2, default=portable)).encode())
        replace_file(result.markdown, markdown_table(result).encode())
        stem.with_name(stem.name + ".lock").unlink(missing_ok=True)
    if rows[0].problem:
        raise NonFiniteError(
            f"No setting of the grid has all its heads: {rows[0].problem}. The table is in "
            f"{result.markdown}. Use a lower --lr if losses became infinite or no number."
        )
    return result


def _train(
    pending: Sequence[Entry],
    batches: FeatureDataModule,
    *,
    device: torch.device,
    checkpoint: Path,
    on_progress: SweepProgressCallback,
    note: NoteCallback,
) -> list[Entry]:
    """Train heads in as many passes as memory asks for; those that a checkpoint keeps come first.

    Returns:
        The heads that were trained, without those that are known to break off.
    """
    kept = _read(checkpoint) if pending else None
    broken = kept["broken"] if kept else {}
    for entry in pending:
        vars(entry).update(broken.get(entry.member.key, {}))
    pending = [entry for entry in pending if not entry.problem]
    first = [entry for entry in pending if kept and entry.member.key in kept["heads"]]
    if kept and first:
        note(f"going on after epoch {kept['epoch']}, {len(first)} heads at once")
    later = [entry for entry in pending if entry not in first]
    passes = _passes(later, batches.cache, device=str(device), note=note)
    for entries in (first, *passes) if first else passes:
        BankRun(
            entries,
            batches,
            device=device,
            checkpoint=checkpoint,
            kept=kept if entries is first else None,
            broken=broken,
            on_progress=on_progress,
        ).run()
    checkpoint.unlink(missing_ok=True)
    return pending


def _read(checkpoint: Path) -> dict[str, Any] | None:
    if not checkpoint.exists():
        return None
    way_out = "Remove it: the heads that were finished are kept, the others start again."
    return read_checkpoint(checkpoint, ("epoch", "heads", "states", "broken"), way_out=way_out)


def _stem(grid: Sequence[Sequence[Entry]]) -> Path:
    """Name the sweep's own files by the runs that it is of."""
    paths = [entry.path for entries in grid for entry in entries]
    digest = fingerprint({"runs": sorted(path.name for path in paths)})
    return paths[0].with_name(f"sweep-{digest[:8]}")


def _passes(
    entries: Sequence[Entry], cache: Cache, *, device: str, note: NoteCallback
) -> Iterable[list[Entry]]:
    """Divide heads into passes whose weights, gradients and moments fit into half the memory."""
    free, kind = min(free_memory(device), free_memory("cpu"))
    room = free // 2
    one_pass: list[Entry] = []
    needed = 0
    for entry in entries:
        widths = (n_inputs(cache), *entry.member.spec.hidden, len(cache.class_names))
        n_parameters = sum((a + 1) * b for a, b in pairwise(widths))
        if one_pass and needed + n_parameters * BYTES_PER_PARAMETER > room:
            note(
                f"{len(one_pass)} heads in this pass: more need over {human_bytes(room)}, half of "
                f"the {kind} that is free"
            )
            yield one_pass
            one_pass, needed = [], 0
        one_pass.append(entry)
        needed += n_parameters * BYTES_PER_PARAMETER
    if one_pass:
        yield one_pass


def _setting(entries: Sequence[Entry]) -> SweepSetting:
    finished = [read_run(e.path) for e in entries if e.path.exists()]
    problem = next((e.problem for e in entries if e.problem), "")
    n_epochs = sum(len(e.history) for e in entries if e.problem)
    n_epochs += sum(run.n_epochs for run in finished)
    return SweepSetting(
        head=entries[0].member.spec,
        lr=entries[0].member.lr,
        val_loss=None if problem else Spread.of([run.val_loss for run in finished]),
        val_acc=None if problem else Spread.of([run.val_acc for run in finished]),
        n_epochs=n_epochs / len(entries),
        problem=problem,
        runs=tuple(run.path for run in finished),
    )


def _rank(setting: SweepSetting) -> tuple[bool, float]:
    return setting.val_loss is None, setting.val_loss.mean if setting.val_loss else 0.0


def _test(setting: SweepSetting, batches: FeatureDataModule, device: torch.device) -> list[HeadRun]:
    """Read the heads of the chosen setting, tested where there is a test split."""
    if setting.problem:
        return []
    if not has_test_rows(batches.cache):
        return [read_run(path) for path in setting.runs]
    return [
        run if run.test_acc is not None else tested(run, batches, device=device)
        for run in map(read_run, setting.runs)
    ]


def _spread(values: Sequence[float | None]) -> Spread | None:
    there = [value for value in values if value is not None]
    return Spread.of(there) if there else None
