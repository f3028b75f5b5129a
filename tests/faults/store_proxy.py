"""A proxy before an imitation of S3, which lets requests fail as networks and stores do."""

from __future__ import annotations

import http.client
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS: Mapping[str, int] = {"503": 5, "reset": 5, "truncated": 5, "lost reply": 5, "stall": 1}
"""What may happen to a request, with how often it does, one to another."""
_NO_UPLOAD = "NoSuchUpload"  # the word of S3


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a store, and lets a share of them fail.

    Attributes:
        counts: How often each fault was injected.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, *, share: float, stall_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(endpoint).netloc
        self.share, self.stall_s = share, stall_s
        self.counts = Counter[str]()
        self.random = random.Random(0)
        self._faults = FAULTS
        self._to_refuse: tuple[str, str, int, str] | None = None

    def only(self, fault: str) -> None:
        """Let no other fault happen."""
        self._faults = {fault: 1}

    def forget_upload_at(self, method: str, words: str) -> None:
        """Know nothing of its upload at the next such request whose path has these words."""
        self.refuse_at(method, words, 404, _NO_UPLOAD)

    def refuse_at(self, method: str, words: str, status: int, code: str) -> None:
        """Answer so to the next such request whose path has these words."""
        self._to_refuse = method, words, status, code

    def refusal(self, method: str, path: str) -> tuple[int, str] | None:
        """Give the answer to a request that is to be refused."""
        if self._to_refuse is None or method != self._to_refuse[0]:
            return None
        _, words, status, code = self._to_refuse
        if words not in path:
            return None
        self._to_refuse = None
        self.counts[code] += 1
        return status, code

    def fault(self) -> str:
        """Draw what happens to a request; empty for nothing."""
        if self.random.random() >= self.share:
            return ""
        [fault] = self.random.choices(list(self._faults), list(self._faults.values()))
        self.counts[fault] += 1
        return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: they were provoked to."""


@contextmanager
def faulty(endpoint: str, *, share: float, stall_s: float) -> Iterator[Proxy]:
    """Run a proxy in a thread inside."""
    proxy = Proxy(endpoint, share=share, stall_s=stall_s)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


@contextmanager
def store_process() -> Iterator[str]:
    """Run the imitation of S3 in a process of its own inside; gives its endpoint."""
    program = (
        "import time\n"
        "from tests.scale.moto_server import moto_server\n"
        "with moto_server() as endpoint:\n"
        "    print(endpoint, flush=True)\n"
        "    time.sleep(1e9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self._passed()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - the base class's names

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of each request."""

    def _passed(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if refusal := self.server.refusal(self.command, self.path):
            self._refuse(refusal[0], f"<Error><Code>{refusal[1]}</Code></Error>".encode())
            return
        fault = self.server.fault()
        if fault == "503":
            self._refuse(503, b"")
            return
        if fault == "reset":
            self._hang_up(reset=True)
            return
        if fault == "stall":
            time.sleep(self.server.stall_s)
            self._hang_up()
            return
        status, headers, content = self._answer(body)
        if fault == "lost reply":
            self._hang_up()
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault == "truncated" else content)
        if fault == "truncated":
            self._hang_up()

    def _refuse(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            # Its Host header is of the proxy: the signature holds for that.
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                store.putheader(name, value)
            store.endheaders(body)
            answer = store.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            store.close()

    def _hang_up(self, *, reset: bool = False) -> None:
        self.close_connection = True
        if reset:  # a close that waits 0 s for what was sent is a reset
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
