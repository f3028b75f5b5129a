"""What ships, and that it runs with nothing but what it declares.

The clean environment is a venv that holds the wheel and its declared runtime dependencies with
theirs, no extras: a dependency that is used but not declared cannot be imported there. Installing
torch anew would take minutes and a network, so the dependencies are symbolic links to this
environment's distributions; only the wheel itself is installed, by pip. The venv sees no other
folder, and a test proves that what is not declared (pytest, scikit-learn) is missing in it.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import featcache
from tests.conftest import save_image

ROOT = Path(__file__).parents[1]
PACKAGES = {"featcache": ROOT / "featcache", "featcache_cli": ROOT / "cli" / "featcache_cli"}
DIST_INFO = f"featcache-{featcache.__version__}.dist-info"
IMPORT_ALL = """
import importlib, pkgutil, featcache, featcache_cli
for package in (featcache, featcache_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""
FIND = "import importlib.util, sys; print([importlib.util.find_spec(n) for n in sys.argv[1:]])"


def checked(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    checked(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a venv that holds the wheel and what it declares."""
    root = tmp_path_factory.mktemp("clean")
    venv.create(root, symlinks=True)
    [site_packages] = root.glob("lib/python*/site-packages")
    link_distributions(runtime_closure(wheel), site_packages)
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    python = root / "bin" / "python"
    checked(sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel, cwd=root)
    return root / "bin"


def runtime_closure(wheel: Path) -> set[str]:
    """Names of all distributions that the wheel needs, directly or not, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        declared = metadata.PathDistribution(zipfile.Path(archive, f"{DIST_INFO}/")).requires
    waiting = [(Requirement(line), "") for line in declared or ()]
    done: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra_of_parent = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra_of_parent}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {e for n, e in done if n == name}:
            done.add((name, extra))
            lines = metadata.distribution(name).requires or ()
            waiting += [(Requirement(line), extra) for line in lines]
    return {name for name, _ in done}


def link_distributions(names: Iterable[str], site_packages: Path) -> None:
    """Link the packages and modules that these distributions recorded when they were installed."""
    for name in names:
        dist = metadata.distribution(name)
        # Not dist.files, which takes half a minute for torch's and NVIDIA's tens of thousands.
        recorded = csv.reader((dist.read_text("RECORD") or "").splitlines())
        for top in {PurePosixPath(row[0]).parts[0] for row in recorded}:
            link = site_packages / top
            if top not in ("..", "__pycache__") and not top.endswith(".pth") and not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))))


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if not n.startswith(f"{DIST_INFO}/")}

    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".cpp") or path.name == "py.typed"
    }
    assert names == expected
    wanted = {"featcache/py.typed", "featcache_cli/py.typed", "featcache/core/locks.py"}
    assert {*wanted, "featcache/backbones/engines/winograd.cpp"} <= names


def test_the_wheel_brings_command_license_and_declared_dependencies(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        infos = {n.removeprefix(f"{DIST_INFO}/"): n for n in archive.namelist() if DIST_INFO in n}
        commands = archive.read(infos["entry_points.txt"]).decode()
        licence = archive.read(infos["licenses/LICENSE"]).decode()
        declared = metadata.PathDistribution(zipfile.Path(archive, f"{DIST_INFO}/")).requires or ()

    assert commands.split() == [
        "[console_scripts]",
        "featcache",
        "=",
        "featcache_cli.__main__:main",
    ]
    assert "Apache License" in licence
    requirements = [Requirement(line) for line in declared]
    always = {str(r) for r in requirements if r.marker is None}
    assert always == {str(Requirement(line)) for line in project["dependencies"]}


def test_the_sdist_holds_sources_tests_and_docs_but_no_cache(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [PurePosixPath(*PurePosixPath(n).parts[1:]) for n in archive.getnames()]

    assert {n.parts[0] for n in names} == {
        *("featcache", "cli", "tests", "docs", "pyproject.toml", "PKG-INFO", ".gitignore"),
        *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"),
    }
    assert PurePosixPath("tests/test_packaging.py") in names
    assert PurePosixPath("cli/featcache_cli/py.typed") in names
    litter = {"__pycache__", ".hypothesis", ".pytest_cache", "data"}
    assert not [n for n in names if litter & set(n.parts) or n.suffix in (".pyc", ".partial")]


def test_the_clean_environment_lacks_what_is_not_declared(clean_bin: Path, tmp_path: Path) -> None:
    undeclared = ["pytest", "sklearn", "hypothesis", "build", "ruff", "mypy"]

    assert checked(clean_bin / "python", "-c", FIND, *undeclared, cwd=tmp_path) == (
        f"{[None] * len(undeclared)}\n"
    )


def test_every_module_imports_with_declared_dependencies_alone(
    clean_bin: Path, tmp_path: Path
) -> None:
    imported = checked(clean_bin / "python", "-c", IMPORT_ALL, cwd=tmp_path).split()

    assert {"featcache.extraction.extract", "featcache.core.locks", "featcache_cli.app"} <= set(
        imported
    )


def test_the_installed_command_answers(clean_bin: Path, tmp_path: Path) -> None:
    command = clean_bin / "featcache"

    assert "Usage: featcache" in checked(command, "--help", cwd=tmp_path)
    version = checked(command, "--version", cwd=tmp_path)
    assert version == f"featcache {metadata.version('featcache')}\n"


def test_the_installed_command_extracts(clean_bin: Path, tmp_path: Path) -> None:
    for i in range(4):
        save_image(tmp_path / "pets" / ("cat" if i % 2 else "dog") / f"{i}.png", i)

    pixels = ["--dataset", "folder:pets", "--backbone", "pixels", "--image-size", "8"]
    extracted = checked(clean_bin / "featcache", "extract", *pixels, cwd=tmp_path)
    verified = checked(clean_bin / "featcache", "cache", "verify", "pets", cwd=tmp_path)

    assert extracted.startswith("computed  cache/folder-pets/pixels-")
    assert "result   sound" in verified
