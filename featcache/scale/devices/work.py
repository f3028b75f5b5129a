"""What the leader tells its workers, and the names of what they share in the store; no torch."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featcache import errors
from featcache.errors import FeatcacheError, UnknownNameError

HOST = "127.0.0.1"
REFUSED = "refused"
FAILED = "failed"
N_NOTES = "n_notes"


@dataclass(frozen=True)
class Work:
    """What every worker is told.

    Attributes:
        spec: The fields of the `ExtractSpec`.
        cache: The final name of the cache; its partial file is there, and ready.
        dataset_sha256: Digest of the dataset, hex, which no worker computes again.
        devices: Where each worker computes, by its rank.
        n_workers: Decoding processes of each.
        n_threads: CPU threads of each.
        port: Of the store.
        leader: Process that started the workers; they end with it.
        path: Where it finds modules.
    """

    spec: Mapping[str, Any]
    cache: str
    dataset_sha256: str
    devices: tuple[str, ...]
    n_workers: int
    n_threads: int
    port: int
    leader: int
    path: tuple[str, ...]

    def command(self) -> tuple[str, ...]:
        """Write the arguments of Python by which a worker starts, in letters that nothing reads."""
        said = base64.b64encode(json.dumps(asdict(self)).encode()).decode()
        return "-P", "-c", _START, said


# With the leader's own search path: a worker must not import what lies about in its folder.
_START = """\
import base64, json, sys
said = json.loads(base64.b64decode(sys.argv[1]))
sys.path[:] = said["path"]
from featcache.scale.devices.worker import main
main(said)
"""


def next_key(attempt: int) -> str:
    """Name the counter of blocks; each start of the workers has one of its own."""
    return f"next/{attempt}"


def claimed_key(attempt: int) -> str:
    """Name the slots that were claimed since that start, each followed by a comma."""
    return f"claimed/{attempt}"


def phases_key(attempt: int, rank: int) -> str:
    """Name the seconds of a worker by phase, as JSON."""
    return f"phases/{attempt}/{rank}"


def note_key(number: int) -> str:
    """Name a sentence that a worker tells."""
    return f"note/{number}"


def written_error(err: FeatcacheError) -> str:
    """Write a refusal as text; no pickle, which could run code."""
    return json.dumps([type(err).__name__, str(err)])


def read_error(content: bytes) -> FeatcacheError:
    """Read what `written_error` wrote."""
    name, text = json.loads(content)
    kind = getattr(errors, name, FeatcacheError)
    if not (isinstance(kind, type) and issubclass(kind, FeatcacheError)):
        kind = FeatcacheError
    if issubclass(kind, UnknownNameError):  # its own __init__ words a message anew
        return kind.__new__(kind, str(text))
    return kind(str(text))
