"""An imitation of S3 on this machine, in a thread."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from featcache.core.store_urls import store_url


@contextmanager
def moto_server() -> Iterator[str]:
    """Run it inside; gives its endpoint. It has a bucket "bucket"."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        _post(f"{endpoint}/moto-api/reset", "POST")  # its objects live as long as the process
        _post(f"{endpoint}/bucket", "PUT")
        yield endpoint
    finally:
        server.stop()


def _post(url: str, method: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10):
        pass


def environment(endpoint: str) -> dict[str, str]:
    """Give the variables with which the imitation is reached."""
    return {
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-user",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


def objects_at(url: str) -> dict[str, int]:
    """Give the sizes of all objects below a URL."""
    from featcache.scale.remote.objects import Objects

    with Objects.at(store_url(url), on_note=print) as objects:
        return objects.sizes("")


def write(folder: str, name: str, content: bytes) -> None:
    """Replace an object behind featcache's back."""
    import obstore

    store = obstore.store.from_url(folder, client_options={"allow_http": True})
    obstore.put(store, name, content)


def remove(folder: str, name: str) -> None:
    """Remove an object behind featcache's back."""
    import obstore

    store = obstore.store.from_url(folder, client_options={"allow_http": True})
    obstore.delete(store, name)


def data_of(folder: str) -> list[str]:
    """Name the parts in a folder."""
    return [name for name in objects_at(folder) if name.startswith("data/")]


def flip_a_byte(folder: str) -> None:
    """Change a byte of a part behind featcache's back."""
    from featcache.scale.remote.objects import Objects

    name = data_of(folder)[0]
    with Objects.at(store_url(folder), on_note=print) as objects:
        content = bytearray(objects.get(name) or b"")
    content[len(content) // 2] ^= 1
    write(folder, name, bytes(content))
