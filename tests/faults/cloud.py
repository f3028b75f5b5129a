"""Parts in an object store: requests that fail, writers that race, uploads that are killed.

`python -m tests.faults.cloud [--quick]`. The store is an imitation of S3 (moto) on this machine.
Three claims: faults between it and featcache change no byte and let nothing hang; eight writers of
one share leave one part; an upload that is killed leaves nothing torn that counts.

The negative controls: a client that tries once, writers that replace what another one wrote, and a
writer that names its part before the bytes are there.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import featcache
from featcache.core.store_urls import store_url
from featcache.errors import StorageError
from featcache.extraction.progress import Progress
from featcache.scale.remote.calls import StorePatience, with_patience
from featcache.scale.remote.describe_there import describe_there, verify_there
from featcache.scale.remote.layout import Marker, marker_bytes
from featcache.scale.remote.objects import Objects
from tests.faults.claims import Claim, main
from tests.faults.store_proxy import faulty, store_process
from tests.paces import blocks_of
from tests.scale.kinds import BATCH_SIZE, Kind, image_files
from tests.scale.moto_server import environment

_N_FAULTS = (60, 1000)
_N_ROUNDS = (3, 50)
_N_KILLS = (8, 100)
_N_WRITERS = 8
_TIMEOUT_S = 1.0
_LARGE_NBYTES = 20_000_000
_LONGEST_SILENCE_S = 60.0
_IN_VAIN = (StorePatience(timeout_s=_TIMEOUT_S, n_tries=3), StorePatience())


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Fail, race and kill."""
    torch.set_num_threads(1)
    random.seed(0)
    image_files(folder / "images")
    kind = Kind("pixels", f"folder:{folder}/images", {"backbone": "pixels", "image_size": 8})
    i = 0 if quick else 1
    with blocks_of(BATCH_SIZE), store_process() as endpoint:
        os.environ.update(environment(endpoint))
        whole = kind.whole(folder / "one").path.read_bytes()
        # The killed ones first: a process is not forked well from one whose packages have threads.
        return [
            _killed(folder, _N_KILLS[i]),
            _raced(folder, kind, whole, _N_ROUNDS[i]),
            _failed(folder, kind, whole, endpoint, _N_FAULTS[i], _IN_VAIN[i]),
        ]


def _failed(
    folder: Path, kind: Kind, whole: bytes, endpoint: str, n_faults: int, in_vain: StorePatience
) -> Claim:
    """Shares, a fetch and a large object through a proxy that lets requests fail."""
    large = folder / "large"
    large.write_bytes(random.randbytes(_LARGE_NBYTES))
    wrong, n_rounds, longest_s, ended = 0, 0, 0.0, Counter[str]()
    patience = StorePatience(timeout_s=_TIMEOUT_S, n_tries=10, first_pause_s=0.02)
    with faulty(endpoint, share=0.25, stall_s=2 * _TIMEOUT_S) as proxy, with_patience(patience):
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
        heard = _Silence()
        while proxy.counts.total() < n_faults:
            os.environ["XDG_CACHE_HOME"] = str(folder / "failed" / str(n_rounds))
            spec = _in_store(kind, f"failed/{n_rounds}")
            try:
                for index in range(2):
                    done = featcache.extract_share(spec, share=f"{index}/2", on_note=heard)
                fetched = featcache.fetch_cache(done.next.split()[-1], on_note=heard)
                wrong += fetched.path.read_bytes() != whole
                if n_rounds % 5 == 0:
                    wrong += not _large_comes_back(
                        large, folder / "back", f"large/{n_rounds}", heard
                    )
                ended["whole"] += 1
            except featcache.FeatcacheError as err:
                ended[f"{type(err).__name__}: {err}"] += 1
            heard("the end of a round")
            longest_s = max(longest_s, heard.longest_s)
            shutil.rmtree(folder / "failed", ignore_errors=True)
            n_rounds += 1
        counts = dict(proxy.counts)
        n_failed, n_tried = _tried_once(f"http://127.0.0.1:{proxy.server_port}/bucket/control")
    silent_s = _silence_of_a_store_that_never_answers(endpoint, in_vain)
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    told = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
    others = {text: n for text, n in ended.items() if text != "whole"}
    return Claim(
        37,
        f"{sum(counts.values())} faults between featcache and a store ({told}) over {n_rounds} "
        f"caches of 2 shares: {wrong} wrong, {ended['whole']} whole, the longest silence "
        f"{longest_s:.1f} s with requests that end after {_TIMEOUT_S:g} s; a store that never "
        f"answers: {in_vain.n_tries} tries of {in_vain.timeout_s:g} s, the longest silence "
        f"{silent_s:.1f} s (at most {_LONGEST_SILENCE_S:g} s)"
        + (f"; ended otherwise: {others}" if others else ""),
        not wrong
        and ended["whole"] == n_rounds
        and longest_s < _LONGEST_SILENCE_S
        and silent_s < min(_LONGEST_SILENCE_S, in_vain.longest_silence_s),
        f"a client that tries once: {n_failed} of {n_tried} reads fail",
        n_failed > 0,
    )


