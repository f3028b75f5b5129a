"""Weights, heads and checkpoints that would run code, and names that steer a terminal (17)."""

from __future__ import annotations

import io
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.faults.claims import Claim, main
from tests.faults.command import run_command
from tests.faults.images import BACKBONE, extract, make_images, small_blocks

_REFUSED = (2, 13, 15)
_MOST_MB = 512


class Payload:
    """Pickles as a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


class OwnModule(torch.nn.Linear):
    """A class that a whole-model pickle names by its path."""


@small_blocks()
def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Give such files as weights, as heads and as checkpoints; show such names."""
    marker = folder / "payload-ran"
    images = make_images(folder / "images", n_train=24, n_test=6)
    cache = extract(images, folder / "cache", backbone="pixels", image_size=8).path
    files = _files(folder / "files", marker)
    n_tried = n_refused = 0
    slowest_mb = 0.0
    for place in (_as_weights, _as_head, _as_checkpoint):
        for name, content in files.items():
            for arguments in place(folder / place.__name__ / name, images, cache, content):
                ended = run_command(arguments, folder / "log")
                n_tried += 1
                is_refused = ended.code in _REFUSED and ended.is_clean
                n_refused += is_refused
                slowest_mb = max(slowest_mb, ended.peak_mb)
                if not is_refused:
                    told = f"{place.__name__} {name}: exit {ended.code}: {ended.text[-500:]}"
                    print(told, file=sys.stderr)
    url = run_command([*_extract(images, folder), "--weights", "http://x/y.pth"], folder / "log")
    n_tried, n_refused = n_tried + 1, n_refused + (url.code == 2 and "is a URL" in url.text)
    grown_mb = slowest_mb - url.peak_mb
    is_safe = not marker.exists()
    n_shown, n_raw = _escapes(folder / "names")
    _load_naively(files["payload"], folder)
    return [
        Claim(
            17,
            f"{n_tried} times a pickle with a payload, a zip bomb, a TorchScript archive, a whole "
            f"model, a header of 2**60 bytes or a URL as weights, head or checkpoint: {n_refused} "
            f"refused, payloads run: {0 if is_safe else 1}, {grown_mb:.0f} MB more at most; "
            f"{n_shown} commands showing names with escape characters: {n_raw} raw ones",
            n_refused == n_tried and is_safe and n_raw == 0 and grown_mb < _MOST_MB,
            f"torch.load with weights_only=False {'ran' if marker.exists() else 'did not run'} it",
            marker.exists(),
        )
    ]


def _files(folder: Path, marker: Path) -> dict[str, bytes]:
    """Contents of hostile files by kind."""
    folder.mkdir()
    payload = io.BytesIO()
    torch.save({"weight": Payload(marker)}, payload)
    old = io.BytesIO()
    torch.save(Payload(marker), old, _use_new_zipfile_serialization=False)
    whole = io.BytesIO()
    torch.save(OwnModule(2, 2), whole)
    return {
        "payload": payload.getvalue(),
        "old payload": old.getvalue(),
        "whole model": whole.getvalue(),
        "zip bomb": _zip_bomb(payload.getvalue()),
        "header": struct.pack("<Q", 1 << 60) + b"{}" + bytes(64),
        "torchscript": _torchscript(folder),
    }


def _zip_bomb(good: bytes) -> bytes:
    """An archive whose every entry inflates to a gigabyte."""
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(good)) as names,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in names.namelist()[:1]:
            with archive.open(name, "w", force_zip64=True) as entry:
                for _ in range(1024):
                    entry.write(bytes(1 << 20))
    return bomb.getvalue()


def _torchscript(folder: Path) -> bytes:
    """An archive laid out as TorchScript's, with code in it."""
    path = folder / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02c__torch__\nM\nq\x00)\x81.")
        archive.writestr("script/code/__torch__.py", "class M(Module):\n  pass\n")
        archive.writestr("script/version", "3\n")
    return path.read_bytes()


