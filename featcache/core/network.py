"""How long a download waits for a server that went silent."""

from __future__ import annotations

import socket

_SILENCE_S = 30.0


def silence_limit_s() -> float:
    """Seconds without an answer after which a download fails: 30, or what the process has set."""
    return socket.getdefaulttimeout() or _SILENCE_S
