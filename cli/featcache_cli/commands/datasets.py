"""`featcache datasets`: what `--dataset` takes."""

from __future__ import annotations

from featcache.config import ExtractSpec
from featcache_cli.console import show_json
from featcache_cli.options import JsonOption, options_of, takes
from featcache_cli.tables import show_table


@takes(options_of(ExtractSpec, "data_dir"))
def datasets(*, data_dir: str, json: JsonOption = False) -> None:
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
