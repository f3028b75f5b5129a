"""`featcache cache import`: a foreign feature file into a cache."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from featcache.config import ExtractSpec
from featcache.errors import counted
from featcache_cli.console import note, show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_facts

_KEYS = "File"  # the group of the help that names what is read
_AS_NAMED = "Cache"  # and of how the cache is to be called


@takes(options_of(ExtractSpec, "store_dtype", "cache_dir"))
def import_(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="HDF5, Parquet, npz or safetensors.")
    ],
    features: Annotated[
        str | None,
        typer.Option(
            help="Key of the training features; not for what `cache export` wrote.",
            rich_help_panel=_KEYS,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Key of their labels, if there are any.", rich_help_panel=_KEYS),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(help="Key of their ids.", rich_help_panel=_KEYS)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Key of the names of the splits; not in HDF5 files.", rich_help_panel=_KEYS
        ),
    ] = None,
    test_features: Annotated[
        str | None, typer.Option(help="Key of test features.", rich_help_panel=_KEYS)
    ] = None,
    test_labels: Annotated[
        str | None, typer.Option(help="Key of test labels.", rich_help_panel=_KEYS)
    ] = None,
    test_ids: Annotated[
        str | None, typer.Option(help="Key of test ids.", rich_help_panel=_KEYS)
    ] = None,
    class_names: Annotated[
        str,
        typer.Option(help="Names of the classes, such as cat,dog.", rich_help_panel=_AS_NAMED),
    ] = "",
    n_classes: Annotated[
        int | None,
        typer.Option(
            help="Number of classes.  [default: largest label + 1]", rich_help_panel=_AS_NAMED
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the dataset.  [default: the file's]", rich_help_panel=_AS_NAMED),
    ] = None,
    *,
    store_dtype: str,
    cache_dir: str,
    json: JsonOption = False,
) -> None:
    """Import features of another program.

    A process with limits on memory and time reads the file.
    """
    from featcache import import_features
    from featcache.store import open_cache

    note(f"reading {path}")
    result = import_features(
        path,
        features=features,
        labels=labels,
        ids=ids,
        split=split,
        test_features=test_features,
        test_labels=test_labels,
        test_ids=test_ids,
        class_names=tuple(class_names.split(",")) if class_names else (),
        n_classes=n_classes,
        name=name,
        store_dtype=store_dtype,
        cache_dir=cache_dir,
        on_note=note,
    )
    if json:
        show_json(result)
        return
    n_features, n_classes = result.n_features, len(result.class_names)
    rows = f"{result.n_rows} of {counted(n_features, 'feature')}, {counted(n_classes, 'class')}"
    show_facts({result.outcome: result.path, "rows": rows})
    quoted = shlex.quote(str(result.path))
    # A head needs labels to learn, and a split to learn from.
    can_train = bool(result.class_names) and "train" in open_cache(result.path)
    note(f"next: featcache {'train-head --cache' if can_train else 'cache info'} {quoted}")
