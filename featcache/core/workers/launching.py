"""torch's elastic agent as a library: it starts the workers, and all again when one dies.

The agent asks its rendezvous before each start of the workers, and again and again while they
work. Ours is of this machine alone: it has one store, which listens on the loopback address only,
and it lets the leader look at these moments. So the leader needs no thread, and it stops the
agent by raising there. The agent handles no signals: the terminal does, as in every other command
(`featcache.core.stopping`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from torch.distributed import (  # type: ignore[attr-defined]  # named in no __all__
    PrefixStore,
    Store,
    TCPStore,
)
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from featcache.core.process_wide import WhileAnyInside
from featcache.core.workers.messages import HOST

_BACKEND = "featcache"
_LOOKS_EVERY_S = 0.1
_ENDS_WITHIN_S = 5  # a worker that was asked to; then it is killed
_ANSWERS_WITHIN_S = 60
_MOST_STARTS = 1_000_000  # the leader gives up long before
_SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"


def make_store() -> tuple[Store, int]:
    """Make the store that workers share, and give its port; no other machine reaches it."""
    listening = socket.create_server((HOST, 0))
    port: int = listening.getsockname()[1]
    store = TCPStore(
        HOST,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=_ANSWERS_WITHIN_S),
        master_listen_fd=listening.detach(),
    )
    return store, port


def launch(
    arguments: Sequence[str],
    n_workers: int,
    store: Store,
    port: int,
    *,
    on_start: Callable[[], None],
    on_look: Callable[[], None],
) -> None:
    """Start Python once for each worker, and return when all have ended with 0.

    Whatever is raised here or in a callback, no worker is left.

    Args:
        arguments: Of Python.
        n_workers: How many.
        store: What they share.
        port: Of the store.
        on_start: Called before each start of all workers. What it raises ends them.
        on_look: Called ten times a second; likewise.
    """
    handler = _OfThisMachine(store, port, on_start=on_start, on_look=on_look)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n_workers,
        run_id=uuid.uuid4().hex,
        role="featcache",
        rdzv_backend=_BACKEND,
        rdzv_configs={"handler": handler},
        local_addr=HOST,
        max_restarts=_MOST_STARTS,
        monitor_interval=_LOOKS_EVERY_S,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle="",
        shutdown_timeout=_ENDS_WITHIN_S,
    )
    rendezvous_handler_registry.register(_BACKEND, _given)
    with _silent_agent(), _environment_kept(_SIGNALS):
        elastic_launch(config, sys.executable)(*arguments)


class _OfThisMachine(RendezvousHandler):
    """Where the agent of one machine meets itself."""

    def __init__(
        self,
        store: Store,
        port: int,
        *,
        on_start: Callable[[], None],
        on_look: Callable[[], None],
    ) -> None:
        self._store = store
        self._port = port
        self._on_start = on_start
        self._on_look = on_look
        self._n_starts = 0

    def get_backend(self) -> str:
        return _BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Begin a start of the workers."""
        self._on_start()
        self._n_starts += 1
        store = PrefixStore(f"agent/{self._n_starts}", self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(HOST, self._port))

    def num_nodes_waiting(self) -> int:
        """Say that no machine waits to join; asked at each look at the workers."""
        self._on_look()
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def get_run_id(self) -> str:
        return _BACKEND

    def shutdown(self) -> bool:
        return True


def _given(parameters: RendezvousParameters) -> RendezvousHandler:
    handler: RendezvousHandler = parameters.config["handler"]
    return handler


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Keep what the agent logs, at any level, from the console; the leader tells what matters."""
    logger = logging.getLogger("torch.distributed")  # torch gives it handlers of its own
    handlers, propagates = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagates


_silent_agent = WhileAnyInside(_without_messages)


@contextlib.contextmanager
def _environment_kept(name: str) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
