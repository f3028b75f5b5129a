"""Decoding in processes: order, deaths, limits; images that stop or hold a machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from featcache.core.preprocess import Preprocess
from featcache.errors import DeviceError
from featcache.images import decode_process
from featcache.images.batches import ImageBatch, Span, load_batches
from featcache.images.rules import ImageRules
from featcache.images.splits import Look, Split

N_ROWS = 24
KILLED = "the process was killed by signal 9, as where memory is short"
SPANS = [Span(start, start + 4) for start in range(0, N_ROWS, 4)]


@dataclass(frozen=True)
class HardImages:
    """Images of one colour each; some do to the decoding process what a hostile file would.

    Attributes:
        hard: What happens instead, by row.
    """

    hard: dict[int, Callable[[], None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return N_ROWS

    def take(self, rows: npt.NDArray[np.int64]) -> HardImages:
        return HardImages({i: self.hard[int(r)] for i, r in enumerate(rows) if r in self.hard})

    def following(self, rules: ImageRules) -> HardImages:
        return self

    def expecting(self, digests: Sequence[bytes]) -> HardImages:
        return self

    def looks(self) -> Iterator[Look]:
        yield from (Look(bytes([row])) for row in range(N_ROWS))

    @property
    def has_heic(self) -> bool:
        return False

    def path_of(self, row: int) -> str:
        return f"/images/{row}.jpg"

    def decode(self, row: int) -> Image.Image:
        if row in self.hard:
            self.hard[row]()
        return Image.new("RGB", (3, 5), (row, 1, 2))


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_memory() -> None:
    raise MemoryError


def spin() -> None:
    while True:
        pass


def fail() -> None:
    raise ZeroDivisionError("a bug")


def load(
    images: HardImages, *, n_workers: int = 2, may_skip: bool = False
) -> tuple[list[ImageBatch], list[str]]:
    notes: list[str] = []
    split = Split("train", images, np.zeros(N_ROWS, np.int64), [str(i) for i in range(N_ROWS)])
    batches = load_batches(
        split,
        SPANS,
        preprocess=Preprocess.notebook(4),
        n_workers=n_workers,
        may_skip=may_skip,
        on_note=notes.append,
    )
    return list(batches), notes


def colours(batches: Sequence[ImageBatch]) -> list[int]:
    """The first value of each row: its number, or 0 where it is marked."""
    return [int(image[0, 0, 0]) for batch in batches for image in batch.images]


@pytest.mark.parametrize("n_workers", [0, 1, 2, 5])
def test_batches_come_in_order_with_every_row_in_its_place(n_workers: int) -> None:
    batches, notes = load(HardImages(), n_workers=n_workers)

    assert [batch.span for batch in batches] == SPANS
    assert colours(batches) == list(range(N_ROWS))
    assert not notes


@pytest.mark.parametrize("n_workers", [0, 2])
def test_spans_are_asked_for_when_there_is_room_for_their_images(n_workers: int) -> None:
    asked: list[Span] = []
    spans = (asked.append(span) or span for span in SPANS)
    split = Split("train", HardImages(), None, [str(i) for i in range(N_ROWS)])

    batches = load_batches(
        split, spans, preprocess=Preprocess.notebook(4), n_workers=n_workers, batch_size=4
    )

    assert next(batches).span == SPANS[0]
    assert len(asked) == 1 if n_workers == 0 else 2 * n_workers
    assert [batch.span for batch in batches] == SPANS[1:]
    assert asked == SPANS


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (be_killed, KILLED),
        (run_out_of_memory, "out of memory"),
        (spin, "more than 0.2 CPU seconds"),
    ],
)
def test_an_image_that_kills_or_holds_its_process_is_named(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], why: str
) -> None:
    monkeypatch.setattr(decode_process, "CPU_SECONDS_PER_IMAGE", 0.2)  # the usual one is 60

    with pytest.raises(DeviceError, match=rf"^/images/9\.jpg cannot .*: {why}\. All ack") as err:
        load(HardImages({9: act}))

    assert err.value.exit_code == 16
    assert "--skip-undecodable" in str(err.value)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_such_images_are_left_out_on_demand_each_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, n_workers: int
) -> None:
    monkeypatch.setattr(decode_process, "CPU_SECONDS_PER_IMAGE", 0.2)
    images = HardImages({4: be_killed, 6: run_out_of_memory, 7: spin, 23: be_killed})

    batches, notes = load(images, n_workers=n_workers, may_skip=True)

    reasons = {b.span.start + i: r for b in batches for i, r in b.reasons.items()}
    assert reasons == {
        4: f"not decoded here: {KILLED}",
        6: "not decoded here: out of memory",
        7: "not decoded here: more than 0.2 CPU seconds",
        23: f"not decoded here: {KILLED}",
    }
    assert colours(batches) == [0 if row in reasons else row for row in range(N_ROWS)]
    assert any(note.startswith("/images/4.jpg: a decoding process ended at it") for note in notes)


def test_an_image_that_fails_beside_others_only_is_decoded_alone_and_told(tmp_path: Path) -> None:
    def be_killed_once() -> None:
        mark = tmp_path / "was here"
        if not mark.exists():
            mark.touch()
            be_killed()

    batches, notes = load(HardImages({9: be_killed_once}))

    assert colours(batches) == list(range(N_ROWS))
    assert not any(batch.reasons for batch in batches)
    assert notes == [
        f"/images/9.jpg: a decoding process ended at it ({KILLED}); it was tried again alone",
        "decoding processes from here on: 1",
    ]


def test_without_processes_lack_of_memory_is_told_likewise() -> None:
    images = HardImages({9: run_out_of_memory})

    with pytest.raises(DeviceError, match=r"/images/9\.jpg cannot .*: out of memory"):
        load(images, n_workers=0)
    batches, _ = load(images, n_workers=0, may_skip=True)

    assert batches[2].reasons == {1: "not decoded here: out of memory"}


def test_what_a_process_raises_is_raised_when_its_batch_is_wanted() -> None:
    split = Split("train", HardImages({9: fail}), np.zeros(N_ROWS, np.int64), ["x"] * N_ROWS)
    batches = load_batches(split, SPANS, preprocess=Preprocess.notebook(4), n_workers=2)

    first_two = [next(batches), next(batches)]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(batches)

    assert colours(first_two) == list(range(8))


def test_no_process_is_left_when_the_batches_are_closed_half_way() -> None:
    split = Split("train", HardImages(), np.zeros(N_ROWS, np.int64), ["x"] * N_ROWS)
    batches = load_batches(split, SPANS, preprocess=Preprocess.notebook(4), n_workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2

    batches.close()

    assert not multiprocessing.active_children()


def load_in_daemon(pipe: multiprocessing.connection.Connection) -> None:
    batches, notes = load(HardImages(), n_workers=2)
    pipe.send((colours(batches), notes))


def test_a_daemonic_process_which_may_have_no_children_decodes_by_itself() -> None:
    """As workers of Celery, Airflow and multiprocessing.Pool are."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=load_in_daemon, args=(theirs,), daemon=True)

    process.start()
    assert ours.poll(30)
    found, notes = ours.recv()
    process.join()

    assert found == list(range(N_ROWS))
    assert notes == ["images are decoded in this process: it is daemonic, and may have no children"]
    assert process.exitcode == 0