def _silence_of_a_store_that_never_answers(endpoint: str, patience: StorePatience) -> float:
    """Try to read until the patience ends; give the longest silence, in seconds."""
    heard = _Silence()
    with faulty(endpoint, share=1, stall_s=2 * patience.timeout_s) as proxy:
        proxy.only("stall")
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
        with (
            with_patience(patience),
            Objects.at(store_url("s3://bucket/silent"), on_note=heard) as objects,
        ):
            try:
                objects.get("nothing")
            except StorageError:
                heard("the end")
    assert proxy.counts["stall"] >= patience.n_tries, proxy.counts
    return heard.longest_s


class _Silence:
    """The longest time in which nothing was told."""

    def __init__(self) -> None:
        self.longest_s, self._last_s = 0.0, time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, _: str) -> None:
        with self._lock:
            now_s = time.monotonic()
            self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s


def _large_comes_back(large: Path, back: Path, key: str, heard: Callable[[str], None]) -> bool:
    """Write an object in several parts, and read it in ranges."""
    content = large.read_bytes()
    with Objects.at(store_url("s3://bucket/large"), on_note=heard) as objects:
        objects.upload(key, large, on_progress=lambda _, __: heard(""))
        sha256 = hashlib.sha256(content).hexdigest()
        with back.open("wb") as file:
            objects.download(key, len(content), sha256, file, on_progress=lambda _, __: heard(""))
    return back.read_bytes() == content


def _tried_once(url: str) -> tuple[int, int]:
    """Read with a client that does not try again."""
    n_failed, n = 0, 40
    for number in range(n):
        request = urllib.request.Request(f"{url}-{number}", method="GET")
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).read()
        except urllib.error.HTTPError as err:
            n_failed += err.code >= 500  # moto refuses what is not signed: that is an answer
        except (OSError, http.client.HTTPException):
            n_failed += 1
    return n_failed, n


def _raced(folder: Path, kind: Kind, whole: bytes, n_rounds: int) -> Claim:
    """Eight processes compute and upload the same share at once."""
    identical, ended = 0, Counter[int]()
    for number in range(n_rounds):
        spec = _in_store(kind, f"raced/{number}")
        writers = []
        for i in range(_N_WRITERS):
            home = folder / "raced" / str(i)
            writers.append(_forked(home, featcache.extract_share, spec, share="0/1"))
        ended.update(_code(pid) for pid in writers)
        checked = _forked(folder / "c", _require_one_part, f"raced/{number}", whole)
        identical += _code(checked) == 0
        shutil.rmtree(folder / "raced", ignore_errors=True)
        shutil.rmtree(folder / "c", ignore_errors=True)
    return Claim(
        38,
        f"{_N_WRITERS} writers of one share, {n_rounds} rounds: {ended[0]} of "
        f"{_N_WRITERS * n_rounds} ended with 0, {identical} of {n_rounds} stores with one part and "
        f"one marker, from which the file of one process comes",
        identical == n_rounds and ended[0] == _N_WRITERS * n_rounds,
        *_replaced(folder, n_rounds),
    )


def _replaced(folder: Path, n_rounds: int) -> tuple[str, bool]:
    """Let writers replace the marker that another one wrote."""
    changed = 0
    for number in range(n_rounds):
        key = f"replaced/{number}.json"
        writers = [_forked(folder / "r", _replace_marker, key, i) for i in range(_N_WRITERS)]
        changed += 3 in [_code(pid) for pid in writers]
    return (
        f"writers that replace a marker: {changed} of {n_rounds} times one found another's in "
        f"place of its own",
        changed > 0,
    )


def _replace_marker(key: str, number: int) -> None:
    """Write a marker of one's own, whatever is there; end with 3 if another replaces it."""
    import obstore
    from obstore.store import S3Store

    own = marker_bytes(Marker(f"{number:064x}", 1))
    store = S3Store("bucket", client_options={"allow_http": True})
    obstore.put(store, key, own)
    for _ in range(20):
        if bytes(obstore.get(store, key).bytes()) != own:
            sys.exit(3)
        time.sleep(0.01)


def _require_one_part(place: str, whole: bytes) -> None:
    with Objects.at(store_url(f"s3://bucket/{place}"), on_note=print) as objects:
        names = sorted(name.rpartition(".parts/")[2] for name in objects.sizes(""))
        [folder] = objects.folders(objects.folders("")[0])
    assert [name.partition("/")[0] for name in names] == ["data", "markers", "plan.json"], names
    fetched = featcache.fetch_cache(f"s3://bucket/{place}/{folder}")
    assert fetched.path.read_bytes() == whole


