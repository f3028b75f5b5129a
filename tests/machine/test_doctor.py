"""What is told of a machine, whole or broken, and what to do about it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import featcache
from featcache.machine import compiler, folders, holdings, packages, torch_child, torch_facts
from featcache.machine.finding import OK, PROBLEM, WARNING, Checkup, Finding
from featcache.machine.packages import Requirement, requirement_of
from tests.feature_caches import MakeCache

GOOD: Mapping[str, Mapping[str, object]] = {
    "torch": {"version": "2.14.1+cu130", "built_for": "13.0"},
    "torchvision": {"version": "0.29.1"},
    "device": {
        "device": "cuda:0",
        "why": "NVIDIA H100 is visible",
        "precision": "tf32",
        "free": 80_000_000_000,
        "simd": "AVX512",
    },
    "cores": {"processor": "Zen 5", "n_cores": 8, "why": "8 cores", "n_threads": 4},
    "memory": {"n_bytes": 12_000_000_000, "kind": "memory"},
    "weights": {"here": {"vgg16": ["IMAGENET1K_V1"]}, "folder": "/torch/hub/checkpoints"},
}
ON_CPU = {**GOOD["device"], "device": "cpu", "why": "no CUDA device is visible", "free": None}
NO_GPU = {"devices": ""}
A_GPU = {"devices": "nvidia0"}


def told(
    changes: Mapping[str, Mapping[str, object]],
    *,
    gpus: Mapping[str, str] = NO_GPU,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Finding]:
    """What is said of a good machine with some changes, by subject."""
    found = torch_facts.findings({**GOOD, **changes}, gpus=gpus, environment=environment or {})
    return {finding.subject: finding for finding in found}


def test_this_machine_can_work_and_nothing_stays_on_it(tmp_path: Path) -> None:
    seen: list[Finding] = []
    places = {"cache_dir": tmp_path / "a/cache", "runs_dir": tmp_path, "data_dir": tmp_path}

    checkup = featcache.doctor(**places, on_finding=seen.append)

    subjects = [finding.subject for finding in checkup.findings]
    assert checkup.can_work, checkup.findings
    assert seen == list(checkup.findings)
    assert {"featcache", "torch", "torchvision", "device", "cores", "memory", "weights"} < {
        *subjects
    }
    assert {"compiler", "cache folder", "runs folder", "datasets", "caches"} < {*subjects}
    assert not [*tmp_path.iterdir()]


def test_a_checkup_with_a_problem_cannot_work_and_one_with_a_warning_can() -> None:
    good, bad = Finding("a", WARNING, ""), Finding("b", PROBLEM, "")

    assert Checkup((good,)).can_work
    assert not Checkup((good, bad)).can_work


def test_requirements_are_read_as_pip_writes_them() -> None:
    assert requirement_of("torch>=2.10") == Requirement("torch", "2.10", "")
    assert requirement_of("torchvision") == Requirement("torchvision", "", "")
    assert requirement_of('timm>=1.0.20; extra == "timm"') == Requirement("timm", "1.0.20", "timm")
    assert requirement_of("onnx>=1.17 ; extra == 'onnx'").extra == "onnx"


def test_packages_that_are_missing_or_too_old_are_problems_with_a_command() -> None:
    asked = [
        Requirement("torch", "2.10", ""),
        Requirement("h5py", "3.12", ""),
        Requirement("numpy", "2.0", ""),
        Requirement("timm", "1.0.20", "timm"),
        Requirement("matplotlib", "3.9", "plot"),
    ]
    here = {"torch": "2.9.1+cpu", "numpy": "2.10.0", "timm": "0.9"}

    found = {f.subject: f for f in packages.findings(asked, version_of=here.get)}

    assert found["packages"] == Finding("packages", OK, "numpy 2.10.0")
    assert found["torch"] == Finding(
        "torch",
        PROBLEM,
        "2.9.1+cpu is too old: 2.10 or newer is needed",
        "Install it: pip install 'torch>=2.10'",
    )
    assert found["h5py"].said == "is not installed"
    assert found["extra timm"].state == WARNING
    assert "installed: timm; not installed:" in found["extras"].said
    assert "plot (pictures of eval and probe)" in found["extras"].said


def test_a_good_machine_is_told_line_by_line() -> None:
    found = told({})

    assert {finding.state for finding in found.values()} == {OK}
    assert found["torch"].said == "2.14.1+cu130, built for CUDA 13.0"
    assert found["device"].said == (
        "cuda:0: NVIDIA H100 is visible; tf32, 80.00 GB of GPU memory free"
    )
    assert found["cores"].said == "8 cores, Zen 5; torch computes with 4 threads"
    assert found["weights"].said == "vgg16 (IMAGENET1K_V1) in /torch/hub/checkpoints"


def test_a_gpu_that_torch_does_not_use_has_its_reason() -> None:
    of_cpu = {"version": "2.14.1+cpu", "built_for": None}

    built_without = told({"device": ON_CPU, "torch": of_cpu}, gpus=A_GPU)["device"]
    hidden = told({"device": ON_CPU}, gpus={**A_GPU, "CUDA_VISIBLE_DEVICES": ""})["device"]
    old_driver = told({"device": ON_CPU}, gpus=A_GPU)["device"]

    assert told({"device": ON_CPU})["device"].state == OK
    assert {built_without.state, hidden.state, old_driver.state} == {WARNING}
    assert "There is a GPU (nvidia0), which is not used" in built_without.said
    assert "CUDA build of torch" in built_without.way_out
    assert hidden.way_out.startswith("CUDA_VISIBLE_DEVICES is ''")
    assert "too old for CUDA 13.0" in old_driver.way_out


def test_a_variable_that_takes_cores_away_is_named() -> None:
    cores = {"cores": {**GOOD["cores"], "n_threads": 1}}

    assert told(cores)["cores"].state == OK
    found = told(cores, environment={"OMP_NUM_THREADS": "1"})["cores"]
    assert (found.state, found.way_out) == (
        WARNING,
        "OMP_NUM_THREADS is 1: unset it to use all cores.",
    )


def test_little_memory_is_a_warning() -> None:
    kind = "memory within the limit of this container (cgroup)"

    found = told({"memory": {"n_bytes": 300_000_000, "kind": kind}})["memory"]

    assert found.state == WARNING
    assert found.said.startswith(f"300.0 MB of {kind} free: an extraction")


def test_no_weights_are_no_fault() -> None:
    found = told({"weights": {"here": {}, "folder": "/w"}})["weights"]

    assert (found.state, found.said) == (OK, "none of torchvision's in /w")


def test_what_cannot_be_imported_is_a_problem_and_ends_what_needs_it() -> None:
    failed = {"failed": "ImportError: libcudart.so is missing"}

    without_torch = told(dict.fromkeys(GOOD, failed))
    without_vision = told({"torchvision": failed, "weights": failed})

    assert [*without_torch] == ["torch"]
    assert without_torch["torch"].state == PROBLEM
    assert "libcudart.so is missing" in without_torch["torch"].said
    assert without_vision["torchvision"].state == PROBLEM
    assert "weights" not in without_vision
    assert without_vision["memory"].state == OK


def test_the_facts_are_those_of_this_process() -> None:
    facts = torch_child.facts()

    assert [*facts] == [*GOOD]
    assert not [name for name, said in facts.items() if "failed" in said]
    assert facts["device"]["device"] in ("cpu", "cuda:0")
    json.dumps(facts)


def test_a_torch_that_ends_the_process_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.syspath_prepend(tmp_path)

    [found] = torch_facts.look()

    assert (found.subject, found.state) == ("torch", PROBLEM)
    assert found.said == "Python ended by SIGILL when it was imported"


def test_a_torch_that_is_broken_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("print('hello')\nraise OSError('libtorch.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)

    [found] = torch_facts.look()

    assert found.said == "cannot be imported: OSError: libtorch.so: no such file"


def test_a_folder_is_really_tried(tmp_path: Path) -> None:
    [found] = folders.look("cache folder", "--cache-dir", tmp_path / "not" / "there")

    assert found.state == OK
    assert found.said.startswith(f"{tmp_path} locks, syncs (")
    assert found.said.endswith(f"; {tmp_path / 'not' / 'there'} is not there yet")
    assert not [*tmp_path.iterdir()]


def test_a_file_in_the_place_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")

    [found] = folders.look("cache folder", "--cache-dir", tmp_path / "cache")

    assert (found.state, found.said) == (PROBLEM, f"{tmp_path / 'cache'} is no folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)

    [found] = folders.look("runs folder", "--runs-dir", tmp_path)

    tmp_path.chmod(stat.S_IRWXU)
    assert found.state == PROBLEM
    assert "cannot be written: Permission denied" in found.said
    assert "--runs-dir" in found.way_out


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    [found] = folders.look("cache folder", "--cache-dir", tmp_path)

    assert found.state == PROBLEM
    assert "cannot be written: No space left on device" in found.said
    assert not [*tmp_path.iterdir()]


def test_little_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    [found] = folders.look("cache folder", "--cache-dir", tmp_path)

    assert found.state == WARNING
    assert found.said.endswith("has 5.0 MB free")


def test_locks_that_lock_nothing_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*_: object) -> None:
        """Lock nothing, as some network file systems do."""

    monkeypatch.setattr("fcntl.flock", lock)

    [found] = folders.look("cache folder", "--cache-dir", tmp_path)

    assert found.state == PROBLEM
    assert "gives a lock to two processes at once" in found.said


def test_a_file_system_without_locks_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)

    [found] = folders.look("cache folder", "--cache-dir", tmp_path)

    assert "has no locks (No locks available)" in found.said
    assert "local disk" in found.way_out


def test_a_missing_compiler_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "nosuch"))

    [found] = compiler.look()

    assert found.state == WARNING
    assert found.said.startswith(f"there is no {tmp_path / 'nosuch'}: long extractions")
    assert "apt install g++" in found.way_out


def test_a_compiler_may_be_called_through_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no compiler")
    monkeypatch.setenv("CXX", "env g++")

    [found] = compiler.look()

    assert not found.said.startswith("there is no")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'fatal error: cmath: No such file' >&2; exit 1", "compiles no C++ (fatal error: cm"),
        ("exit 1", "compiles no C++ (without a word)"),
        ("grep -q Python.h $7 && exit 1; exit 0", "Python.h is missing"),  # $7: the source
    ],
)
def test_a_compiler_is_tried_on_what_the_engines_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = tmp_path / "cxx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))

    [found] = compiler.look()

    assert found.state == WARNING
    assert said in found.said


def test_datasets_and_caches_that_are_here_are_told(make_cache: MakeCache, tmp_path: Path) -> None:
    path = make_cache()
    (tmp_path / "cifar-10-python.tar.gz").touch()

    *_, datasets, caches = holdings.look(tmp_path, tmp_path / "cache")

    assert datasets.said == f"cifar10, digits, looked for in {tmp_path}"
    assert caches.state == OK
    assert caches.said.startswith(f"1 cache in {tmp_path / 'cache'}, ")
    with path.open("r+b") as file:
        file.truncate(100)
    *_, caches = holdings.look(tmp_path, tmp_path / "cache")
    assert caches.state == WARNING
    assert caches.way_out == f"Mend it: featcache cache repair {path}"


def test_models_of_the_hub_that_are_here_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("models--timm--vit.augreg--x", "models--timm--begun", "datasets--a--b"):
        (tmp_path / name / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "models--timm--vit.augreg--x/snapshots/1/model.safetensors").touch()

    hub, *_ = holdings.look(tmp_path, tmp_path)

    assert (hub.subject, hub.said) == ("hub weights", f"timm/vit.augreg--x in {tmp_path}")


def test_what_breaks_a_look_is_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    """Without NumPy there is next to nothing, and still no traceback."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import featcache\n"
        "checkup = featcache.doctor()\n"
        "print(checkup.can_work, [f.subject for f in checkup.findings if f.state == 'problem'])\n"
    )
    (tmp_path / "torch.py").write_text("raise ImportError('no NumPy')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.startswith("False ['torch', ")
