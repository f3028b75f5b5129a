"""An array of shares on a real SLURM, whose tasks and nodes die; joined and compared.

`python -m tests.faults.slurm [--quick]`, as root, with Debian's `slurmd slurmctld slurm-client
munge`. The script is docs/guides/slurm/extract.sbatch, and only its settings are others. The claim:
after kills, a dead node, scancel and a time limit, one submission of the missing shares completes
the array, and the joined file is that of one process.

The negative control is an array that takes the file of a share for done because it exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from featcache.core.side_files import partial_path
from featcache.errors import FeatcacheError
from featcache.scale.parts import describe_parts
from featcache.scale.plan_file import PartsPlan, read_plan
from featcache.store import read_state
from tests.conftest import save_image
from tests.faults.claims import Claim, main
from tests.faults.slurm_cluster import Cluster, running, task_processes

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "guides" / "slurm" / "extract.sbatch"
_IMAGES_PER_SHARE = 17
_MOST_S = 900.0
_LOOKS_EVERY_S = 0.05
_TERM = 1 << (signal.SIGTERM - 1)
# The command with small blocks, so that a share of seconds has several.
_FEATCACHE = """\
#!/bin/sh
export PYTHONPATH={root}:{root}/cli
exec {python} -c '
from featcache_cli.__main__ import main
from tests.paces import blocks_of
with blocks_of(2, commit_s=0.005):
    main()' "$@"
"""
_NAIVE = """\
#!/bin/bash
file=naive-$SLURM_ARRAY_TASK_ID
[ -e $file ] && exit 0
for row in $(seq 20); do echo $row >> $file; sleep 0.1; done
"""

Strike = Callable[[int], None]


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Submit, strike, submit once more, join."""
    n_shares = 8 if quick else 24
    with running(folder / "slurm", ["n1", "n2"]) as cluster:
        trial = _Trial(cluster, folder, n_shares)
        trial.make()
        trial.submit_as_the_guide()
        trial.strike_until_idle(_few_strikes(trial) if quick else _all_strikes(trial))
        before = Counter(f"{task['JobState']} {task['ExitCode']}" for task in cluster.ended())
        missing = describe_parts(trial.plan.folder).missing
        n_lost, n_acknowledged = trial.lost()
        cluster.ask("sbatch", f"--chdir={folder}", f"--array={missing}", str(trial.script))
        trial.strike_until_idle({})
        is_whole = trial.is_that_of_one_process()
        n_rows, n_rows_wanted = _joined_naively(cluster, folder)
    states = ", ".join(f"{n} {state}" for state, n in sorted(before.items()))
    struck = ", ".join(trial.struck)
    return [
        Claim(
            33,
            f"an array of {n_shares} shares on two nodes, struck in mid-work by: {struck}. Tasks "
            f"ended {states}; missing: {missing}; {n_lost} of {n_acknowledged} acknowledged blocks "
            f"lost. After one submission of those {'all are there' if is_whole else 'NOT all'}, "
            f"and the joined file is {'' if is_whole else 'NOT '}byte-identical to one process's",
            is_whole and not n_lost and set(_numbers(missing)) == trial.wait_for_people,
            f"a share that is done because its file exists: {n_rows} of {n_rows_wanted} rows",
            n_rows < n_rows_wanted,
        )
    ]


