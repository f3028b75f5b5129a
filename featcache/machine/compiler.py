"""The C++ compiler that makes long extractions on a CPU faster, tried on a small program."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from featcache.errors import clipped
from featcache.machine.finding import OK, WARNING, Finding

_USE = "long extractions on a CPU take up to 2.6 times as long without it"
_INSTALL = "Install one (Debian, Ubuntu: apt install g++), or name another by CXX."
# What both engines compile begins with these.
_PROGRAM = (
    "#include <cmath>\n#include <omp.h>\n{more}int main() {{ return omp_get_max_threads() < 1; }}\n"
)
_PYTHON = "#include <Python.h>\n"
_FLAGS = ("-fopenmp", "-shared", "-fPIC")
_TIMEOUT_S = 60.0


def look() -> Iterator[Finding]:
    """Look for what CXX names, or g++, and compile with it."""
    name = os.environ.get("CXX") or "g++"
    if shutil.which(next(iter(shlex.split(name)), "")) is None:
        yield Finding("compiler", WARNING, f"there is no {name}: {_USE}", _INSTALL)
        return
    if complaint := _complaint(name, _PROGRAM.format(more="")):
        said = f"{name} compiles no C++ ({complaint}): {_USE}"
        yield Finding("compiler", WARNING, said, _INSTALL)
        return
    if _complaint(name, _PROGRAM.format(more=_PYTHON)):
        yield Finding(
            "compiler",
            WARNING,
            f"{name} works, but Python.h is missing, which one of the two engines needs",
            "Install Python's headers (Debian, Ubuntu: apt install python3-dev).",
        )
        return
    yield Finding("compiler", OK, f"{name} compiles")


def _complaint(name: str, program: str) -> str:
    """Compile a program; returns why that failed, or nothing."""
    with tempfile.TemporaryDirectory(prefix="featcache-doctor-") as folder:
        source = Path(folder, "try.cpp")
        source.write_text(program)
        headers = f"-I{sysconfig.get_path('include')}"
        command = [
            *shlex.split(name),
            *_FLAGS,
            headers,
            "-o",
            str(Path(folder, "try.so")),
            str(source),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as err:
            return clipped(str(err))
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else clipped(lines[-1] if lines else "without a word")
