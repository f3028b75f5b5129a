from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import featcache
from featcache_cli.commands.train_head import show_training
from featcache_cli.console import ProgressDisplay
from tests.cli.conftest import Run, Spawn, child_environment

QUICK = ["--lr", "1e-2", "--max-epochs", "2", "--hidden", "16"]


@pytest.fixture
def digits(tmp_path: Path) -> list[str]:
    """A train-head command on a cache of 600 digits of 8 x 8 pixels."""
    featcache.extract("digits", backbone="pixels", image_size=8, limit=300, cache_dir="cache")
    return ["train-head", "--dataset", "digits", "--backbone", "pixels"]


def test_it_trains_then_reuses_then_evaluates(run: Run, digits: list[str]) -> None:
    first, second = run(*digits, *QUICK), run(*digits, *QUICK)
    [path] = featcache.list_runs("runs")

    evaluated = run("eval")

    assert (first.exit_code, second.exit_code, evaluated.exit_code) == (0, 0, 0)
    assert first.stdout.splitlines()[0] == f"trained  {path}"
    assert second.stdout.splitlines()[0] == f"reused  {path}"
    assert "features stay in memory: " in first.stderr
    assert f"next: featcache eval {path}" in first.stderr
    [test] = [line for line in first.stdout.splitlines() if line.startswith("test ")]
    acc = test.split("test_acc ")[1].split()[0]
    assert f"test_acc     {acc}  95% interval " in evaluated.stdout
    assert "class; columns: predicted" in evaluated.stdout
    assert max(map(len, evaluated.stdout.splitlines())) <= 80


