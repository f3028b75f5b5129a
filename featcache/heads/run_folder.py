"""The folder of a run while it is made: what of it is featcache's, and what is somebody else's."""

from __future__ import annotations

import shutil
from pathlib import Path

from featcache.core.reporting import NoteCallback
from featcache.heads.runs import RUN_FILES

# Lightning's, and what `eval` makes of a run that was stopped.
_PASSING = (
    *("last.ckpt", "hparams.yaml", "tensorboard"),
    *("eval-*.json", "predictions-*.csv", "classes-*.csv", "confusion-*.csv"),
    *("curves.png", "curves.svg", "confusion-*.png", "confusion-*.svg"),
)
_LEFTOVERS = tuple(f".{name}.*.new" for name in (*RUN_FILES, *_PASSING))  # of killed processes


def begin_folder(folder: Path, on_note: NoteCallback) -> None:
    """Make the folder of a run that begins; of one that was stopped nothing of ours is left."""
    folder.mkdir(parents=True, exist_ok=True)
    _remove_own(folder, (*RUN_FILES, *_PASSING, *_LEFTOVERS))
    _tell_others(folder, on_note)


def finish_folder(folder: Path, path: Path, on_note: NoteCallback) -> None:
    """Give the folder of a run its final name, with nothing of ours in it but the run's files."""
    _remove_own(folder, (*_PASSING, *_LEFTOVERS))
    _tell_others(folder, on_note)
    folder.rename(path)


def _remove_own(folder: Path, patterns: tuple[str, ...]) -> None:
    for item in folder.iterdir():
        if any(map(item.match, patterns)):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink()


def _tell_others(folder: Path, on_note: NoteCallback) -> None:
    others = sorted(item.name for item in folder.iterdir() if item.name not in RUN_FILES)
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        on_note(f"{folder} also holds what featcache did not write: {shown}. It stays there.")
