"""Images that change while a run is at work: refused by name, never stored (claim 21)."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import featcache
from featcache.errors import MismatchError
from featcache.extraction.progress import Progress
from featcache.images.image_files import FolderImages
from featcache.store import verify_cache
from tests.conftest import save_image
from tests.faults.claims import Claim, main
from tests.faults.images import extract, make_images, small_blocks

_N_TRAIN, _N_TEST = 96, 32


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Change one image after the dataset was hashed, at once or in mid-run."""
    with small_blocks(pixels_batch_size=16):
        return _claims(folder, n_each=1 if quick else 8)


def _claims(folder: Path, *, n_each: int) -> list[Claim]:
    rng = random.Random(0)
    images = make_images(folder / "images", n_train=_N_TRAIN, n_test=_N_TEST)
    whole = _extract(images, folder / "whole", 0).path.read_bytes()
    trials = [
        _Trial(images, folder / "trial", change, at=at, n_workers=n_workers, rng=rng)
        for change in (_another, _cut, _empty, _a_folder)
        for n_workers in (0, 2)
        for at in [None, None, None, None, 1, 2, 3, 4][:n_each]
    ]
    ends = [trial.run(whole) for trial in trials]
    n_refused, n_late = ends.count("refused"), ends.count("late")
    control = _unnoticed(images, folder / "control")
    return [
        Claim(
            21,
            f"{len(ends)} images changed after they were hashed: {n_refused} runs ended with exit "
            f"12 and the file named, {n_late} had decoded it before; {n_refused + n_late} files "
            f"byte-identical once it was put back",
            n_refused + n_late == len(ends) and n_refused >= len(ends) // 2,
            f"without the comparison: the cache holds another image's row and is "
            f"{'found sound and reused' if control else 'refused'}",
            control,
        )
    ]


class _Trial:
    """One change of one image, after the dataset was hashed."""

    def __init__(
        self,
        images: Path,
        cache_dir: Path,
        change: Callable[[Path], None],
        *,
        at: int | None,
        n_workers: int,
        rng: random.Random,
    ) -> None:
        self.images = images
        self.cache_dir = cache_dir
        self.change = change
        self.at = at
        self.n_workers = n_workers
        self.victim = rng.choice(sorted(images.glob("*/*/*.png")))
        self.n_batches = 0

    def __call__(self, progress: Progress) -> None:
        """Change the image when the digest is made, or at a batch."""
        if progress.stage == "digest" and progress.n_done == progress.n_total:
            if self.at is None:
                self.change(self.victim)
        elif progress.stage == "extract":
            self.n_batches += 1
            if self.n_batches == self.at:
                self.change(self.victim)

    def run(self, whole: bytes) -> str:
        """Run into the change, put the image back, run again: "refused", "late" or "wrong"."""
        shutil.rmtree(self.cache_dir, ignore_errors=True)
        content = self.victim.read_bytes()
        end = "late"
        try:
            _extract(self.images, self.cache_dir, self.n_workers, on_progress=self)
        except MismatchError as err:
            end = "refused" if self.victim.name in str(err) else "wrong"
        if self.victim.is_dir():
            self.victim.rmdir()
        self.victim.write_bytes(content)
        again = _extract(self.images, self.cache_dir, self.n_workers)
        return end if again.path.read_bytes() == whole else "wrong"


def _unnoticed(images: Path, cache_dir: Path) -> bool:
    """Do the same where a file is not compared with what was hashed."""
    victim = images / "train" / "cat" / "0000.png"
    content = victim.read_bytes()

    def change(progress: Progress) -> None:
        if progress.stage == "digest" and progress.n_done == progress.n_total:
            _another(victim)

    with mock.patch.object(FolderImages, "require", return_value=None):
        path = _extract(images, cache_dir, 0, on_progress=change).path
    victim.write_bytes(content)
    right = featcache.open_cache(_extract(images, cache_dir / "right", 0).path)["train"].features[0]
    is_reused = _extract(images, cache_dir, 0).outcome == "reused"
    is_wrong = (featcache.open_cache(path)["train"].features[0] != right).any()
    return bool(verify_cache(path).is_sound and is_reused and is_wrong)


def _extract(
    images: Path, cache_dir: Path, n_workers: int, **options: object
) -> featcache.ExtractResult:
    return extract(
        images, cache_dir, backbone="pixels", image_size=16, n_workers=n_workers, **options
    )


def _another(path: Path) -> None:
    save_image(path, 4711, size=(16, 16))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


if __name__ == "__main__":
    sys.exit(main("changes", claims))
