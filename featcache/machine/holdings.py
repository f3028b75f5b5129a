"""What is on this machine already: models of the hub, datasets, and caches."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from featcache.core.files import human_bytes
from featcache.core.paths import expanded
from featcache.errors import counted
from featcache.images.datasets import list_datasets
from featcache.machine.finding import OK, WARNING, Finding
from featcache.store import list_caches


def look(data_dir: Path, cache_dir: Path) -> Iterator[Finding]:
    """Look for files by their names."""
    hub = _hub_folder()
    if models := _hub_models(hub):
        yield Finding("hub weights", OK, f"{', '.join(models)} in {hub}")
    here = [info.name for info in list_datasets(data_dir=data_dir) if info.present]
    said = f"{', '.join(here) or 'none'}, looked for in {data_dir}"
    way_out = "" if here else "extract downloads them; your own images: folder:PATH and others."
    yield Finding("datasets", OK, said, way_out)
    caches = list_caches(cache_dir)
    states = Counter(cache.state for cache in caches)
    nbytes = human_bytes(sum(cache.nbytes for cache in caches))
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    said = f"{counted(len(caches), 'cache')} in {cache_dir}"
    bad = [cache for cache in caches if cache.state in ("damaged", "unreadable")]
    if not caches:
        yield Finding("caches", OK, f"none in {cache_dir}")
    elif not bad:
        yield Finding("caches", OK, f"{said}, {nbytes}: {told}")
    else:
        damaged = [cache for cache in bad if cache.state == "damaged"]
        way_out = f"featcache cache ls --cache-dir {shlex.quote(str(cache_dir))} names them."
        if damaged:
            way_out = f"Mend it: featcache cache repair {shlex.quote(str(damaged[0].path))}"
        yield Finding("caches", WARNING, f"{said}, {nbytes}: {told}", way_out)


def _hub_folder() -> Path:
    """Name the folder in which Hugging Face's client keeps models, as its documentation says."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return expanded(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")


def _hub_models(folder: Path) -> list[str]:
    """List the models whose tensors are in that folder, as ORG/NAME."""
    return sorted(
        model.name.removeprefix("models--").replace("--", "/", 1)
        for model in folder.glob("models--*")
        if any(model.glob("snapshots/*/*.safetensors"))
    )
