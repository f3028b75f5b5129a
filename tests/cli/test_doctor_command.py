from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Spawn

# A torch that is too old, and cannot be imported either; it is found before the one that works.
OLD = "Metadata-Version: 2.1\nName: torch\nVersion: 1.13.0\n"


def with_old_torch(tmp_path: Path) -> str:
    site = tmp_path / "site"
    (site / "torch-1.13.0.dist-info").mkdir(parents=True)
    (site / "torch-1.13.0.dist-info" / "METADATA").write_text(OLD)
    (site / "torch.py").write_text("raise ImportError('built for another NumPy')")
    return str(site)


def test_a_broken_environment_is_told_line_by_line_and_ends_with_1(
    spawn: Spawn, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")

    done = spawn("doctor", PYTHONPATH=with_old_torch(tmp_path), CXX="nosuch")

    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "featcache can not work here; warnings: " in done.stderr
    problems = [line.split()[1] for line in lines if line.startswith("problem")]
    assert problems == ["torch", "torch", "cache"]
    assert any("1.13.0 is too old: 2.10 or newer is needed" in line for line in lines)
    assert any("pip install 'torch>=2.10'" in line for line in lines)
    assert any("cannot be imported: ImportError: built for another NumPy" in line for line in lines)
    assert any(line.startswith("ok") and "runs folder" in line for line in lines)


def test_json_holds_all_findings(spawn: Spawn, tmp_path: Path) -> None:
    done = spawn("doctor", "--json", PYTHONPATH=with_old_torch(tmp_path), CXX="nosuch")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["can_work"]) == (1, False)
    assert {*answer["findings"][0]} == {"subject", "state", "said", "way_out"}


def test_an_empty_folder_is_a_usage_error(spawn: Spawn) -> None:
    done = spawn("doctor", "--cache-dir", "")

    assert done.returncode == 2
    assert "--cache-dir is empty" in done.stderr
