"""What a leader tells its workers, and the names of what they share in the store; no torch."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from featcache import errors
from featcache.errors import FeatcacheError, UnknownNameError

HOST = "127.0.0.1"
REFUSED = "refused"
FAILED = "failed"
N_NOTES = "n_notes"


def start_command(main: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the arguments of Python by which a worker starts, in letters that nothing reads.

    Args:
        main: Module whose `main` is called.
        said: What it is called with, which is JSON; "path" is where it finds modules.
    """
    # With the leader's own search path: a worker must not import what lies about in its folder.
    start = f"""\
import base64, json, sys
said = json.loads(base64.b64decode(sys.argv[1]))
sys.path[:] = said["path"]
from {main} import main
main(said)
"""
    return "-P", "-c", start, base64.b64encode(json.dumps(said).encode()).decode()


def next_key(attempt: int) -> str:
    """Name the counter of what is dealt; each start of the workers has one of its own."""
    return f"next/{attempt}"


def claimed_key(attempt: int) -> str:
    """Name the numbers that were claimed since that start, each followed by a comma."""
    return f"claimed/{attempt}"


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
