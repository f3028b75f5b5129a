from __future__ import annotations

import json
from pathlib import Path

import pytest

import featcache
from featcache.evaluation.metrics import LOSSES, Interval, Spread
from featcache.notebook.reproduce_table import beside, markdown_table
from featcache.training.notebook_systems import SYSTEMS
from tests.cli.conftest import Run

BACKBONES = {"vgg16": "mobilenet_v3_small", "mobilenet_v3_large": "mobilenet_v3_small"}
SMALL = [
    *(part for pair in BACKBONES.items() for part in ("--backbone-for", "=".join(pair))),
    *("--dataset", "digits", "--weights", "random", "--image-size", "32", "--limit", "60"),
]


def test_the_systems_are_the_notebooks_table() -> None:
    table = [
        (s.name, s.backbone, s.head.hidden, s.head.reg, s.train.max_epochs, s.train.patience)
        for s in SYSTEMS
    ]

    assert table == [
        ("scratch-mlp", "pixels", (256, 64), "none", 10, 5),
        ("vgg16", "vgg16", (50, 20), "none", 5, 3),
        ("vgg16-l1l2", "vgg16", (50, 20), "l1l2", 5, 0),
        ("vgg16-dropout", "vgg16", (50, 20), "dropout", 5, 0),
        ("mobilenet-v3", "mobilenet_v3_large", (50, 20), "none", 50, 3),
    ]
    assert {(s.train.lr, s.train.batch_size, s.train.min_delta) for s in SYSTEMS} == {
        (1e-5, 64, 0.001)
    }


def test_five_systems_give_one_table_and_nothing_is_done_twice(run: Run) -> None:
    first = run("reproduce", *SMALL, "--seeds", "2")
    times = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("head.safetensors")}
    second = run("reproduce", *SMALL, "--seeds", "2")

    assert (first.exit_code, second.exit_code) == (0, 0)
    names = [line.split()[0] for line in first.stdout.splitlines()[1:6]]
    assert names == [system.name for system in SYSTEMS]
    assert first.stdout == second.stdout  # the seconds of the extraction are remembered
    assert len(times) == 10
    assert times == {p: p.stat().st_mtime_ns for p in Path("runs").rglob("head.safetensors")}
    assert len(featcache.list_caches("cache")) == 2
    [markdown] = Path("runs/digits").glob("reproduce-*.md")
    rows = markdown.read_text().splitlines()
    assert rows[2].startswith("| scratch-mlp | pixels | frozen | 0.")
    assert " (2) | - | - | " in rows[2]
    # Other images than the notebook's are not set beside its figures.
    assert "0.5134" not in markdown.read_text()


def test_the_figures_are_those_of_the_runs(run: Run) -> None:
    result = run("reproduce", *SMALL, "--only", "vgg16-dropout", "--seeds", "2", "--json")

    [system] = json.loads(result.stdout)["systems"]
    trained = [json.loads((Path(p) / "result.json").read_text()) for p in system["runs"]]
    assert system["test_acc"]["mean"] == pytest.approx(sum(run["test_acc"] for run in trained) / 2)
    assert system["test_acc"]["n"] == 2
    rate = json.loads(Path(json.loads(result.stdout)["json"]).read_text())["images_per_s"]
    [images_per_s] = rate.values()
    passes = 5 * 60 + 60
    assert system["end_to_end_s"] == pytest.approx(passes / images_per_s)


def test_adapted_is_for_backbones_with_batch_norm_only(run: Run) -> None:
    result = run(
        *("reproduce", "--backbone-for", "vgg16=squeezenet1_1", "--dataset", "digits", "--weights"),
        *("random", "--image-size", "32", "--limit", "20", "--bn", "adapted", "--json"),
        *("--only", "vgg16"),
    )

    [system] = json.loads(result.stdout)["systems"]
    assert (system["backbone"], system["bn"]) == ("squeezenet1_1", "frozen")


def test_the_notebooks_own_systems_have_its_figures_beside_them() -> None:
    spread = Spread.of([0.79, 0.81])
    system = featcache.SystemResult(
        name="vgg16",
        backbone="vgg16",
        bn="frozen",
        test_acc=spread,
        test_loss=spread,
        published_acc=0.8031,
        published_loss=1.1668,
        acc_interval=Interval(0.78, 0.82),
        loss_interval=Interval(0.78, 0.82),
        acc_within=True,
        loss_within=False,
        extract_s=None,
        train_s=3.21,
        end_to_end_s=None,
        runs=(),
    )

    assert markdown_table([system]).splitlines()[2] == (
        "| vgg16 | vgg16 | frozen | 0.8000 ± 0.0141 (2) | 0.8031 | yes (0.7800 to 0.8200) "
        "| 0.8000 ± 0.0141 (2) | 1.1668 | no (0.7800 to 0.8200) | - | 3.2 | - |"
    )


def test_a_notebooks_figure_is_within_what_the_seeds_let_expect_or_not() -> None:
    # The three scratch-mlp losses of docs/results.md, and the interval computed there by hand.
    seeds = Spread.of([1.4028, 1.4087, 1.4098])

    interval, is_within = beside(seeds, 1.3992, LOSSES)

    assert interval is not None
    assert str(interval) == "1.3884 to 1.4258"
    assert is_within is True
    assert beside(seeds, 1.38, LOSSES) == (interval, False)
    assert beside(seeds, None, LOSSES) == (interval, None)
    assert beside(Spread.of([1.4028]), 1.4028, LOSSES) == (None, None)
    assert beside(None, 1.4028, LOSSES) == (None, None)


def test_json_holds_the_interval_of_the_seeds(run: Run) -> None:
    result = run("reproduce", *SMALL, "--only", "vgg16", "--seeds", "2", "--json")
    one = run("reproduce", *SMALL, "--only", "vgg16", "--json")

    [system] = json.loads(result.stdout)["systems"]
    for name in ("acc", "loss"):
        spread, interval = system[f"test_{name}"], system[f"{name}_interval"]
        reach = 12.7062 * spread["sd"] * 1.5**0.5
        # It ends where no figure can be.
        expected = (max(0.0, spread["mean"] - reach), spread["mean"] + reach)
        assert (interval["low"], interval["high"]) == pytest.approx(expected, rel=1e-4)
        assert system[f"{name}_within"] is None  # other images than the notebook's
    [system] = json.loads(one.stdout)["systems"]
    assert (system["acc_interval"], system["acc_within"]) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "vgg19"], "--only is 'vgg19', but must be one of scratch-mlp"),
        (["--backbone-for", "vgg16"], "must be like vgg16=mobilenet_v2"),
        (["--backbone-for", "resnet50=vgg16"], "Unknown backbone of the notebook 'resnet50'"),
        (["--backbone-for", "vgg16=resnet5"], "Did you mean 'resnet50'"),
    ],
)
def test_unknown_names_are_told(run: Run, arguments: list[str], text: str) -> None:
    result = run("reproduce", *arguments)

    assert result.exit_code == 2
    assert text in result.stderr