def test_an_evaluation_of_the_training_split_shows_its_accuracy(
    run: Run, digits: list[str]
) -> None:
    run(*digits, *QUICK)

    evaluated = run("eval", "--split", "train")

    [told] = json.loads(run("eval", "--split", "train", "--json").stdout)["evaluations"]
    shown = " ".join(evaluated.stdout.split())
    assert f"train_acc {told['acc']['value']:.4f} 95% interval " in shown
    assert max(map(len, evaluated.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", ["train-head", "sweep"])
def test_a_quiet_command_tells_the_remarks_of_its_result(
    run: Run, pixels: list[str], pets: Path, command: str
) -> None:
    assert run(*pixels).exit_code == 0
    shutil.copytree(pets, "copy/pets")
    trained = [command, "--dataset", "folder:copy/pets", "--backbone", "pixels", *QUICK]

    usual, quiet, answer = run(*trained), run(*trained, "-q"), run(*trained, "-q", "--json")

    remark = (
        f"The images of folder:copy/pets were not read; the cache was made from those of "
        f"folder:{pets}. "
    )
    assert usual.stderr.count(remark) == quiet.stderr.count(remark) == 1
    assert f"remark: {remark}" in quiet.stderr
    assert json.loads(answer.stdout)["remarks"][0].startswith(remark)
    assert answer.stderr == ""


def test_progress_is_counted_in_steps() -> None:
    told: list[tuple[object, ...]] = []

    class Display(ProgressDisplay):
        def show(self, *shown: object) -> None:
            told.append(shown)

    show_training(
        Display(),
        featcache.TrainProgress(
            seed=0, epoch=1, max_epochs=5, n_done=640, n_total=2000, left_s=3.0, figures={}
        ),
    )

    assert told == [("seed 0 epoch 2/5, step", 640, 2000, "3 s left")]


def test_without_a_test_split_the_next_command_is_one_that_works(run: Run, pets: Path) -> None:
    alone = pets / "train"  # its class folders are one split
    extract = ["extract", "--dataset", f"folder:{alone}", "--backbone", "pixels"]
    assert run(*extract, "--image-size", "8", "--n-workers", "0").exit_code == 0
    [cache] = [summary.path for summary in featcache.list_caches("cache")]

    result = run("train-head", "--cache", str(cache), *QUICK)

    [line] = [line for line in result.stderr.splitlines() if line.startswith("next: ")]
    assert line.endswith(" --split val")
    assert run(*line.removeprefix("next: featcache ").split()).exit_code == 0


def test_nothing_of_lightning_is_heard(run: Run, digits: list[str]) -> None:
    result = run(*digits, *QUICK)

    told = (result.stdout + result.stderr).replace(str(Path.cwd()), "").lower()
    for word in ("lightning", "tpu", "trainer", "litlogger", "warning", "checkpoint"):
        assert word not in told


def test_several_seeds_give_mean_and_sd(run: Run, digits: list[str]) -> None:
    result = run(*digits, *QUICK, "--seeds", "3", "--reg", "dropout", "--dropout", "0.2")

    assert result.stdout.count("trained  ") == 3
    [line] = [row for row in result.stdout.splitlines() if row.startswith("test_acc  mean ")]
    assert " sd " in line
    assert line.endswith("n 3")


def test_folds_are_a_table_with_mean_and_interval(run: Run, digits: list[str]) -> None:
    command = [*digits, *QUICK, "--folds", "3"]

    shown, answer = run(*command), json.loads(run(*command, "--json").stdout)

    lines = shown.stdout.splitlines()
    [title] = [i for i, line in enumerate(lines) if line.startswith("fold  trained on")]
    told = answer["folds"]
    assert lines[title + 1].split()[:4] == ["1", "160", "40", "100"]
    mean = f"{told['acc']['mean']:.4f}  sd {told['acc']['sd']:.4f}  95% interval "
    [of_acc] = [line for line in lines if line.startswith("mean acc ")]
    assert of_acc.removeprefix("mean acc").strip().startswith(mean)
    assert told["outcome"] == "reused"
    assert len(told["folds"]) == 3
    assert lines[-1].split() == ["folds", told["file"]]


def test_folds_of_a_solver_have_no_epochs(run: Run, digits: list[str]) -> None:
    shown = run(*digits, "--solver", "knn", "--k", "1,5", "--folds", "3")

    lines = shown.stdout.splitlines()
    [title] = [i for i, line in enumerate(lines) if line.startswith("fold  trained on")]
    assert lines[title].split() == [
        "fold",
        *["trained", "on", "validated", "on", "tested", "on", "acc", "loss", "setting"],
    ]
    settings = [line.rpartition("  ")[2] for line in lines[title + 1 : title + 4]]
    assert set(settings) <= {"k 1", "k 5"}
    assert lines[-1].startswith("folds")


def test_json_is_one_object(run: Run, digits: list[str]) -> None:
    result = run(*digits, *QUICK, "--json")

    answer = json.loads(result.stdout)
    assert answer["runs"][0]["outcome"] == "trained"
    assert len(answer["runs"][0]["history"]) == 2
    evaluated = json.loads(run("eval", "--json").stdout)
    assert evaluated["evaluations"][0]["acc"]["value"] == pytest.approx(
        answer["runs"][0]["test_acc"]
    )
    assert evaluated["comparison"] is None


def test_a_linear_probe_is_an_empty_hidden(run: Run, digits: list[str]) -> None:
    result = run(*digits, "--max-epochs", "1", "--hidden", "")

    [path] = featcache.list_runs("runs")
    assert result.exit_code == 0
    assert featcache.load_head(path).spec.hidden == ()


def test_two_runs_are_compared(run: Run, digits: list[str]) -> None:
    run(*digits, *QUICK)
    run(*digits, *QUICK, "--reg", "l2")

    result = run("eval", "none", "l2", "--plot")

    assert result.exit_code == 0
    assert "(McNemar's exact test)" in result.stdout
    assert result.stdout.startswith("first ")  # what was asked for leads
    assert result.stdout.count("train_acc ") == 2
    assert result.stdout.count("confusion-test.svg") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["train-head"], 10, "Make it with: featcache extract --dataset cifar10 --backbone vgg16"),
        (["train-head", "--dataset", "cifra10"], 2, "Did you mean 'cifar10'"),
        (["train-head", "--reg", "drpout"], 2, "Did you mean 'dropout'?"),
        (["train-head", "--hidden", "50;20"], 2, "must be whole numbers with commas between"),
        (["train-head", "--reg", "dropout", "--dropout", "a"], 2, "must be numbers with commas"),
        (["train-head", "--lr", "0"], 2, "--lr is 0, but must be a finite number above 0"),
        (["train-head", "--cache", "nix.h5"], 10, "There is no cache 'nix.h5'"),
        (["eval"], 10, "There is no finished run in runs. Train a head with"),
        (["eval", "a", "b", "c"], 2, "3 runs were given, but at most two can be compared"),
    ],
)
def test_bad_input_has_its_message_and_its_code(
    run: Run, arguments: list[str], code: int, text: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""


# Other signals take the same way: test_signals.py, test_stopping.py, and for heads tests/faults.
def test_a_signal_keeps_the_head(run: Run, digits: list[str]) -> None:
    endless = [*digits, "--max-epochs", "100000", "--patience", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "featcache_cli", *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:
        while process.poll() is None and not list(Path("runs").rglob("last.ckpt")):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        out, err = process.communicate(timeout=10)

    assert process.returncode == 143
    assert out == ""
    assert "error: Stopped. The head of epoch " in err
    assert "The same command goes on from there." in err
    [partial] = Path("runs").rglob("*.partial")
    assert featcache.load_head(partial).is_finished is False
    assert run("eval", str(partial)).exit_code == 0


@pytest.mark.parametrize("command", ["train-head", "sweep"])
def test_two_ranks_are_refused_in_one_sentence_before_torch_is_imported(
    spawn: Spawn, command: str
) -> None:
    code = (
        "import sys; from featcache_cli.app import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )

    ranks = [spawn(command, code=code, RANK=rank, WORLD_SIZE="2") for rank in ("0", "1")]

    for rank in ranks:
        assert rank.returncode == 2
        assert rank.stdout == ""
        assert " ".join(rank.stderr.split()) == (
            "error: This process is one of 2 ranks (WORLD_SIZE is 2), but a head is trained by "
            "one process, without ddp: start featcache without torchrun, and take featcache sweep "
            "--devices for many heads on several devices."
        )
