"""`featcache datasets`: what `--dataset` takes."""

from __future__ import annotations

from featcache.config import ExtractSpec
from featcache_cli.console import show_json
from featcache_cli.options import DataDirOption, JsonOption
from featcache_cli.tables import show_table


def datasets(data_dir: DataDirOption = ExtractSpec.data_dir, json: JsonOption = False) -> None:
    """List the datasets that --dataset takes, and which are here."""
    from featcache import list_datasets

    listed = list_datasets(data_dir=data_dir)
    if json:
        show_json({"datasets": listed})
        return
    show_table(
        ["dataset", "#classes", "splits", "images", "here", "source"],
        (
            (
                d.name,
                d.n_classes or "?",
                " ".join(d.splits),
                d.image_size,
                {True: "yes", False: "no", None: "?"}[d.present],
                d.source,
            )
            for d in listed
        ),
    )
