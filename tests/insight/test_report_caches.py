"""What a report tells of caches: computed once and kept; and the commands that find all again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.core.side_files import report_path
from featcache.insight.audit.result import (
    AuditedImage,
    AuditResult,
    ClassCount,
    DuplicatePair,
    LabelIssue,
    Outlier,
    OutOfFold,
    UnreadableImage,
)
from featcache.insight.audit.result import (
    TestedWithout as WithoutSeen,  # by its own name pytest takes it for tests
)
from featcache.insight.report.cache_facts import CacheFacts
from featcache.insight.report.feature_map import principal_plane
from featcache.insight.report.material import Naming
from featcache.insight.report.nearest_images import nearest_images
from tests.feature_caches import CLASS_NAMES, MakeCache, learnable_rows
from tests.insight.reports import SECTIONS, Report, Train, anchors, body, words


def test_what_a_cache_says_is_computed_once(
    train: Train, report: Report, cache: featcache.Cache
) -> None:
    run = train().path
    first = report(run)
    kept = report_path(cache.path)
    written = kept.stat().st_mtime_ns
    page = body(first.path)
    notes: list[str] = []

    report(run, on_note=notes.append)

    assert kept.stat().st_mtime_ns == written
    assert not [note for note in notes if "computed once" in note]
    assert body(first.path) == page


@pytest.mark.parametrize("harm", ["{", '{"format": 1}', "other cache", "row", "text"])
def test_what_was_kept_of_a_cache_is_not_trusted(
    train: Train, report: Report, cache: featcache.Cache, harm: str
) -> None:
    run = train().path
    page = body(report(run).path)
    kept = report_path(cache.path)
    said = json.loads(kept.read_text())
    if harm == "other cache":
        said["fingerprint"] = "0" * 64
        said["map"]["shares"] = [0.123, 0.1]
    elif harm == "row":
        said["map"]["rows"][0] = 10**6
    elif harm == "text":
        said["simple"]["each"][0]["acc"] = "high"
    kept.write_text(harm if harm.startswith("{") else json.dumps(said))

    assert body(report(run).path) == page


def test_what_was_kept_goes_with_its_cache(
    train: Train, report: Report, cache: featcache.Cache
) -> None:
    report(train().path)
    kept = report_path(cache.path)
    assert kept.exists()

    featcache.remove_cache(cache.path)

    assert not kept.exists()


def test_the_simplest_classifiers_are_those_of_probe(
    train: Train, report: Report, cache: featcache.Cache
) -> None:
    report(train().path, draws=1000)

    facts = CacheFacts.of(cache).simple
    [probed] = featcache.probe(cache).caches
    expected = {one.solver: one.acc for one in probed.classifiers if one.solver != "logreg"}
    assert facts is not None
    assert {one.solver: one.estimate for one in facts.each} == expected
    assert (facts.split, facts.n_fitted, facts.n_train, facts.n_test) == ("test", 158, 158, 60)


@pytest.mark.parametrize("shape", [(7, 40), (40, 7), (1, 5), (5, 1), (3, 2)])
def test_the_map_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(3))

    points, shares = principal_plane(features)

    centred = (features - features.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    k = min(2, *shape)
    torch.testing.assert_close(points[:, :k].abs(), (u * s)[:, :k].abs(), atol=1e-3, rtol=1e-3)
    total = float(s.square().sum()) or 1.0
    assert shares[:k] == pytest.approx((s[:k].square() / total).tolist(), abs=1e-5)
    assert points.shape == (shape[0], 2)


def test_the_nearest_training_image_of_a_copy_is_its_original(
    make_cache: MakeCache, train: Train
) -> None:
    rows, test = learnable_rows(200, seed=1), learnable_rows(60, seed=2)
    test.features[7] = 2 * rows.features[11]
    cache = featcache.open_cache(
        make_cache("cache/folder-toys/copy-00000000.h5", splits={"train": rows, "test": test})
    )
    head = featcache.load_head(
        featcache.train_head(cache, solver="ncm", runs_dir=cache.path.parents[2] / "runs").path
    )
    facts = CacheFacts.of(cache)

    found = nearest_images(facts, head, "test", [3, 7], device="cpu")

    again = CacheFacts.of(cache)
    assert again.nearest == {}
    facts.keep(print)
    assert CacheFacts.of(cache).nearest == facts.nearest
    is_training = int(rows.labels[11]) >= 0 and found[1].row == 11
    assert (found[1].split, found[1].cosine) == ("train", 1.0) if is_training else True
    assert found[1].cosine >= found[0].cosine


@pytest.mark.parametrize(
    ("paths", "image_id", "called"),
    [
        (True, "train/cat/1.png", "train/cat/1.png"),
        (True, "trains/1.png", "train trains/1.png"),
        (True, "7", "train 7"),
        (False, "train/cat/1.png", "train, row 7"),
    ],
)
def test_an_image_is_called_by_its_split_once(paths: bool, image_id: str, called: str) -> None:
    assert Naming(paths).image("train", 7, image_id) == called


def test_an_audit_is_shown_with_pictures_and_kept_for_later_reports(
    report: Report, tmp_path: Path
) -> None:
    cache = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=100, cache_dir=tmp_path / "cache"
    ).path
    run = featcache.train_head(cache, solver="ncm", runs_dir=tmp_path / "runs").path
    assert "audit" not in anchors(report(run).path)

    first = body(report(run, audit=True).path)
    notes: list[str] = []
    again = report(run, on_note=notes.append)

    assert body(again.path) == first
    assert not [note for note in notes if "auditing" in note]
    assert anchors(again.path) == [*SECTIONS[:-1], "audit", "provenance"]
    said = words(again.path)
    assert "Doubtful labels" in said
    assert "Outliers" in said
    audited = first.partition('id="audit"')[2]
    assert audited.count("<img ") >= 24
    assert CacheFacts.of(featcache.open_cache(cache)).audit is not None


def test_all_that_an_audit_can_find_is_kept_and_shown(
    train: Train, report: Report, cache: featcache.Cache
) -> None:
    run = train(max_epochs=1).path
    ids = [cache["test"].ids[0], "1<b>", "2<b>", "3<b>"]
    images = [AuditedImage("test", i, ids[i], "ant") for i in range(4)]
    found = AuditResult(
        cache=cache.path,
        dataset="folder:toys",
        n_images={"train": 198, "test": 60},
        duplicates=(
            DuplicatePair(AuditedImage("train", 3, "3", "bee"), images[0], "exact", None, 1.0, 0.0),
            DuplicatePair(images[1], images[2], "near", 0.98, 0.99, 2.5),
        ),
        near_decided_by="images",
        in_train={"test": 1},
        tested=WithoutSeen(run, 0.8, 60, 0.79, 59),
        label_issues=(LabelIssue(images[3], "cow", 0.01, 0.97),),
        out_of_fold=OutOfFold("logreg", 5, 258, 20, 0.92),
        outliers=(Outlier(images[0], 0.1, 6.5),),
        balance=tuple(ClassCount(name, {"train": 66, "test": 20}) for name in CLASS_NAMES),
        unreadable=(UnreadableImage(AuditedImage("train", 5, "5", "cow"), "broken"),),
        remarks=("1 of 60 images of 'test' is in 'train' too.",),
        seconds=1.0,
    )
    facts = CacheFacts.of(cache)
    facts.audit = found
    facts.about_to_compute()
    facts.keep(print)

    said = words(report(run).path)

    assert CacheFacts.of(cache).audit == replace(found, tested=None)  # a head is of its time
    assert "1 exact and 1 near duplicates; images that are in &#x27;train&#x27; too: 1 of" in said
    assert "their labels differ" in said
    table = (run / "predictions-test.csv").read_text().splitlines()[2:]  # without the first image
    right = np.mean([line.split(",")[1] == line.split(",")[2] for line in table])
    assert f"{right:.4f} of the 59 that are not in" in said
    assert "ant 1.0%, or cow 97.0%?" in re.sub(r" +([,?])", r"\1", said)
    assert "broken" in said
    assert "<b>" not in report(run).path.read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 2},
        {"reg": "dropout", "dropout": (0.25,), "select": "best", "patience": 2},
        {"reg": "l1l2", "l1": 1.5e-5, "weight_decay": 1e-4, "batch_size": 20},
        {"hidden": (), "features": "l2", "class_weight": "balanced", "label_smoothing": 0.1},
        {"seed": 3, "order_seed": 1, "val_fraction": 0.3, "split_seed": 7},
    ],
)
def test_the_commands_of_a_page_find_its_runs(
    train: Train,
    report: Report,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = train(**options).runs

    page = report(*(run.path for run in runs)).path

    reused = [line for command in commands_in(page) for line in outcomes(command)]
    assert reused == ["reused"] * len(runs)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "knn", "k": (3, 5), "temperature": 0.1},
        {"solver": "logreg", "C": (0.1, 1.0), "refit": False},
        {"solver": "lda"},
        {"solver": "ridge", "features": "l2"},
    ],
)
def test_the_commands_of_a_solver_find_its_run(
    cache: featcache.Cache,
    report: Report,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = featcache.train_head(cache, runs_dir=tmp_path / "runs", **options).path

    page = report(run).path

    assert [o for command in commands_in(page) for o in outcomes(command)] == ["reused"]


def commands_in(page: Path) -> list[list[str]]:
    """The commands of a page that train heads."""
    [block] = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page.read_text(), re.DOTALL)
    lines = [shlex.split(line) for line in block.replace("&#x27;", "'").splitlines()]
    return [line[1:] for line in lines if line[1] == "train-head"]


def outcomes(command: list[str]) -> list[str]:
    from typer.testing import CliRunner

    from featcache_cli.app import app

    answer = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    return [run["outcome"] for run in answer["runs"]]


def test_caches_of_several_backbones_have_a_map_each(
    train: Train, report: Report, make_cache: MakeCache, tmp_path: Path
) -> None:
    second = make_cache(
        "cache/folder-toys/twin-33333333.h5",
        identity={"backbone": "twin", "bn": "frozen", "dataset_sha256": "0" * 64},
    )
    other = featcache.train_head(second, solver="ncm", runs_dir=tmp_path / "runs").path

    found = report(train().path, other)

    page = found.path.read_text()
    assert page.count("of the variance is seen") == 2
    assert found.systems == ("toy-none", "twin-ncm")
    assert "nearest neighbours, k 10 on twin" in words(found.path) or "on twin-33333333" in page
