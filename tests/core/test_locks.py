import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.errors import DiskFullError, LockedError, StorageError
from featcache.store import locked

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from featcache.store import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that holds the lock of tmp_path/toy.h5 until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "toy.h5")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def hold(path: Path) -> None:
    with locked(path):
        pass


def is_free(path: Path) -> bool:
    try:
        hold(path)
    except LockedError:
        return False
    return True


def test_a_second_process_is_refused_with_host_and_pid_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(LockedError) as caught:
        hold(tmp_path / "toy.h5")

    assert caught.value.exit_code == 11
    assert str(caught.value).startswith(
        f"toy.h5 is being written by process {holder.pid} on {socket.gethostname()}. Nothing was "
        f"changed."
    )


def test_a_refused_process_leaves_the_names_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    for _ in range(2):
        with pytest.raises(LockedError, match=f"process {holder.pid} on"):
            hold(tmp_path / "toy.h5")


def test_the_lock_is_free_when_its_holder_is_killed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    was_free = is_free(tmp_path / "toy.h5")

    holder.send_signal(signal.SIGKILL)
    holder.wait()

    assert (was_free, is_free(tmp_path / "toy.h5")) == (False, True)


def test_the_lock_is_free_when_its_holder_ends(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    was_free = is_free(tmp_path / "toy.h5")

    holder.communicate("")

    assert (was_free, is_free(tmp_path / "toy.h5")) == (False, True)


def test_the_lock_is_free_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "toy.h5"):
        raise ZeroDivisionError

    assert is_free(tmp_path / "toy.h5")


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "toy.h5"),
        pytest.raises(LockedError, match=f"process {os.getpid()} on"),
    ):
        hold(tmp_path / "toy.h5")


def test_two_caches_have_two_locks(tmp_path: Path) -> None:
    with locked(tmp_path / "one.h5"):
        free = [name for name in ("one", "two") if is_free(tmp_path / f"{name}.h5")]

    assert free == ["two"]


def test_a_holder_that_left_no_name_is_another_process(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    (tmp_path / "toy.h5.lock").write_text("{}")

    with pytest.raises(LockedError, match="is being written by another process"):
        hold(tmp_path / "toy.h5")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(errno.EACCES, StorageError), (errno.EROFS, StorageError), (errno.ENOSPC, DiskFullError)],
)
def test_a_folder_without_room_for_a_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, kind: type[StorageError]
) -> None:
    def refuse(*args: object, **options: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)

    with pytest.raises(kind, match=f"Cannot write in {tmp_path}: {os.strerror(error)}"):
        hold(tmp_path / "toy.h5")


def test_a_full_disk_does_not_keep_a_holder_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)

    with locked(tmp_path / "toy.h5"), pytest.raises(LockedError, match="another process"):
        hold(tmp_path / "toy.h5")


def test_a_lock_to_be_removed_is_gone_at_the_end(tmp_path: Path) -> None:
    with locked(tmp_path / "run", remove=True):
        assert (tmp_path / "run.lock").exists()

    assert list(tmp_path.iterdir()) == []
    hold(tmp_path / "run")


def test_a_lock_to_be_removed_stays_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run", remove=True):
        raise ZeroDivisionError

    assert (tmp_path / "run.lock").exists()
    hold(tmp_path / "run")


def test_a_lock_is_removed_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    removed = []

    def unlink_held(path: Path, missing_ok: bool = False) -> None:
        with pytest.raises(LockedError):
            hold(tmp_path / "run")
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_held)

    with locked(tmp_path / "run", remove=True):
        pass

    assert removed == ["run.lock"]
