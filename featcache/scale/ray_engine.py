"""Shares as tasks of a Ray cluster: one that runs, or one of this machine for as long as needed.

Ray's Core alone, and no rows pass through it: a task writes its part into the common folder, and
answers with what it did. A task whose process or machine dies is tried again by Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from featcache.config import ExtractSpec
from featcache.core.allocator import keep_freed_memory
from featcache.core.backbone_names import PIXELS
from featcache.core.options import AUTO
from featcache.core.reporting import NoteCallback
from featcache.core.stopping import StopRequested, stop_if_asked
from featcache.errors import DeviceError, UsageError, counted
from featcache.extraction.progress import ProgressCallback
from featcache.scale.dealing import Answer, ShareTask, deal, run_task
from featcache.scale.share_result import ShareResult

_N_RETRIES = 8
_MOST_AT_ONCE = 1000  # tasks that Ray holds, of up to 99,999
_LOOKS_EVERY_S = 0.5
_ANSWERS_WITHIN_S = 10.0
_GPUS = (AUTO, "cuda", "cuda:0")  # Ray gives a task one, which is cuda:0 there


class Need(NamedTuple):
    """What a task needs of a machine.

    Attributes:
        n_cpus: Cores; they decode for a GPU.
        n_gpus: 0 or 1.
    """

    n_cpus: int
    n_gpus: int


def extract_on_ray(
    spec: ExtractSpec,
    n_shares: int,
    *,
    wait: float,
    on_progress: ProgressCallback,
    on_note: NoteCallback,
) -> ShareResult:
    """Compute all shares on a Ray cluster, as `extract_share` says.

    Raises:
        UsageError: If Ray is not installed, or the device is not one that it deals.
        DeviceError: If the cluster does not answer, or a share loses its process again and again.
        FeatcacheError: As `deal` raises them.
    """
    if spec.device not in (*_GPUS, "cpu"):
        raise UsageError(
            f"--device {spec.device} cannot be chosen on a Ray cluster, which gives each share a "
            f"GPU of its own. Nothing was started. Say --device cuda or --device cpu."
        )
    try:
        from ray import remote  # noqa: F401 - a mere folder of this name, as in /tmp, has none
    except ImportError as err:
        raise UsageError(
            "--share ray/N needs the package 'ray', which is not installed here. Nothing was "
            "started. Install it here and on all machines of the cluster with: "
            'pip install "featcache[ray]"'
        ) from err
    with contextlib.redirect_stdout(sys.stderr), _connected(on_note) as has:
        need = need_of_task(spec, has)
        if need.n_gpus and not has.get("GPU"):
            on_note("the cluster has no GPU yet: shares wait until it has one")
        kind = f"{counted(need.n_cpus, 'CPU')}{' and a GPU' if need.n_gpus else ''}"
        on_note(f"each share gets {kind}")
        if spec.n_workers is None:  # they would take all cores of the machine
            spec = replace(spec, n_workers=need.n_cpus)

        def workers(tasks: Iterable[ShareTask]) -> Iterator[Answer]:
            return _answers(tasks, need)

        return deal(spec, n_shares, workers, wait=wait, on_progress=on_progress, on_note=on_note)


def need_of_task(spec: ExtractSpec, has: dict[str, float]) -> Need:
    """Choose what each task needs.

    Args:
        spec: Where its backbone runs, if one does.
        has: What the cluster has, as Ray counts it: "CPU" and "GPU".
    """
    n_gpus = int(has.get("GPU", 0))
    needs_none = spec.device == "cpu" or spec.backbone == PIXELS
    if needs_none or (spec.device == AUTO and not n_gpus):
        return Need(1, 0)
    return Need(max(1, int(has.get("CPU", 1)) // max(1, n_gpus)), 1)


@contextlib.contextmanager
def _connected(on_note: NoteCallback) -> Iterator[dict[str, float]]:
    """Connect to the cluster of RAY_ADDRESS, that of this machine, or one that is started for it.

    Gives what the cluster has. A program that is connected already stays so.
    """
    import ray

    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        _require_answer(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except SystemExit as err:  # by the handler that Ray puts there
        raise StopRequested(signal.SIGTERM) from err
    except (OSError, RuntimeError, ValueError) as err:
        first_line = str(err).partition("\n")[0]
        raise DeviceError(
            f"No Ray cluster answers (RAY_ADDRESS is {address or 'not set'}): {first_line}. "
            f"Nothing was started. Set RAY_ADDRESS to one that runs, or unset it and run `ray "
            f"stop` to use this machine alone."
        ) from err
    finally:
        if is_main and before is not None:  # None: it was not set from Python
            signal.signal(signal.SIGTERM, before)
    try:
        has = ray.cluster_resources()
        n_nodes = sum(node["Alive"] for node in ray.nodes())
        address = ray.get_runtime_context().gcs_address
        counts = f"{counted(n_nodes, 'machine')}, {has.get('CPU', 0):g} CPUs"
        on_note(f"Ray {ray.__version__} at {address}: {counts}, {has.get('GPU', 0):g} GPUs")
        yield has
    finally:
        ray.shutdown()  # it ends what still runs; shares keep what they acknowledged


def _require_answer(address: str) -> None:
    """Try whether anything listens at "host:port"; Ray itself would try for minutes.

    Raises:
        OSError: If nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isascii() and port.isdigit() and int(port) < 1 << 16:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN_S).close()


def _answers(tasks: Iterable[ShareTask], need: Need) -> Iterator[Answer]:
    """Hand tasks to Ray, a bounded number at a time, and give the answers as they come."""
    import ray

    variables = {n: os.environ[n] for n in ("OMP_NUM_THREADS",) if n in os.environ}
    remote = ray.remote(_in_worker).options(
        num_cpus=need.n_cpus,
        num_gpus=need.n_gpus,
        max_retries=_N_RETRIES,
        retry_exceptions=[DeviceError],
        runtime_env={"env_vars": variables} if variables else None,
    )
    waiting: dict[Any, ShareTask] = {}
    left = iter(tasks)
    while True:
        while len(waiting) < _MOST_AT_ONCE and (task := next(left, None)):
            waiting[remote.remote(task)] = task
        if not waiting:
            return
        stop_if_asked()
        done, _ = ray.wait([*waiting], timeout=_LOOKS_EVERY_S)
        for reference in done:
            yield _got(reference, waiting.pop(reference))


def _got(reference: Any, task: ShareTask) -> Answer:
    """Take the answer of a task.

    Raises:
        DeviceError: If no try of it came to an end.
    """
    import ray

    try:
        answer: Answer = ray.get(reference)
        return answer
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, Exception):
            raise err.cause from err
        raise
    except ray.exceptions.RayError as err:
        first_line = str(err).partition("\n")[0]
        raise DeviceError(
            f"Share {task.share} lost its process {_N_RETRIES + 1} times ({type(err).__name__}: "
            f"{first_line}). What is acknowledged is kept. Look into Ray's logs for the reason; "
            f"the same command then goes on."
        ) from err


def _in_worker(task: ShareTask) -> Answer:
    keep_freed_memory()  # this process is ours
    return run_task(task)
