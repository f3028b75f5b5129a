"""Libraries that a second user planted where torch looks for compiled code are not run (claim 22).

Their names are no secret: digests of a source that everybody has. As root, they belong to another
user; elsewhere to the same one, and the folder's mode alone tells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.faults.claims import Claim, main, require_tool
from tests.faults.images import make_images

_ANOTHER = 65534
_NAIVE = """
import torch
import torch._inductor.config as inductor
with inductor.patch(compile_threads=1), torch.no_grad():
    torch.compile(torch.nn.Conv2d(3, 8, 3))(torch.rand(1, 3, 8, 8)).relu()
"""
_BACKBONE = ["--backbone", "alexnet", "--weights", "random", "--image-size", "64"]


def claims(folder: Path, *, quick: bool) -> list[Claim]:
    """Plant, extract with each engine, and let torch compile by itself."""
    planted, marker = folder / "planted", folder / "library-ran"
    known = folder / "known"
    _python(["-c", _NAIVE], TMPDIR=known)
    n_planted = _plant(next(known.iterdir()), planted, _library(folder, marker))
    images = make_images(folder / "images", n_train=8, n_test=2)
    by_default = {"TMPDIR": planted, "XDG_CACHE_HOME": folder / "caches"}
    named = by_default | {"TMPDIR": known, "TORCHINDUCTOR_CACHE_DIR": next(planted.iterdir())}
    told, n_ran = [], 0
    trials = {
        "inductor": ("inductor", by_default, 0, "backbone compiled: inductor"),
        "winograd": ("winograd", by_default, 0, "backbone compiled: winograd"),
        "inductor, told to use that folder": ("inductor", named, 16, "must be yours (user"),
    }
    for name, (engine, environment, exit_code, expected) in trials.items():
        asked = ["--dataset", f"folder:{images}", "--cache-dir", str(folder / name)]
        asked += [*_BACKBONE, "--compile", engine, "--n-workers", "0", "--batch-size", "2"]
        ended = _python(["-m", "featcache_cli", "extract", *asked], **environment)
        ran = marker.exists()
        is_right = ended.returncode == exit_code and expected in ended.stderr
        n_ran += ran
        shutil.rmtree(marker, ignore_errors=True)
        told += [] if is_right else [f"{name}: exit {ended.returncode}, {ended.stderr[-500:]}"]
    _python(["-c", _NAIVE], TMPDIR=planted)
    owner = "another user's" if os.geteuid() == 0 else "the user's own"
    return [
        Claim(
            22,
            f"{n_planted} libraries of {owner} in torch's folder for compiled code, "
            f"{len(trials)} extractions ({', '.join(trials)}): {len(trials) - len(told)} compiled "
            f"elsewhere or refused the engine with the reason, libraries ran in {n_ran}"
            + "".join(f"; {line}" for line in told),
            not told and n_ran == 0,
            f"torch.compile by itself ran them: {marker.exists()}",
            marker.exists(),
        )
    ]


def _python(arguments: list[str], **environment: Path) -> subprocess.CompletedProcess[str]:
    environment["TMPDIR"].mkdir(exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=inherited | {name: str(path) for name, path in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )


def _plant(known: Path, planted: Path, library: Path) -> int:
    """Put the library under the name of each that torch would make; how many."""
    folder = planted / known.name
    shutil.copytree(known, folder)
    for path in [folder, *folder.rglob("*")]:
        if path.suffix == ".so":
            shutil.copyfile(library, path)
            path.with_name(f"{path.name}.load_ok").unlink(missing_ok=True)
        if path.exists():
            path.chmod(0o777)
            if os.geteuid() == 0:
                os.chown(path, _ANOTHER, _ANOTHER)
    planted.chmod(0o1777)
    return len(list(folder.rglob("*.so")))


def _library(folder: Path, marker: Path) -> Path:
    """Build a library whose loading makes a folder."""
    source, library = folder / "library.c", folder / "library.so"
    source.write_text(
        "#include <sys/stat.h>\n__attribute__((constructor)) static void run(void)"
        f' {{ mkdir("{marker}", 0700); }}\n'
    )
    subprocess.run([require_tool("cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return library


if __name__ == "__main__":
    sys.exit(main("planted", claims))
