"""`featcache export`: a head and its backbone as one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from tests.cli.conftest import Run, Spawn
from tests.deployment.heads_of_digits import head_on

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The newest run below runs/."""
    return head_on(tmp_path, "timm:test_resnet")


def test_the_newest_run_is_exported_and_the_files_are_named(run: Run, run_folder: Path) -> None:
    result = run("export", "--format", "safetensors", "--out", "out/x.safetensors", "--unchecked")

    assert result.exit_code == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["exported"] == "out/x.safetensors"
    assert lines["check"] == "left out"
    assert lines["card"] == "out/x.safetensors.md"
    assert "the newest finished run" in result.stderr
    assert "its card has no intervals. Run: featcache eval" in result.stderr
    assert "the file is not checked, as --unchecked asks" in result.stderr


def test_json_has_all_of_the_result_and_the_card_has_the_intervals_of_eval(
    run: Run, run_folder: Path
) -> None:
    run("eval")

    result = run("export", str(run_folder), "--format", "hf", "--out", "hub", "--unchecked",
                 "--json")  # fmt: skip

    said = json.loads(result.stdout)
    assert (said["path"], said["format"], said["check"]) == ("hub", "hf", None)
    assert said["nbytes"] == Path("hub/model.safetensors").stat().st_size
    card = Path("hub/README.md").read_text()
    cache = featcache.load_head(run_folder).cache_path
    assert "Of 100 images of split test:\n\n| figure | value | 95% interval |" in card
    accuracy = json.loads((run_folder / "eval-test.json").read_text())["acc"]
    interval = f"{accuracy['low']:.4f} to {accuracy['high']:.4f}"
    assert f"| accuracy | {accuracy['value']:.4f} | {interval} |" in card
    train, test = (split.rows_per_class for split in featcache.describe_cache(cache).splits)
    assert f"| 7 | {train['7']} | {test['7']} |\n" in card
    assert "| all | 100 | 100 |\n" in card


def test_export_of_a_cache_is_another_command(run: Run) -> None:
    told = " ".join(run("export", "--help").stdout.split())

    assert "For the features of a cache there is `featcache cache export`." in told


def test_ctrl_c_in_the_middle_leaves_no_file(spawn: Spawn, run_folder: Path) -> None:
    code = """
import os, signal, threading
from featcache.deployment.exports import make
from featcache_cli.__main__ import main

write = make.make_model

def write_and_stop(file, plan, *, on_note):
    def note(text):
        if text.startswith("writing"):
            os.kill(os.getpid(), signal.SIGINT)
        on_note(text)
    return write(file, plan, on_note=note)

make.make_model = write_and_stop
main()
"""

    done = spawn(
        "export", str(run_folder), "--format", "safetensors", "--out", "out/x.safetensors",
        "--unchecked", code=code,
    )  # fmt: skip

    assert done.returncode == 130, done.stderr
    assert "Stopped. Nothing was written to out/x.safetensors." in done.stderr
    assert not [*Path("out").rglob("*")]
