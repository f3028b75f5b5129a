"""The files of the guide to clusters: the commands in them run, and shares follow from the file."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import featcache
from featcache.scale.shares import INDEX_VARIABLES
from featcache_cli.app import app
from tests.scale.kinds import Kind

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
SCRIPT = GUIDES / "slurm" / "extract.sbatch"
Submit = Callable[[int], list[str]]


def of_slurm(index: int) -> list[str]:
    """Run the script as a task of an array does, with a `featcache` that says its arguments."""
    text = SCRIPT.read_text()
    [array] = re.findall(r"^#SBATCH --array=0-(\d+)$", text, re.MULTILINE)
    assert int(array) == 23
    say = 'featcache() { printf "%s\\n" "$@"; }; exec() { "$@"; }\n'
    ran = subprocess.run(
        ["bash", "-eu", "-c", say + text],
        env={"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": str(index)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


def of_kubernetes(index: int) -> list[str]:
    job = yaml.safe_load((GUIDES / "kubernetes" / "extract.yaml").read_text())
    assert job["spec"]["completions"] == 24
    [container] = job["spec"]["template"]["spec"]["containers"]
    name, *command = container["command"]
    assert name == "featcache"
    return [*command, *(word for arg in container["args"] for word in arg.split("=", 1))]


def of_skypilot(index: int) -> list[str]:
    task = yaml.safe_load((GUIDES / "skypilot" / "extract.yaml").read_text())
    assert [*task["envs"]] == ["SHARE"]
    words = shlex.split(task["run"].replace("$SHARE", str(index)).replace("\\\n", " "))
    assert words[:2] == ["exec", "featcache"]
    return words[2:]


@pytest.mark.parametrize(
    ("submit", "variable"),
    [(of_slurm, INDEX_VARIABLES[0]), (of_kubernetes, INDEX_VARIABLES[1]), (of_skypilot, "")],
)
def test_the_command_of_a_guide_computes_its_share(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, submit: Submit, variable: str
) -> None:
    if variable:
        monkeypatch.setenv(variable, "7")
    command = submit(7)
    asked = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "extract"
    assert set(asked) == {"--dataset", "--backbone", "--batch-size", "--cache-dir", "--share"}
    asked |= {"--dataset": kind.dataset, "--backbone": "pixels", "--image-size": "8"}
    asked |= {"--cache-dir": str(tmp_path / "cache"), "--n-workers": "0"}

    arguments = ["extract", "--json", *(word for pair in asked.items() for word in pair)]
    result = CliRunner().invoke(app, arguments)

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["share"] == "7/24"


def test_the_script_of_slurm_lets_featcache_have_its_signals() -> None:
    text = SCRIPT.read_text()

    assert "\nexec featcache extract " in text
    assert "#SBATCH --signal=B:TERM@120\n" in text  # B: the script, which featcache replaced
    assert "#SBATCH --requeue\n" in text


def test_the_job_of_kubernetes_is_valid_and_fails_what_no_retry_mends() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    job: dict[str, Any] = yaml.safe_load((GUIDES / "kubernetes" / "extract.yaml").read_text())

    validate.validate(job, "1.33", strict=True)

    [_, fails] = job["spec"]["podFailurePolicy"]["rules"]
    assert fails["onExitCodes"]["values"] == [2, 12, 13, 15]
    assert fails["onExitCodes"]["containerName"] == "featcache"


def test_the_example_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (GUIDES / "cluster.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)

    exec(compile(code, "cluster.md", "exec"), {})

    assert capsys.readouterr().out == "merged 200\n"
    assert len(featcache.list_caches("cache")) == 1


def test_the_script_of_slurm_is_bash() -> None:
    bash = shutil.which("bash")
    assert bash is not None

    subprocess.run([bash, "-n", SCRIPT], check=True)
