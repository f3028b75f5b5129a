"""Hostile files are refused at once, and reach for nothing beside themselves (claim 15).

`cache info` and `cache verify` are commands of their own; `train-head` and `extract`, which import
torch, are forked from a process that has.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
from h5py import h5d, h5p, h5s, h5t, h5z

from featcache.errors import FeatcacheError
from featcache.store import describe_cache, open_cache, partial_path, verify_cache
from tests.faults.claims import Claim, main, require_tool
from tests.faults.command import extract_arguments
from tests.faults.hostile_files import (
    SECRET,
    Write,
    build_all,
    hostile,
    laid_out_otherwise,
    of_no_dataset,
    unusable,
)
from tests.faults.images import extract, make_images
from tests.faults.refusals import Job, refusals

_REFUSALS = {12, 13, 15}
_LIMIT_S = 1.0


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Open, describe and verify each; trace the commands; put a plugin in the way."""
    folder = folder.resolve()  # strace tells whole paths
    images = make_images(folder / "images", n_train=10, n_test=4, side=8)
    good = extract(images, folder / "good", backbone="pixels", image_size=8).path
    writers = hostile(folder / "files", good.read_bytes())
    paths = build_all(folder / "files", writers)
    n_tries, not_refused, slowest_s = 0, [], 0.0
    for name, path in paths.items():
        for look in (open_cache, describe_cache, verify_cache):
            started = time.perf_counter()
            outcome = _outcome(look, path)
            slowest_s = max(slowest_s, time.perf_counter() - started)
            n_tries += 1
            if outcome not in {str(code) for code in _REFUSALS}:
                not_refused.append(f"{look.__name__} {name}: {outcome}")
    marker = folder / "plugin-ran"
    plugins = _plugin(folder / "plugins", marker)
    traced = list(paths.values())[:1] if quick else list(paths.values())
    for path in traced:
        for command in ("info", "verify"):
            told = _traced(command, path, plugins, folder)
            n_tries += 1
            not_refused += [f"cache {command} {path.stem}: {told}"] if told else []
    jobs = _jobs(folder, writers, images, good)
    refused = refusals(jobs[::24] if quick else jobs, folder, plugins=plugins)
    is_safe = not marker.exists()
    with h5py.File(paths["external-storage"]) as h5:
        leaked = h5["x"][:].tobytes() == SECRET
    _load_plugin_naively(plugins)
    return [
        Claim(
            15,
            f"{len(paths)} hostile files, {n_tries} tries to open, describe, verify: "
            f"{n_tries - len(not_refused)} refused, the slowest after {slowest_s:.2f} s; "
            f"{2 * len(traced)} commands under strace opened nothing beside the file; "
            f"{refused.told}, none of which opened anything else either; a library in "
            f"HDF5_PLUGIN_PATH ran {0 if is_safe else 1} times"
            + "".join(f"; {line}" for line in [*not_refused, *refused.wrong]),
            not not_refused and slowest_s < _LIMIT_S and refused.is_proved and is_safe,
            f"plain h5py reads another file: {leaked}; runs the library: {marker.exists()}",
            leaked and marker.exists(),
        )
    ]


def _jobs(folder: Path, writers: dict[str, Write], images: Path, good: Path) -> list[Job]:
    """The files of before, and signed caches that say what cannot be, for both commands."""
    content = good.read_bytes()
    writers = writers | unusable(content)
    in_place = writers | laid_out_otherwise(content)
    return [
        *_train_jobs(folder / "trained", writers | of_no_dataset(content)),
        *_extract_jobs(folder / "extracted", in_place, images, good),
    ]


def _train_jobs(home: Path, writers: dict[str, Write]) -> list[Job]:
    """`train-head` on each file; it may open that alone."""
    home.mkdir()
    jobs = []
    for name, path in build_all(home, writers).items():
        runs = str(home / f"{name}-runs")
        asked = ["train-head", "--cache", str(path), "--runs-dir", runs, "--max-epochs", "1"]
        jobs.append(Job(f"train-head {name}", asked, str(path), [str(path)], runs))
    return jobs


def _extract_jobs(home: Path, writers: dict[str, Write], images: Path, good: Path) -> list[Job]:
    """`extract` with each file where its cache would be, or was begun.

    It may open the images and what lies in the cache's folder, where there is nothing else.
    """
    jobs = []
    for name, write in writers.items():
        for suffix in ("", ".partial"):
            caches = home / f"{name}{suffix}"
            path = caches / good.parent.name / f"{good.name}{suffix}"
            path.parent.mkdir(parents=True)
            write(path)
            other = path.with_suffix("") if suffix else partial_path(path)
            asked = extract_arguments(images, caches, side=8)
            job = Job(f"{name}{suffix}", asked, str(path), [str(images), str(caches)], str(other))
            jobs.append(job)
    return jobs


def _traced(command: str, path: Path, plugins: Path, folder: Path) -> str:
    """Run a command under strace; what is wrong with how it ended, or with what it opened."""
    log = folder / "strace.log"
    traced = [
        require_tool("strace"),
        "-f",
        "--seccomp-bpf",
        "-s",
        "4096",
        "-e",
        "trace=open,openat,execve",
        "-o",
        str(log),
    ]
    ended = subprocess.run(
        [*traced, sys.executable, "-m", "featcache_cli", "cache", command, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HDF5_PLUGIN_PATH": str(plugins)},
    )
    if ended.returncode not in _REFUSALS or "Traceback" in ended.stderr:
        return f"exit {ended.returncode}: {ended.stderr[-300:]}"
    opened = re.findall(r'"([^"]*)"', log.read_text(errors="replace"))
    beside = {o for o in opened if o.startswith(str(folder)) and o != str(path)}
    return f"opened {sorted(beside)}" if beside else ""


def _plugin(folder: Path, marker: Path) -> Path:
    """Build a library whose loading makes a file."""
    folder.mkdir()
    source = folder / "plugin.c"
    source.write_text(
        "#include <sys/stat.h>\n__attribute__((constructor)) static void run(void)"
        f' {{ mkdir("{marker}", 0700); }}\n'
    )
    library = folder / "libplugin.so"
    subprocess.run([require_tool("cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def _load_plugin_naively(plugins: Path) -> None:
    """Read a chunk through a filter that HDF5 does not have, and looks for."""
    path = plugins / "filtered.h5"
    code = f"import h5py; h5py.File({str(path)!r})['x'][:]"
    with h5py.File(path, "w") as file:
        made = h5p.create(h5p.DATASET_CREATE)
        made.set_chunk((8,))
        made.set_filter(32123, h5z.FLAG_OPTIONAL)
        space, kind = h5s.create_simple((8,)), h5t.NATIVE_UINT8
        dataset = h5d.create(file.id, b"x", kind, space, made)
        dataset.write_direct_chunk((0,), bytes(8))
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins)}
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, env=environment)


def _outcome(look: object, path: Path) -> str:
    """The exit code of a refusal, "sound", or the exception that has no name here."""
    try:
        found = look(path)  # type: ignore[operator]
    except FeatcacheError as err:
        return str(err.exit_code)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "sound" if getattr(found, "is_sound", True) else "13"


if __name__ == "__main__":
    sys.exit(main("hostile", claims))