def _extract(images: Path, folder: Path) -> list[str]:
    asked = f"extract --backbone {BACKBONE} --image-size 32 --n-workers 0 --dataset folder:{images}"
    return [*asked.split(), "--cache-dir", str(folder / "other")]


def _as_weights(folder: Path, images: Path, cache: Path, content: bytes) -> list[Sequence[str]]:
    folder.mkdir(parents=True)
    found = []
    for suffix in (".pth", ".safetensors"):
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        found.append([*_extract(images, folder), "--weights", str(path)])
    return found


def _as_head(folder: Path, images: Path, cache: Path, content: bytes) -> list[Sequence[str]]:
    folder.mkdir(parents=True)
    path = folder / "head.safetensors"
    path.write_bytes(content)
    return [["eval", str(path), "--cache", str(cache)]]


def _as_checkpoint(folder: Path, images: Path, cache: Path, content: bytes) -> list[Sequence[str]]:
    """The last checkpoint of a stopped run, in its place."""
    folder.mkdir(parents=True)
    train = ["train-head", "--cache", str(cache), "--hidden", "4", "--max-epochs", "3"]
    train += ["--runs-dir", str(folder)]
    stopped = run_command(train, folder.with_suffix(".log"), before=_stop_after_an_epoch)
    assert stopped.code == 130, stopped.text
    [checkpoint] = folder.rglob("last.ckpt")
    checkpoint.write_bytes(content)
    return [train]


def _stop_after_an_epoch() -> None:
    """Press Ctrl-C in the second epoch."""
    from featcache.training.module import HeadModule

    begin: Callable[[HeadModule], None] = HeadModule.on_train_epoch_start

    def stopped(self: HeadModule) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        begin(self)

    HeadModule.on_train_epoch_start = stopped  # type: ignore[method-assign]


def _escapes(folder: Path) -> tuple[int, int]:
    """Show names that hold escape characters: (commands, outputs with a raw one)."""
    red = "\x1b[31mred\x1b]0;title\x07"
    rng = np.random.default_rng(0)
    images = folder / red
    for split, n in (("train", 12), ("test", 4)):
        for i in range(n):
            path = images / split / f"{red}{i % 2}" / f"{red}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    broken = images / "train" / f"{red}0" / f"{red}broken.png"
    broken.write_bytes(b"no image")
    places = ["--cache-dir", str(folder / "cache")]
    pixels = ["--backbone", "pixels", "--image-size", "8", "--n-workers", "0"]
    commands = [["extract", "--dataset", f"folder:{images}", *pixels, *places]]
    outputs = [run_command(commands[0], folder / "log").text]
    [cache] = (folder / "cache").rglob("*.h5")
    runs = ["--runs-dir", str(folder / "runs")]
    train = ["train-head", "--cache", str(cache), "--hidden", "4", "--max-epochs", "1", *runs]
    outputs.append(run_command(train, folder / "log").text)
    [head] = (folder / "runs").rglob("head.safetensors")
    others = (
        ["cache", "ls", *places],
        ["cache", "info", str(cache)],
        ["cache", "verify", str(cache)],
        ["cache", "repair", str(cache)],
        ["eval", str(head), "--cache", str(cache)],
        ["eval", str(head.with_name(red)), "--cache", str(cache)],
        ["cache", "info", red],
    )
    outputs += [run_command(more, folder / "log").text for more in others]
    assert all("red" in text for text in outputs), [t for t in outputs if "red" not in t]
    return len(outputs), sum("\x1b" in text or "\x07" in text for text in outputs)


def _load_naively(content: bytes, folder: Path) -> None:
    path = folder / "naive.pth"
    path.write_bytes(content)
    try:
        torch.load(path, weights_only=False)
    finally:
        shutil.rmtree(folder / "files")


if __name__ == "__main__":
    sys.exit(main("pickles", claims))