def _killed(folder: Path, n_kills: int) -> Claim:
    """Kill uploads of a part of 18 MB, in which several requests are under way."""
    options = {"backbone": "pixels", "image_size": 224, "limit": 60}
    kind = Kind("large", "digits", options)
    whole_sha256 = hashlib.sha256(kind.whole(folder / "large-one").path.read_bytes()).hexdigest()
    counts, number, home, flag = Counter[str](), 0, folder / "killed", folder / "uploading"
    upload_s = _seconds_of_upload(kind, home, flag)
    while counts["kills"] < n_kills:
        place = f"killed/{number}"
        flag.unlink(missing_ok=True)
        pid = _forked(home, _upload, kind, place, flag)
        while not flag.exists() and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.9) * upload_s)
        try:
            os.kill(pid, signal.SIGKILL)
            counts["kills"] += _code(pid) == -signal.SIGKILL
        except (ProcessLookupError, ChildProcessError):
            counts["ended before"] += 1
        found = _code(_forked(folder / "judge", _judge, place, whole_sha256))
        counts[{0: "no part counts", 3: "whole"}.get(found, "torn")] += 1
        if found == 3:  # it had ended: a new store
            number += 1
    ends = _code(_forked(home, _upload, kind, place, flag))
    is_whole = ends == 0 and _code(_forked(folder / "judge", _judge, place, whole_sha256)) == 3
    n_torn, n_naive = _naive_kills(folder, upload_s)
    return Claim(
        39,
        f"{counts['kills']} SIGKILLs in uploads of a part of 18 MB: {counts['torn']} times "
        f"something torn counts, {counts['no part counts']} times no part does, {counts['whole']} "
        f"times the whole one; {'the' if is_whole else 'NOT the'} file of one process at the end",
        not counts["torn"] and counts["no part counts"] > 0 and is_whole,
        f"a writer that names its part before the bytes are there: {n_torn} of {n_naive} torn",
        n_torn > 0,
    )


def _seconds_of_upload(kind: Kind, home: Path, flag: Path) -> float:
    pid = _forked(home, _upload, kind, "timed", flag)
    while not flag.exists():
        time.sleep(0.002)
    began_s = time.monotonic()
    assert _code(pid) == 0
    return time.monotonic() - began_s


def _upload(kind: Kind, place: str, flag: Path) -> None:
    """Compute and upload the only share; the flag says that the upload has begun."""

    def tell(progress: Progress) -> None:
        if progress.stage == "upload" and not flag.exists():
            flag.touch()

    featcache.extract_share(_in_store(kind, place), share="0/1", on_progress=tell)


def _judge(place: str, sha256: str) -> None:
    """End with 3 if the part counts and is whole, with 0 if none counts; else with 1."""
    with Objects.at(store_url(f"s3://bucket/{place}"), on_note=print) as objects:
        folders = [f for d in objects.folders("") for f in objects.folders(d)]
    if not folders:
        return
    url = f"s3://bucket/{place}/{folders[0]}"
    found = describe_there(url, on_note=print)
    if found.missing and not any(part.problem for part in found.parts):
        return
    verified = verify_there(url, on_progress=lambda _, __: None, on_note=print)
    assert not verified.missing, verified
    fetched = featcache.fetch_cache(url)
    assert hashlib.sha256(fetched.path.read_bytes()).hexdigest() == sha256
    sys.exit(3)


def _naive_kills(folder: Path, upload_s: float) -> tuple[int, int]:
    """Kill a writer that says what the part is, and then uploads it."""
    n, n_torn, flag = 10, 0, folder / "named"
    content = folder / "naive"
    content.write_bytes(random.randbytes(_LARGE_NBYTES))
    marker = Marker(hashlib.sha256(content.read_bytes()).hexdigest(), _LARGE_NBYTES)
    for number in range(n):
        flag.unlink(missing_ok=True)
        pid = _forked(folder / "n", _name_and_write, f"naive/{number}", marker, content, flag)
        while not flag.exists():
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.5) * upload_s)
        os.kill(pid, signal.SIGKILL)
        _code(pid)
        n_torn += _code(_forked(folder / "n", _require_named, f"naive/{number}", marker)) != 0
    return n_torn, n


def _name_and_write(place: str, marker: Marker, content: Path, flag: Path) -> None:
    with Objects.at(store_url(f"s3://bucket/{place}"), on_note=print) as objects:
        objects.put_new("marker.json", marker_bytes(marker))
        flag.touch()
        objects.upload(marker.name, content, on_progress=lambda _, __: None)


def _require_named(place: str, marker: Marker) -> None:
    """End with 1 if a part is named that is not there."""
    with Objects.at(store_url(f"s3://bucket/{place}"), on_note=print) as objects:
        sizes = objects.sizes("")
    if "marker.json" in sizes and sizes.get(marker.name) != marker.nbytes:
        sys.exit(1)


def _forked(home: Path, do: Callable[..., object], *arguments: Any, **keywords: Any) -> int:
    """Do something in a process of its own, with featcache's folder there; gives its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ["XDG_CACHE_HOME"] = str(home)
        do(*arguments, **keywords)
        code = 0
    except SystemExit as err:
        code = int(err.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _code(pid: int) -> int:
    """Wait for a process; its exit code, below 0 the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _in_store(kind: Kind, place: str) -> featcache.ExtractSpec:
    return replace(kind.spec(Path("unused")), cache_dir=f"s3://bucket/{place}")


if __name__ == "__main__":
    sys.exit(main("cloud", claims))
