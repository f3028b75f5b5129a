"""Shares as tasks of Ray, whose workers are killed; joined and compared.

`python -m tests.faults.ray [--quick]`, with the extra `ray`. The claim: the shares whose worker is
killed go on in another, all are there in the end, the joined file is that of one process, and
stdout has the answer alone.

The negative control is a task that takes the file of a share for done because it exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import featcache
from featcache.errors import FeatcacheError
from featcache.scale.parts import describe_parts
from featcache.scale.plan_file import read_plan
from featcache.store import read_state
from tests.conftest import save_image
from tests.faults.claims import Claim, main
from tests.paces import blocks_of

ROOT = Path(__file__).parents[2]
_IMAGES_PER_SHARE = 12
_LOOKS_EVERY_S = 0.05
_TOKEN = "FEATCACHE_TRIAL"
# A cluster of two workers, whose blocks are small, so that a share of seconds has several.
_ON_TWO_WORKERS = """\
import ray
from tests.faults.ray import small_blocks
hook = {"worker_process_setup_hook": small_blocks}
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=hook)
from featcache_cli.__main__ import main
main()
"""
_AS_LONG_AS_IT_LIVES = contextlib.ExitStack()
_FEATCACHE = "from featcache_cli.__main__ import main; main()"
_NAIVE = """\
import os, sys, time
import ray
ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)

@ray.remote(max_retries=8)
def share(path):
    if not os.path.exists(path):
        with open(path, "a") as file:
            for row in range(20):
                print(row, file=file, flush=True)
                time.sleep(0.2)

ray.get([share.remote(f"{sys.argv[1]}/naive-{i}") for i in range(4)])
"""


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Deal, kill, join; and look at the answer of a command that has nothing left to do."""
    if importlib.util.find_spec("ray") is None:
        sys.exit('Ray is not installed, and this proves nothing without it: pip install "ray"')
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": _search_path(), _TOKEN: uuid.uuid4().hex}
    n_shares, n_kills = (6, 2) if quick else (20, 5)
    for i in range(n_shares * _IMAGES_PER_SHARE):
        save_image(folder / f"pets/train/{'cat' if i % 2 else 'dog'}/{i:04d}.png", i)
    options = {"--backbone": "resnet50", "--weights": "random", "--image-size": "128"}
    options |= {"--batch-size": "2", "--compile": "never", "--dataset": f"folder:{folder}/pets"}
    asked = [word for pair in options.items() for word in pair]
    dealt = [*asked, "--cache-dir", f"{folder}/cache", "--share", f"ray/{n_shares}", "--json"]

    driver = _start(_ON_TWO_WORKERS, "extract", *dealt)
    seen = _kill_workers(driver, folder, n_kills)
    said, _ = driver.communicate()
    [plan_path] = folder.glob("cache/*/*.parts/plan.json")
    plan = read_plan(plan_path.parent)
    found = describe_parts(plan.folder)
    n_there = sum(part.state == "complete" for part in found.parts)
    lost = sum(len(slots - set(read_state(plan.part(i)).slots)) for i, slots in seen.items())
    again = _start(_FEATCACHE, "extract", *dealt)
    answer = _json(again.communicate()[0])
    with blocks_of(2):
        spec = featcache.ExtractSpec(cache_dir=f"{folder}/one", **_fields(options))
        [whole] = featcache.extract_all([spec])
    is_same = _sha256(featcache.merge_parts(plan.folder).path) == _sha256(whole.path)
    n_rows = _joined_naively(folder)
    return [
        Claim(
            34,
            f"{n_shares} shares as tasks of Ray on 2 workers, {len(seen)} of which were killed in "
            f"mid-work (shares {', '.join(map(str, seen))}): {n_there} of {n_shares} are there "
            f"(exit {driver.returncode}), {lost} of {sum(map(len, seen.values()))} acknowledged "
            f"blocks lost, the joined file is {'' if is_same else 'NOT '}byte-identical to one "
            f"process's; the same command again: {answer.get('outcome')}, stdout holds its JSON "
            f"alone",
            is_same
            and (driver.returncode, again.returncode) == (0, 0)
            and (n_there, len(seen), lost) == (n_shares, n_kills, 0)
            and _json(said).get("outcome") == "computed"
            and answer.get("outcome") == "reused",
            f"a share that is done because its file exists: {n_rows} of 80 rows",
            n_rows < 80,
        )
    ]


def small_blocks() -> None:
    """Make blocks of two images in this worker, for as long as it lives."""
    _AS_LONG_AS_IT_LIVES.enter_context(blocks_of(2, commit_s=0.005))


def _search_path() -> str:
    paths = [str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(path for path in paths if path)


def _start(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _json(text: str) -> dict[str, object]:
    """Read stdout, which must be one JSON object; empty if it is not."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return {}


def _fields(options: dict[str, str]) -> dict[str, Any]:
    numbers = {"--image-size", "--batch-size"}
    return {
        name[2:].replace("-", "_"): int(value) if name in numbers else value
        for name, value in options.items()
    }


def _kill_workers(driver: subprocess.Popen[str], folder: Path, n_kills: int) -> dict[int, set[int]]:
    """Kill the worker of every third share once it has acknowledged blocks; give these."""
    seen: dict[int, set[int]] = {}
    while driver.poll() is None:
        for pid, index, partial in _workers(folder):
            if len(seen) == n_kills or index in seen or index % 3 != 1:
                continue
            with contextlib.suppress(ValueError, FeatcacheError, ProcessLookupError):
                if slots := set(read_state(partial).slots):
                    os.kill(pid, signal.SIGKILL)
                    seen[index] = slots
        time.sleep(_LOOKS_EVERY_S)
    return seen


def _workers(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Find the workers of this trial that write a part: process, number of the share, file."""
    for process in _of_this_trial():
        with contextlib.suppress(OSError):
            for path in _open_files(process):
                if found := re.fullmatch(r"part-(\d+)-of-.*\.partial", path.name):
                    yield int(process.name), int(found[1]), path
                    break


def _of_this_trial() -> Iterator[Path]:
    """Find the processes of Ray that compute a task."""
    token = f"{_TOKEN}={os.environ[_TOKEN]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::") and token in (
                process / "environ"
            ).read_bytes():
                yield process


def _open_files(process: Path) -> list[Path]:
    return [link.readlink() for link in (process / "fd").iterdir()]


def _joined_naively(folder: Path) -> int:
    """Kill a worker of naive tasks, which Ray then tries again; count the rows."""
    driver = _start(_NAIVE, str(folder))
    is_killed = False
    while driver.poll() is None:
        rows = folder / "naive-1"
        for process in _of_this_trial():
            with contextlib.suppress(OSError):
                if not is_killed and rows in _open_files(process) and rows.read_text():
                    os.kill(int(process.name), signal.SIGKILL)
                    is_killed = True
        time.sleep(_LOOKS_EVERY_S)
    return sum(len(file.read_text().splitlines()) for file in folder.glob("naive-?"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main("ray", claims))
