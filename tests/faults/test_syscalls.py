from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import syscalls
from tests.faults.intercept import Fault, run


@pytest.fixture
def child(tmp_path: Path) -> Callable[[Callable[[int], None]], None]:
    """Writes eight bytes in one call, and tells; then renames the file, and tells again."""

    def write_and_rename(tell: Callable[[int], None]) -> None:
        fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
        tell(os.write(fd, b"12345678"))
        (tmp_path / "new").rename(tmp_path / "final")
        tell(0)

    return write_and_rename


Child = Callable[[Callable[[int], None]], None]


def test_the_calls_of_a_child_are_named_in_order(tmp_path: Path, child: Child) -> None:
    outcome = run(child, tmp_path)

    assert [call.name for call in outcome.calls] == ["openat", "write", "rename"]
    assert {call.path for call in outcome.calls} == {tmp_path / "new"}
    assert (outcome.status, outcome.hit, outcome.told) == (0, None, {8, 0})


def test_a_kill_comes_before_the_call(tmp_path: Path, child: Child) -> None:
    outcome = run(child, tmp_path, Fault("SIGKILL", 3))

    assert outcome.status == -signal.SIGKILL
    assert outcome.told == {8}
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_an_error_takes_the_place_of_the_call(tmp_path: Path, child: Child) -> None:
    outcome = run(child, tmp_path, Fault("ENOSPC", 3))

    assert outcome.status == 1
    assert os.strerror(errno.ENOSPC) in outcome.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_write_cut_short_writes_half(tmp_path: Path, child: Child) -> None:
    outcome = run(child, tmp_path, Fault("short", 2))

    assert outcome.told == {4, 0}
    assert (tmp_path / "final").read_bytes() == b"1234"


def test_a_sample_of_the_calls_of_an_extraction_and_of_a_head(tmp_path: Path) -> None:
    claims = syscalls.claims(tmp_path, quick=True)

    assert [claim.number for claim in claims] == [2, 3, 10]
    for claim in claims:
        assert claim.is_proved, claim.line
        assert claim.control_failed, claim.control
