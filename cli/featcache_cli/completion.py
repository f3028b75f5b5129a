"""What a shell offers behind an option: the names and files that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from featcache.config import ExtractSpec, RunSpec
from featcache.core.dataset_names import FOLDER, IMAGES, OF_PATHS


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Offer fixed values; behind a comma again, where several are taken."""

    def complete(incomplete: str) -> list[str]:
        before, comma, _ = incomplete.rpartition(",")
        return [before + comma + value for value in values]

    return complete


def backbones(incomplete: str) -> list[str]:
    """Offer every backbone."""
    from featcache.core.backbone_names import backbone_names

    return backbone_names()


def datasets(incomplete: str) -> list[str]:
    """Offer every dataset, and behind "folder:" and its like the folders and files."""
    kind = next((kind for kind in OF_PATHS if incomplete.startswith(kind)), None)
    if kind is not None:
        start = incomplete.removeprefix(kind)
        folder = Path(start) if start.endswith("/") else Path(start).parent
        paths = sorted(folder.glob("*/" if kind in (FOLDER, IMAGES) else "*"))
        return [
            f"{kind}{path}/" if path.is_dir() and kind != FOLDER else f"{kind}{path}"
            for path in paths
        ]
    from featcache.images.datasets import list_datasets

    names = [info.name for info in list_datasets()]
    kinds = {name: f"{name.partition(':')[0]}:" for name in names}
    return [kind if (kind := kinds[name]) in OF_PATHS else name for name in names]


def weights(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the weights of the backbone that stands before."""
    from featcache.core.backbone_names import DEFAULT, RANDOM, weights_names

    named = ctx.params.get("backbone") or ExtractSpec.backbone
    backbone = named if isinstance(named, str) else named[0]
    return [DEFAULT, *weights_names(backbone), RANDOM]


def caches(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the caches, by the names that `cache ls` shows."""
    from featcache.store import list_caches

    folder = ctx.params.get("cache_dir") or ExtractSpec.cache_dir
    return [str(Path(c.path).relative_to(folder)) for c in list_caches(folder)]


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the runs, the newest first."""
    from featcache.heads.runs import list_runs

    folder = ctx.params.get("runs_dir") or RunSpec.runs_dir
    return [f"{path.parent.name}/{path.name}" for path in reversed(list_runs(folder))]