@dataclass
class _Trial:
    """An array, and what happened to it."""

    cluster: Cluster
    folder: Path
    n_shares: int
    struck: list[str] = field(default_factory=list)
    wait_for_people: set[int] = field(default_factory=set)
    _seen: dict[int, set[int]] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)

    @property
    def script(self) -> Path:
        return self.folder / "extract.sbatch"

    @property
    def plan(self) -> PartsPlan:
        [path] = self.folder.glob("cache/*/*.parts/plan.json")
        return read_plan(path.parent)

    def make(self) -> None:
        """Write images, the command, and the script with other settings."""
        for i in range(self.n_shares * _IMAGES_PER_SHARE):
            save_image(self.folder / f"pets/train/{'cat' if i % 2 else 'dog'}/{i:04d}.png", i)
        command = self.folder / "bin" / "featcache"
        command.parent.mkdir()
        command.write_text(_FEATCACHE.format(root=ROOT, python=sys.executable))
        command.chmod(0o755)
        os.environ["PATH"] = f"{command.parent}:{os.environ['PATH']}"
        text = SCRIPT.read_text()
        for old, new in {
            "--array=0-23": f"--array=0-{self.n_shares - 1}",
            "#SBATCH --gpus=1\n": "",
            "--cpus-per-task=16": "--cpus-per-task=1",
            "--mem=32G": "--mem=2G",
            "folder:/data/pets": f"folder:{self.folder}/pets",
            "--batch-size 256": "--batch-size 2 --image-size 128 --weights random --compile never",
            "/shared/cache": f"{self.folder}/cache",
            "--share /24": f"--share /{self.n_shares}",
        }.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.script.write_text(text)

    def submit_as_the_guide(self) -> None:
        """Submit share 0, which makes the plan, and then all of them."""
        submit = ("sbatch", "--parsable", f"--chdir={self.folder}")
        first = self.cluster.ask(*submit, "--array=0", str(self.script))
        self.array = self.cluster.ask(*submit, f"--dependency=afterok:{first}", str(self.script))

    def strike_until_idle(self, strikes: dict[int, Strike]) -> None:
        """Strike each task once it has acknowledged blocks and is not done; wait for all."""
        waiting, began = dict(strikes), time.monotonic()
        looked_s = began
        while True:
            for task in [*waiting]:
                if self._is_at_work(task):
                    waiting.pop(task)(task)
            time.sleep(_LOOKS_EVERY_S)
            if time.monotonic() - looked_s > 1:
                looked_s = time.monotonic()
                for node in self._dead & self.cluster.nodes_in("down"):  # it is replaced
                    self._dead.remove(node)
                    self.cluster.start_node(node)
                if not self.cluster.ask("squeue", "--noheader"):
                    return
            if time.monotonic() - began > _MOST_S:
                sys.exit(f"not done after {_MOST_S:.0f} s:\n{self.cluster.ask('squeue')}")

    def _is_at_work(self, task: int) -> bool:
        try:
            slots = set(read_state(partial_path(self.plan.part(task))).slots)
        except (ValueError, FeatcacheError):  # there is no plan yet, or no file
            return False
        if slots and task_processes(task):
            self._seen[task] = slots
            return True
        return False

    def lost(self) -> tuple[int, int]:
        """Count the blocks that were acknowledged before a strike: those lost, and all."""
        n_lost = 0
        for task, slots in self._seen.items():
            part = self.plan.part(task)
            state = read_state(part if part.exists() else partial_path(part))
            n_lost += len(slots - set(state.slots))
        return n_lost, sum(len(slots) for slots in self._seen.values())

    def kill(self, task: int) -> None:
        """Kill featcache itself."""
        os.kill(task_processes(task)[0], signal.SIGKILL)
        self._struck("SIGKILL", task, goes_on=False)

    def kill_node(self, task: int) -> None:
        """Switch off the node that computes the task."""
        node = self._ask_of(task, "%N")
        self.cluster.kill_node(node)
        self._dead.add(node)
        self._struck("death of its node", task, goes_on=True)

    def cancel(self, task: int) -> None:
        """End the task, as a user does."""
        self.cluster.ask("scancel", f"{self.array}_{task}")
        self._struck("scancel", task, goes_on=False)

    def requeue(self, task: int) -> None:
        """Put the task back into the queue, as a job of higher priority does."""
        self.cluster.ask("scontrol", "requeue", f"{self.array}_{task}")
        self._struck("scontrol requeue", task, goes_on=True)

    def end_its_time(self, task: int) -> None:
        """Let it stand still until SLURM says that its time is nearly up."""
        [pid, *_] = task_processes(task)
        os.kill(pid, signal.SIGSTOP)
        self.cluster.ask("scontrol", "update", f"JobId={self.array}_{task}", "TimeLimit=2")
        self._struck("a time limit", task, goes_on=False)
        while not _pending_signals(pid) & _TERM:
            time.sleep(_LOOKS_EVERY_S)
        with contextlib.suppress(ProcessLookupError):  # SLURM lets it go on, too
            os.kill(pid, signal.SIGCONT)

    def _struck(self, how: str, task: int, *, goes_on: bool) -> None:
        self.struck.append(f"{how} ({task})")
        if not goes_on:
            self.wait_for_people.add(task)

    def _ask_of(self, task: int, what: str) -> str:
        return self.cluster.ask("squeue", "--noheader", f"--job={self.array}_{task}", f"-o{what}")

    def is_that_of_one_process(self) -> bool:
        """Join the parts, and compare with the cache of one process."""
        _, _, words = self.script.read_text().partition("\nexec ")
        alone = words.replace("\\\n", " ").replace(f"{self.folder}/cache", f"{self.folder}/one")
        alone, _, _ = alone.partition("--share")
        one = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(alone.split(), env=one, check=True, capture_output=True)
        merge = ["featcache", "cache", "merge", str(self.plan.folder)]
        if subprocess.run(merge, capture_output=True, check=False).returncode:
            return False
        [whole] = self.folder.glob("one/*/*.h5")
        return _sha256(self.plan.whole) == _sha256(whole)


def _all_strikes(trial: _Trial) -> dict[int, Strike]:
    strikes = {2: trial.kill_node, 6: trial.kill, 9: trial.cancel, 12: trial.requeue}
    return strikes | {15: trial.kill, 17: trial.kill_node, 20: trial.end_its_time}


def _few_strikes(trial: _Trial) -> dict[int, Strike]:
    return {1: trial.kill_node, 3: trial.kill, 4: trial.cancel, 5: trial.requeue}


def _pending_signals(pid: int) -> int:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"^ShdPnd:\s*(\w+)", status, re.MULTILINE)[0], 16)
    return _TERM  # it is gone


def _numbers(array: str) -> list[int]:
    """Read "3,7-9" as [3, 7, 8, 9]."""
    ends = [[int(end) for end in run.split("-")] for run in array.split(",") if run]
    return [i for run in ends for i in range(run[0], run[-1] + 1)]


def _joined_naively(cluster: Cluster, folder: Path) -> tuple[int, int]:
    """Kill a naive array, submit it again, and count the rows that it takes for all."""
    script = folder / "naive.sbatch"
    script.write_text(_NAIVE)
    submit = partial(cluster.ask, "sbatch", f"--chdir={folder}", "--array=0-3", str(script))
    submit()
    while not (folder / "naive-1").exists():
        time.sleep(_LOOKS_EVERY_S)
    os.kill(task_processes(1)[0], signal.SIGKILL)
    for _ in range(2):
        while cluster.ask("squeue", "--noheader"):
            time.sleep(0.5)
        submit()
    while cluster.ask("squeue", "--noheader"):
        time.sleep(0.5)
    n_rows = sum(len(file.read_text().splitlines()) for file in folder.glob("naive-?"))
    return n_rows, 80


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main("slurm", claims))
