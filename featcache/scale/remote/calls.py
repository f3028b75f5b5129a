"""One call to an object store: limits on its time and its tries, and its errors in words.

A request ends after `timeout_s`, and obstore may try it again for `_OWN_TRIES_S`. Each further try
is told, before the pause that precedes it. So a request is silent for less than a minute: see
`StorePatience.longest_silence_s`. A call that makes several requests may be silent for longer.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from featcache.core.reporting import NoteCallback
from featcache.core.stopping import stop_if_asked
from featcache.core.store_urls import StoreUrl
from featcache.errors import FeatcacheError, StorageError, UsageError, clipped

T = TypeVar("T")

# For so long obstore may try a request again: an upload need not begin anew for one of its chunks.
_OWN_TRIES_S = 10.0
_LONGEST_OWN_PAUSE_S = 2.0
_LOOKS_EVERY_S = 0.1
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where the packages of the stores look for credentials when none are given.
_NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "169.254.170.2", "token request")
_HOW_TO_SIGN_IN = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_REGION, and AWS_ENDPOINT_URL for "
    "stores other than Amazon's)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
# The variables that name another S3 than Amazon's; the first of them counts.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_NO_CONNECTION, _NO_ANSWER = "no connection", "no answer in time"
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
# What may hold a secret: the query of a signed URL, and a name and password before a host.
_SECRET = re.compile(r"\?\S*|(?<=://)[^/?#\s]*@")


@dataclass(frozen=True)
class StorePatience:
    """How long a store is waited for.

    Attributes:
        timeout_s: Seconds after which a request is given up.
        n_tries: How often it is tried, all in all.
        first_pause_s: Seconds before the second try; doubled before each further one.
    """

    timeout_s: float = 30.0
    n_tries: int = 6
    first_pause_s: float = 1.0

    @property
    def longest_silence_s(self) -> float:
        """How many seconds a request may be silent: the last pause, and then one try."""
        one_try_s = _OWN_TRIES_S + _LONGEST_OWN_PAUSE_S + self.timeout_s
        return self.pause_s(self.n_tries - 1) + one_try_s

    def pause_s(self, number: int) -> float:
        """Give the seconds to wait after a try that failed; the first has the number 1."""
        return self.first_pause_s * 2.0 ** (number - 1)


_USUAL = StorePatience()
_PATIENCE: ContextVar[StorePatience] = ContextVar("featcache.scale.remote", default=_USUAL)


def patience() -> StorePatience:
    """Give the patience that holds here."""
    return _PATIENCE.get()


@contextlib.contextmanager
def with_patience(patience: StorePatience) -> Iterator[None]:
    """Wait so long inside; tests of faults wait less."""
    token = _PATIENCE.set(patience)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def client_options(allow_http: bool) -> dict[str, Any]:
    """Write the limits of a request as the package takes them."""
    timeout = timedelta(seconds=patience().timeout_s)
    connecting = min(timeout, timedelta(seconds=10))
    return {"timeout": timeout, "connect_timeout": connecting, "allow_http": allow_http}


def own_tries() -> dict[str, Any]:
    """Write the package's own tries of a request, which are not told."""
    pause_s = min(patience().first_pause_s, _LONGEST_OWN_PAUSE_S / 2)
    return {
        "max_retries": 2,
        "retry_timeout": timedelta(seconds=_OWN_TRIES_S),
        "backoff": {
            "init_backoff": timedelta(seconds=pause_s / 10),
            "max_backoff": timedelta(seconds=pause_s * 2),
            "base": 2,
        },
    }


