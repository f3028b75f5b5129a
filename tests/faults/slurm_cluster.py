"""A SLURM of this machine: a controller, and nodes that can die as a machine dies.

Each node is a slurmd in process and host namespaces of its own. When the first process of such a
namespace is killed, the system kills all others in it at once: the daemon, its steps, their jobs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.claims import require_tool

_TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "unshare")
_DEAD_AFTER_S = 10
_STARTS_WITHIN_S = 30.0
_CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdLogFile={folder}/%n.log
SlurmdTimeout={dead_after_s}
ReturnToService=2
KillWait=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/ended.txt
MpiDefault=none
PartitionName=trial Nodes=ALL Default=YES State=UP
"""


@dataclass
class Cluster:
    """A controller and its nodes, which run as long as the block of `running`.

    Attributes:
        folder: Of its daemons; `ended.txt` there has a line for each task that ended.
        nodes: Their names.
    """

    folder: Path
    nodes: tuple[str, ...]
    _slurmds: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str, check: bool = True) -> str:
        """Run a client and give what it prints."""
        ran = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if check and ran.returncode:
            sys.exit(f"{' '.join(command)}: {ran.stderr}")
        return ran.stdout.strip()

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        start = f"hostname {node}; exec slurmd -D -f {self.folder}/slurm.conf -N {node}"
        spaces = ("unshare", "--pid", "--uts", "--mount-proc", "--fork", "--kill-child")
        self._slurmds[node] = subprocess.Popen(
            [*spaces, "sh", "-c", start], env=self.environment, stderr=subprocess.DEVNULL
        )

    def kill_node(self, node: str) -> None:
        """Switch a node off: each of its processes is gone at once, and says nothing."""
        unshare = self._slurmds.pop(node)
        unshare.kill()
        unshare.wait()

    def nodes_in(self, state: str) -> set[str]:
        """Names of the nodes in a state, like "down"."""
        said = self.ask("sinfo", "--noheader", "--Node", "--format=%N %T")
        lines = (line.split() for line in said.splitlines())
        return {name for name, its in lines if its.rstrip("*") == state}

    def ended(self) -> list[dict[str, str]]:
        """The fields of each task that ended, like JobState."""
        file = self.folder / "ended.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]


def task_processes(task: int) -> list[int]:
    """Numbers of the processes of a task of an array, the oldest first."""
    wanted, found = f"SLURM_ARRAY_TASK_ID={task}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is the system's
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return sorted(found)


@contextlib.contextmanager
def running(folder: Path, nodes: Sequence[str]) -> Iterator[Cluster]:
    """Run a controller and nodes of one CPU each inside.

    Raises:
        SystemExit: If SLURM is not installed, or the user is not root.
    """
    for tool in _TOOLS:
        require_tool(tool)
    if os.geteuid():
        sys.exit("A node that can die needs namespaces of its own: run this as root.")
    (folder / "state").mkdir(parents=True)
    cluster = Cluster(folder, tuple(nodes))
    _configure(cluster)
    with contextlib.ExitStack() as stack:
        stack.callback(_end_all, cluster)
        _start_munge(folder)
        subprocess.run(["slurmctld", "-f", folder / "slurm.conf"], check=True)
        for node in nodes:
            cluster.start_node(node)
        _wait_for_nodes(cluster)
        yield cluster


def _configure(cluster: Cluster) -> None:
    ports = _free_ports(len(cluster.nodes) + 1)
    text = _CONFIGURATION.format(
        folder=cluster.folder,
        host=socket.gethostname(),
        port=ports[0],
        dead_after_s=_DEAD_AFTER_S,
    )
    for node, port in zip(cluster.nodes, ports[1:], strict=True):
        address = f"NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port}"
        text += f"NodeName={node} {address} CPUs=1 RealMemory=4000\n"
    (cluster.folder / "slurm.conf").write_text(text)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start_munge(folder: Path) -> None:
    """Start the service by which SLURM's programs know each other, with a key of its own."""
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    places = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    places |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    folder.chmod(0o755)  # it refuses a socket that others cannot reach
    subprocess.run(
        ["munged", "--force", *(f"--{name}={path}" for name, path in places.items())],
        check=True,
        capture_output=True,
    )


def _wait_for_nodes(cluster: Cluster) -> None:
    began = time.monotonic()
    while cluster.nodes_in("idle") != set(cluster.nodes):
        if time.monotonic() - began > _STARTS_WITHIN_S:
            log = (cluster.folder / "slurmctld.log").read_text()[-2000:]
            sys.exit(f"SLURM did not start within {_STARTS_WITHIN_S:.0f} s:\n{log}")
        time.sleep(0.5)


def _end_all(cluster: Cluster) -> None:
    for node in [*cluster._slurmds]:
        cluster.kill_node(node)
    for name in ("slurmctld", "munged"):
        file = cluster.folder / f"{name}.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.1)
    shutil.rmtree(cluster.folder, ignore_errors=True)
