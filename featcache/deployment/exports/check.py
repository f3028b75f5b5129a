"""Check a written file: a process of its own loads it, and is asked about real images."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.core.starting import starting
from featcache.core.stopping import stop_if_asked
from featcache.deployment.exports.check_child import ANSWER, DAMAGED, SHAPE
from featcache.errors import CorruptError, MismatchError, UsageError, clipped, counted

CHILD = (sys.executable, "-P", str(Path(__file__).with_name("check_child.py")))
_KEPT = "Nothing was written."

Images = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CheckReport:
    """What a file gave, beside PyTorch.

    Attributes:
        n_images: Images that both were given.
        images: Where these are from.
        batch_sizes: In which batches they came.
        difference: The largest difference of a probability.
        n_same_top1: Images for which both name the same class.
        tolerance: The largest difference that is taken.
    """

    n_images: int
    images: str
    batch_sizes: tuple[int, ...]
    difference: float
    n_same_top1: int
    tolerance: float

    @property
    def limits_told(self) -> tuple[str, ...]:
        """Say where classes differ: the tolerance takes that of those that are nearly as likely."""
        n_other = self.n_images - self.n_same_top1
        if not n_other:
            return ()
        return (
            f"In the check, {n_other} of {counted(self.n_images, 'image')} got another class than "
            f"PyTorch gives them. Its probabilities of the two classes are less than "
            f"{2 * self.tolerance:g} apart, twice the tolerance.",
        )

    @property
    def told(self) -> str:
        """Say it for people."""
        return (
            f"{self.n_same_top1} of {self.n_images} images get the same class, and probabilities "
            f"differ by at most {self.difference:.2g} (tolerance {self.tolerance:g})"
        )


class CheckProcess:
    """The process that loaded a file."""

    def __init__(self, process: subprocess.Popen[bytes], said: Any) -> None:
        self._process = process
        self._said = said

    def ask(self, images: Images) -> npt.NDArray[np.float32]:
        """Get the probabilities, (N, K), of (N, H, W, 3) images.

        Raises:
            CorruptError: If the file holds other bytes than were written.
            MismatchError: If it cannot be loaded, or does not take these images.
        """
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        try:
            asked.write(SHAPE.pack(*images.shape))
            asked.write(np.ascontiguousarray(images).data)
            asked.flush()
        except BrokenPipeError:
            raise self._failure() from None
        head = answers.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise self._failure()
        shape = ANSWER.unpack(head)
        content = answers.read(4 * int(np.prod(shape)))
        return np.frombuffer(content, np.float32).reshape(shape)

    def _failure(self) -> Exception:
        code = self._process.wait()
        stop_if_asked()  # Ctrl-C is no fault of the file
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        if code == DAMAGED:
            return CorruptError(
                f"The file has other bytes on the disk than were written. {_KEPT} Check the disk, "
                f"and run the same command again."
            )
        why = clipped(lines[-1]) if lines else f"exit code {code}"
        return MismatchError(
            f"The file was written, but a new process cannot use it: {why}. {_KEPT} Another "
            f"--format may do."
        )


@contextlib.contextmanager
def loaded(path: Path, *, format: str, sha256: str) -> Iterator[CheckProcess]:
    """Let a new process load a file.

    Args:
        path: The file; its name need not end as its format's does.
        format: As `ExportSpec.format`.
        sha256: Of the bytes that were written, 64 hex digits.
    """
    with tempfile.TemporaryFile() as said:
        with starting("The process that checks the file", kept=_KEPT):
            process = subprocess.Popen(
                [*CHILD, format, str(path), sha256],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        try:
            yield CheckProcess(process, said)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()


def check_file(
    path: Path,
    pairs: Iterable[tuple[Images, Images]],
    eager: Callable[[Images], Probabilities],
    *,
    format: str,
    sha256: str,
    images: str,
    tolerance: float,
) -> CheckReport:
    """Compare what a written file gives with what PyTorch gives, image by image.

    Args:
        path: The file.
        pairs: Batches of what the file takes, (N, H, W, 3), and of what Pillow makes of it,
            (N, h, w, 3).
        eager: Gives the probabilities, (N, K), of what Pillow made: in fp32, on the CPU.
        format: As `ExportSpec.format`.
        sha256: Of the bytes that were written.
        images: Where the images are from.
        tolerance: The largest difference of a probability that is taken.

    Raises:
        CorruptError: If the file was changed since it was written.
        MismatchError: If it gives something else, or cannot be loaded.
    """
    sizes, difference, n_same = [], 0.0, 0
    with loaded(path, format=format, sha256=sha256) as child:
        for given, prepared in pairs:
            stop_if_asked()
            found, wanted = child.ask(given), eager(prepared)
            if found.shape != wanted.shape:
                raise MismatchError(
                    f"The file gives {found.shape} for {len(given)} images; expected "
                    f"{wanted.shape}. {_KEPT} Another --format may do."
                )
            apart = np.abs(found - wanted)
            difference = max(difference, float(np.where(np.isfinite(apart), apart, np.inf).max()))
            n_same += int((found.argmax(1) == wanted.argmax(1)).sum())
            sizes.append(len(given))
    if not sizes:
        raise UsageError(f"There is no image to check the file with. {_KEPT}")
    report = CheckReport(sum(sizes), images, tuple(sizes), difference, n_same, tolerance)
    if difference > tolerance:
        raise MismatchError(
            f"The file gives other probabilities than PyTorch: {report.told}. {_KEPT} Use --input "
            f"crop, which resizes nothing, or a larger --tolerance if so much is no harm."
        )
    return report