def tried(call: Callable[[], T], *, what: str, url: StoreUrl, on_note: NoteCallback) -> T:
    """Call a store until it answers, so often as there is patience for.

    Args:
        call: What is called; safe to be called again.
        what: Is done, as in "read x.json".
        url: Of the store.
        on_note: Told each further try.

    Raises:
        UsageError: If there is no such bucket, or it may not be used.
        StorageError: If it does not answer.
        FileNotFoundError: If there is no such object.
    """
    limits, began_s = patience(), time.monotonic()
    for number in range(1, limits.n_tries + 1):
        try:
            return call()
        except FeatcacheError:
            raise
        except Exception as err:
            if is_exists(err):
                raise
            if refusal := _refusal(err, url):
                raise refusal from err
            if isinstance(err, FileNotFoundError):
                raise
            reason = reason_of(err)
            reason += _where(url, reason)
            if number == limits.n_tries or not _may_pass(err):
                seconds = time.monotonic() - began_s
                raise StorageError(
                    f"Cannot {what} in {url}: {reason} (tried {number} times in {seconds:.0f} s). "
                    f"What is there is as it was. Run the same command again."
                ) from err
            on_note(
                f"cannot {what} in {url}: {reason}; trying again ({number + 1} of {limits.n_tries})"
            )
            _pause(limits.pause_s(number))
    raise AssertionError("no try")


def waited(future: Future[T]) -> T:
    """Wait for what a thread does, and look meanwhile whether the user asked to stop."""
    while not wait([future], timeout=_LOOKS_EVERY_S).done:
        stop_if_asked()
    return future.result()


def s3_endpoint() -> tuple[str, str] | None:
    """Find the variable that names another S3 than Amazon's, and what it says.

    Raises:
        UsageError: If the first of them is empty, on which obstore breaks off.
    """
    if os.environ.get(ENDPOINTS[0]) == "":
        raise UsageError(f"{ENDPOINTS[0]} is empty. Nothing was started. Set or unset it.")
    return next(((name, os.environ[name]) for name in ENDPOINTS if os.environ.get(name)), None)


def is_exists(err: BaseException) -> bool:
    """Tell whether a store refused to create what is there already."""
    return type(err).__name__ in ("AlreadyExistsError", "PreconditionError")


def reason_of(err: BaseException) -> str:
    """Say in a line why a call failed; no query of a URL, which may be signed."""
    text = str(err)
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        return f"the store answers {status[1]}" + (f" {code[1]}" if code else "")
    if "kind: Connect" in text:
        return _NO_CONNECTION
    line = _SECRET.sub("", text.splitlines()[0] if text else type(err).__name__)
    if "timed out" in text.lower() or "kind: Timeout" in text:
        return _NO_ANSWER
    if "error sending request" in text or "kind: Request" in text:
        return "the connection broke"
    return clipped(line.partition(", after ")[0])


def _refusal(err: Exception, url: StoreUrl) -> UsageError | None:
    """Name what no further try mends."""
    text, name = str(err), type(err).__name__
    if any(words in text for words in _NO_BUCKET):
        return UsageError(
            f"There is no bucket {url.bucket!r} ({url}). Nothing was written. Make it first, or "
            f"mend the name."
        )
    sign_in = f"Credentials come from the environment: {_HOW_TO_SIGN_IN[url.scheme]}."
    if any(words in text for words in _NO_CREDENTIALS):
        return UsageError(f"There are no credentials for {url}. Nothing was written. {sign_in}")
    status = _STATUS.search(text)
    if name in ("PermissionDeniedError", "UnauthenticatedError") or (
        status and status[1] in ("401", "403")
    ):
        return UsageError(
            f"The store refuses {url}: {reason_of(err)}. Nothing was written. {sign_in}"
        )
    return None


def _where(url: StoreUrl, reason: str) -> str:
    """Name the machine that is not reached, where the environment chooses it."""
    if url.scheme != "s3" or reason not in (_NO_CONNECTION, _NO_ANSWER):
        return ""
    found = s3_endpoint()
    return "" if found is None else f" ({found[0]} is {_SECRET.sub('', found[1])})"


def _may_pass(err: Exception) -> bool:
    """Tell whether the same call may succeed later."""
    status = _STATUS.search(str(err))
    return status is None or status[1].startswith("5") or status[1] in ("408", "409", "429")


def _pause(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stop_if_asked()
        time.sleep(min(left, _LOOKS_EVERY_S))
