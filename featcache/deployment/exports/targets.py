"""The files of an export: three that belong together, each whole or not there."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from featcache.core.files import named_failures
from featcache.core.paths import expanded
from featcache.core.replace import replace_together, write_new_file
from featcache.errors import UsageError

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
"""How a file of each format is called; the other formats are folders."""
HUB_MODEL, _HUB_ABOUT, _HUB_CARD = "model.safetensors", "config.json", "README.md"
"""The files of a repository of Hugging Face's hub."""


@dataclass(frozen=True)
class ExportTarget:
    """Where an export goes.

    Attributes:
        out: What the user named: the file, or the folder.
        model: The network.
        about: What it is, for programs.
        card: What it is, for people.
        may_replace: Whether what lies there may be replaced.
    """

    out: Path
    model: Path
    about: Path
    card: Path
    may_replace: bool

    def write(self, make: Callable[[BinaryIO], Mapping[Path, bytes]]) -> None:
        """Write all three, each whole; nothing of them is there if something failed.

        Where files are replaced, none describes another model than lies there, at any time.

        Args:
            make: Given the open file of the model, which has another name as yet; writes it, and
                gives the content of the others.

        Raises:
            StorageError: If they cannot be written; DiskFullError if there is no room.
            UsageError: If a file took one of the names meanwhile.
        """
        written: list[Path] = []
        was_there = self.out.exists()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._remove, written, was_there=was_there)
            with named_failures(self.model, kept="Nothing was written."):
                self.model.parent.mkdir(parents=True, exist_ok=True)
            if self.may_replace:
                replace_together(self.model, make)
            else:
                self._put(self.model, lambda file: self._put_others(make(file), written))
            on_failure.pop_all()

    def _put_others(self, contents: Mapping[Path, bytes], written: list[Path]) -> None:
        for path, content in contents.items():
            self._put(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
            written.append(path)

    def _put(self, path: Path, content: Callable[[BinaryIO], object]) -> None:
        if not write_new_file(path, content):
            raise _exists(path)

    def _remove(self, written: list[Path], *, was_there: bool) -> None:
        """Take away what belongs to a model that is not there, and a folder made for it."""
        for path in written:
            path.unlink(missing_ok=True)
        if self.out != self.model and not was_there:
            with contextlib.suppress(OSError):  # something lies in it
                self.out.rmdir()


def target_of(out: str | Path, *, format: str, overwrite: bool) -> ExportTarget:
    """Name the files of an export, and refuse names that do not fit.

    Args:
        out: A file with the suffix of its format, or a folder.
        format: As `ExportSpec.format`.
        overwrite: Whether files that are there may be replaced.

    Raises:
        UsageError: If the suffix is another format's, or something is there.
    """
    out = expanded(out)
    suffix = SUFFIXES.get(format)
    if suffix is None:
        model, about, card = (out / name for name in (HUB_MODEL, _HUB_ABOUT, _HUB_CARD))
        is_file = out.exists() and not out.is_dir()
        if out.suffix.lower() in SUFFIXES.values() or is_file:
            raise UsageError(
                f"--out is {out}, but --format {format} makes a folder. Nothing was started. Name "
                f"a folder, or give another --format."
            )
    else:
        model, about, card = (out.with_name(f"{out.name}{end}") for end in ("", ".json", ".md"))
        if out.suffix.lower() != suffix:
            raise UsageError(
                f"--out is {out}, but a file of --format {format} ends with {suffix}. Nothing was "
                f"started. {_meant(out, suffix)}"
            )
    for path in (model, about, card):
        if path.is_dir():
            raise UsageError(f"{path} is a folder. Nothing was started. Give another --out.")
        if not overwrite and (path.exists() or path.is_symlink()):
            raise _exists(path)
    return ExportTarget(out, model, about, card, overwrite)


def _meant(out: Path, suffix: str) -> str:
    for format, other in SUFFIXES.items():
        if out.suffix.lower() == other:
            return f"Use --format {format}, or another --out."
    return f"Write it as: --out {shlex.quote(out.name + suffix)}"


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists. Nothing was written. Remove it first, give another --out, or replace it "
        f"with --overwrite."
    )
