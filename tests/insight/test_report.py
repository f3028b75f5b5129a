"""A report: one page about heads, whatever their runs and caches are like."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcache
from featcache.config import EvaluateSpec
from featcache.core.side_files import report_path
from featcache.errors import CacheMissingError, MismatchError, UsageError
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
from featcache.insight.report.judged_run import judged
from featcache.insight.report.nearest_images import nearest_images
from featcache.insight.report.report import ReportResult
from featcache.insight.report.systems import compared, systems_of
from featcache.training.train_result import TrainResult
from tests.feature_caches import CLASS_NAMES, MakeCache, Rows, learnable_rows
from tests.insight.pages import read

Train = Callable[..., TrainResult]
Report = Callable[..., ReportResult]
SECTIONS = [
    *("systems", "cost", "curves", "classes", "reliability", "map", "mistakes", "provenance"),
]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """`featcache.report` into the test's folder, with few draws."""

    def run(*runs: Any, **options: Any) -> ReportResult:
        options = {"draws": 20, "out": tmp_path / "report.html", **options}
        place = {"cache_dir": tmp_path / "cache", "runs_dir": tmp_path / "runs"}
        return featcache.report([*runs] or None, **place, **options)

    return run


def anchors(page: Path) -> list[str]:
    """The sections of a page, in order."""
    tags = read(page.read_text()).tags
    return [str(attributes["id"]) for tag, attributes in tags if tag == "section"]


def body(page: Path) -> str:
    """A page without its last line, which holds the day."""
    return page.read_text().partition("<footer>")[0]


def words(page: Path) -> str:
    """What a page says, without its markup."""
    without = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without))


def test_a_page_tells_all_of_two_systems_in_order(train: Train, report: Report) -> None:
    runs = [*train(seeds=2).runs, *train(reg="l2").runs]

    found = report(*(run.path for run in runs))

    said = words(found.path)
    assert anchors(found.path) == SECTIONS
    assert found.systems == ("toy-none", "toy-l2")
    assert found.best in found.systems
    assert f"{found.best} names " in said
    assert "the most of 2 systems" in said
    assert found.n_runs == 3
    assert found.nbytes == found.path.stat().st_size < 100_000
    for run in runs:
        assert str(run.path) in said
    mean = np.mean([run.test_acc for run in runs[:2]])
    assert f" {mean:.4f} " in said


def test_the_figures_are_those_that_eval_left(train: Train, report: Report) -> None:
    run = train().path
    evaluation = featcache.evaluate(run, draws=50)
    notes: list[str] = []

    found = report(run, on_note=notes.append)

    assert not [note for note in notes if note.startswith("evaluating")]
    estimates = (evaluation.acc, evaluation.macro_f1)
    assert all(f" {one.value:.4f} " in words(found.path) for one in estimates)
    assert f"{evaluation.acc.low:.4f} to {evaluation.acc.high:.4f}" in words(found.path)


@pytest.mark.parametrize("harm", ["older", "cut", "other answers", "no json", "no class"])
def test_an_evaluation_that_is_not_of_the_head_is_made_again(
    train: Train, report: Report, harm: str
) -> None:
    run = train().path
    featcache.evaluate(run)
    figures, table = run / "eval-test.json", run / "predictions-test.csv"
    lines = table.read_text().splitlines()
    if harm == "older":
        os.utime(figures, ns=(1, 1))
    elif harm == "cut":
        table.write_text("\n".join(lines[:-1]))
    elif harm == "other answers":
        turned = [line.replace(",ant,ant,", ",ant,bee,") for line in lines]
        table.write_text("\n".join(turned))
    elif harm == "no json":
        figures.write_text("[" * 10_000)
    else:
        table.write_text("\n".join(line.replace(",bee,", ",wasp,") for line in lines))
    notes: list[str] = []

    report(run, on_note=notes.append)

    assert [note for note in notes if note.startswith("evaluating")] == [f"evaluating {run}"]


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


def test_a_head_below_the_neighbours_is_marked(train: Train, report: Report) -> None:
    good, bad = train(max_epochs=20), train(max_epochs=1, lr=1e-6)

    page = report(good.path, bad.path).path.read_text()

    rows = re.findall(r"<tr><th scope=\"row\">toy-none.*?</tr>", page)
    marked = ['class="mark">below ' in row for row in rows[:2]]
    assert marked == [False, True]
    assert "not above class means" in rows[0]  # 60 images do not tell them apart


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


def system_of(*runs: Path, tmp_path: Path) -> Any:
    known = [
        judged(
            run,
            split=None,
            figures=EvaluateSpec(draws=30),
            device="cpu",
            cache_dir=str(tmp_path / "cache"),
            on_note=print,
            sound=[],
        )
        for run in runs
    ]
    return systems_of(known)


def test_two_heads_are_compared_as_eval_compares_them(train: Train, tmp_path: Path) -> None:
    runs = [train(max_epochs=1).path, train(reg="l2").path]
    first, second = system_of(*runs, tmp_path=tmp_path)

    found = compared(first, second, draws=200, seed=5)

    expected = featcache.compare(*runs, draws=200, seed=5, cache_dir=tmp_path / "cache")
    assert found is not None
    assert found.p_value == expected.p_value
    assert found.difference.value == pytest.approx(expected.acc_difference.value)
    assert found.difference.low == pytest.approx(expected.acc_difference.low)
    assert found.difference.high == pytest.approx(expected.acc_difference.high)


def test_seeds_are_one_system_with_a_mean(train: Train, tmp_path: Path) -> None:
    runs = train(seeds=3).runs

    [system] = system_of(*(run.path for run in runs), tmp_path=tmp_path)

    accs = [run.test_acc for run in runs]
    assert system.acc.value == pytest.approx(np.mean(accs))
    assert system.acc.low < system.acc.value < system.acc.high
    assert compared(system, system, draws=10, seed=0).p_value is None
    assert compared(system, system, draws=10, seed=0).difference.value == 0


def test_systems_are_called_by_what_they_differ_in(train: Train, tmp_path: Path) -> None:
    runs = [
        train().path,
        train(lr=1e-3).path,
        train(hidden=()).path,
        train(reg="l2").path,
        featcache.train_head(train().cache, solver="ncm", runs_dir=tmp_path / "runs").path,
    ]

    names = [system.name for system in system_of(*runs, tmp_path=tmp_path)]

    assert names == [
        "toy-none, hidden 8, lr 0.01",
        "toy-none, hidden 8, lr 0.001",
        "toy-none, hidden none, lr 0.01",
        "toy-l2",
        "toy-ncm",
    ]


HOSTILE = ("<script>alert(1)</script>", "\u202eevil\x1b[31m", "\udcff&\"'")


def test_hostile_names_are_text(make_cache: MakeCache, report: Report, tmp_path: Path) -> None:
    def hostile(n: int, seed: int) -> Rows:
        rows = learnable_rows(n, seed=seed)
        return Rows(rows.features, rows.labels, [f"{i}{HOSTILE[i % 3]}" for i in range(n)], {})

    splits = {"train": hostile(200, 1), "test": hostile(60, 2)}
    path = make_cache("cache/folder-toys/toy-11111111.h5", splits=splits, class_names=HOSTILE)
    run = featcache.train_head(path, hidden=(4,), max_epochs=2, runs_dir=tmp_path / "runs")

    page = report(run.path).path.read_text(encoding="utf-8")

    assert not [tag for tag, _ in read(page).tags if tag == "script"]
    assert all(c.isprintable() or c == "\n" for c in page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert r"\u202eevil\x1b[31m" in page
    assert read(page).wrong == read(page).open == []


def test_without_paths_no_folder_is_told(train: Train, report: Report, tmp_path: Path) -> None:
    run, gone = train().path, train(reg="l2").path
    (gone / "result.json").unlink()  # as of one that was stopped: its problem is told
    shutil.copytree(run, tmp_path / "elsewhere" / "secret-run")

    page = report(run, gone, paths=False).path.read_text()

    assert str(tmp_path) not in page
    assert tmp_path.name not in page
    assert run.name in page
    assert "--no-paths" in page
    assert str(tmp_path) in report(run, gone).path.read_text()


class TestWhatARunLacks:
    def test_neighbours_have_no_curves_but_all_else(
        self, cache: featcache.Cache, report: Report, tmp_path: Path
    ) -> None:
        run = featcache.train_head(cache, solver="knn", runs_dir=tmp_path / "runs").path

        found = report(run)

        assert anchors(found.path) == SECTIONS
        assert "found without epochs (solver knn)" in words(found.path)

    def test_without_test_images_the_validation_is_shown(
        self, make_cache: MakeCache, report: Report, tmp_path: Path
    ) -> None:
        path = make_cache(splits={"train": learnable_rows(200, seed=1)})
        run = featcache.train_head(path, hidden=(4,), max_epochs=2, runs_dir=tmp_path / "runs")

        said = words(report(run.path).path)

        assert "val images" in said
        assert "val_acc" in said

    def test_a_head_that_cannot_be_evaluated_still_has_a_page(
        self, make_cache: MakeCache, report: Report, tmp_path: Path
    ) -> None:
        path = make_cache(splits={"train": learnable_rows(200, seed=1)})
        run = featcache.train_head(path, solver="logreg", C=1.0, runs_dir=tmp_path / "runs")

        found = report(run.path)

        assert found.best == ""
        assert "No answer of 1 head" in words(found.path)
        assert "was fitted to its validation rows too" in words(found.path)
        assert "provenance" in anchors(found.path)

    def test_a_cache_that_is_gone_leaves_figures_and_provenance(
        self, train: Train, report: Report, cache: featcache.Cache
    ) -> None:
        run = train().path
        featcache.evaluate(run)
        cache.path.unlink()

        found = report(run)

        said = words(found.path)
        assert anchors(found.path) == [one for one in SECTIONS if one != "map"]
        assert "The cache is gone" in said
        assert cache.fingerprint in said

    def test_a_cache_that_is_gone_and_no_evaluation_is_told(
        self, train: Train, report: Report, cache: featcache.Cache
    ) -> None:
        run = train().path
        cache.path.unlink()

        assert "Say where it is with --cache, or extract it again." in words(report(run).path)

    def test_images_that_are_gone_are_told(self, train: Train, report: Report) -> None:
        said = words(report(train(max_epochs=1).path).path)

        assert "There are no pictures: The images of folder:toys are no longer there." in said
        assert " taken for " in said

    def test_imported_features_have_no_pictures(self, report: Report, tmp_path: Path) -> None:
        rows, test = learnable_rows(120, seed=1), learnable_rows(60, seed=2)
        np.savez(
            tmp_path / "toys.npz",
            x=np.concatenate([rows.features, test.features]),
            y=np.concatenate([rows.labels, test.labels]),
            split=np.array(["train"] * 120 + ["test"] * 60),
        )
        found = featcache.import_features(
            tmp_path / "toys.npz",
            features="x",
            labels="y",
            split="split",
            class_names=CLASS_NAMES,
            cache_dir=tmp_path / "cache",
        )
        run = featcache.train_head(found.path, solver="ncm", runs_dir=tmp_path / "runs").path

        said = words(report(run).path)

        assert "was imported as features, so it has no images" in said
        assert "featcache cache import" in said

    def test_a_stopped_run_says_so(self, train: Train, report: Report) -> None:
        run = train().path
        (run / "result.json").unlink()

        said = words(report(run).path)

        assert "its training was stopped and is not finished" in said


def test_pictures_stand_beside_those_of_the_nearest_image(report: Report, tmp_path: Path) -> None:
    cache = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=300, cache_dir=tmp_path / "cache"
    ).path
    run = featcache.train_head(cache, hidden=(8,), max_epochs=1, runs_dir=tmp_path / "runs").path

    page = report(run).path.read_text()

    images = [attributes for tag, attributes in read(page).tags if tag == "img"]
    assert len(images) == 24
    assert all(str(one["src"]).startswith("data:image/png;base64,") for one in images)
    assert all(one["alt"] for one in images)


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
    images = [AuditedImage("test", i, f"{i}<b>", "ant") for i in range(4)]
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

    assert CacheFacts.of(cache).audit == found
    assert "1 exact and 1 near duplicates; images that are in &#x27;train&#x27; too: 1 of" in said
    assert "their labels differ" in said
    assert "0.7900 of the 59 that are not in its training images too" in said
    assert "ant 1.0%, or cow 97.0%?" in re.sub(r" +([,?])", r"\1", said)
    assert "broken" in said
    assert "<b>" not in report(run).path.read_text()


def test_runs_that_were_not_chosen_are_shown_untested(train: Train, report: Report) -> None:
    chosen, other = train().path, train(reg="l2").path

    found = report(chosen, beside=[other])

    assert not list(other.glob("eval-*"))
    assert found.best == "toy-none"
    assert "it was not tested, as another setting was chosen" in words(found.path)


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


class TestWhereThePageGoes:
    def test_a_page_that_is_there_is_replaced(self, train: Train, report: Report) -> None:
        run = train().path
        first = body(report(run).path)

        assert body(report(run).path) == first

    def test_nothing_else_is_replaced(self, train: Train, report: Report, tmp_path: Path) -> None:
        mine = tmp_path / "thesis.html"
        mine.write_text("<html>my thesis</html>")

        with pytest.raises(UsageError, match=r"exists, and is no page that featcache wrote"):
            report(train().path, out=mine)

        assert mine.read_text() == "<html>my thesis</html>"

    def test_what_is_no_name_of_a_page_is_refused_before_the_work(
        self, train: Train, report: Report, tmp_path: Path
    ) -> None:
        run = train().path

        with pytest.raises(UsageError, match=r"must end in \.html"):
            report(run, out=tmp_path / "report.docx")

        assert not list(run.glob("eval-*"))

    def test_without_a_browser_a_pdf_is_refused_before_the_work(
        self, train: Train, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        run = train().path

        with pytest.raises(UsageError, match=r"on Debian: apt install chromium"):
            report(run, pdf=True)

        assert not list(run.glob("eval-*"))


def test_no_run_is_a_plain_message(report: Report) -> None:
    with pytest.raises(CacheMissingError, match="There is no finished run in"):
        report()
    with pytest.raises(UsageError, match="No run was given"):
        featcache.report([])


def test_heads_of_two_datasets_are_refused(
    train: Train, report: Report, make_cache: MakeCache, tmp_path: Path
) -> None:
    other = make_cache("cache/folder-x/toy-2.h5", class_names=("dog", "cat", "cow"))
    second = featcache.train_head(other, solver="ncm", runs_dir=tmp_path / "runs").path

    with pytest.raises(MismatchError, match="A report is of one dataset"):
        report(train().path, second)


def test_folders_of_the_same_classes_are_two_datasets(
    train: Train, report: Report, make_cache: MakeCache, tmp_path: Path
) -> None:
    identity = {"backbone": "toy", "bn": "frozen", "dataset_sha256": "1" * 64}
    other = make_cache("cache/folder-x/toy-2.h5", identity=identity)
    second = featcache.train_head(other, solver="ncm", runs_dir=tmp_path / "runs").path

    with pytest.raises(MismatchError, match="and their images differ"):
        report(train().path, second)


@pytest.mark.parametrize("split", ["val", "train"])
def test_figures_of_other_images_do_not_stand_beside_each_other(
    train: Train, report: Report, split: str
) -> None:
    said = words(report(train(max_epochs=1).path, split=split).path)

    assert "class means" not in said
    assert f"{split}_acc" in said
    assert ("cosine" in said) == (split == "val")  # a training image is nearest to itself


def test_without_paths_the_place_of_lost_images_is_not_told(train: Train, report: Report) -> None:
    said = words(report(train(max_epochs=1).path, paths=False).path)

    assert "no pictures: the images are no longer where they were." in said
    assert "folder:toys are no longer" not in said


def test_a_pdf_of_somebody_else_is_not_replaced(
    train: Train, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(max_epochs=1).path
    report(run)
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(browser.parent))
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4 my thesis")

    with pytest.raises(UsageError, match="is no PDF that featcache wrote"):
        report(run, pdf=True)

    assert (tmp_path / "report.pdf").read_bytes() == b"%PDF-1.4 my thesis"


def test_a_hundred_classes_fit_into_a_page(
    make_cache: MakeCache, report: Report, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(1000, dtype=np.int64) % 100
    centres = rng.standard_normal((100, 12))

    def rows(n: int) -> Rows:
        features = centres[labels[:n]] + 0.5 * rng.standard_normal((n, 12))
        return Rows(features.astype("<f4"), labels[:n], [f"{i}" for i in range(n)], {})

    names = tuple(f"class {k:02d}" for k in range(100))
    path = make_cache(
        "cache/folder-toys/many-00000000.h5",
        splits={"train": rows(1000), "test": rows(500)},
        class_names=names,
    )
    run = featcache.train_head(path, solver="ncm", runs_dir=tmp_path / "runs").path

    found = report(run)

    said = words(found.path)
    assert found.nbytes < 300_000
    assert "of the 20 classes with the lowest, of 100" in said
    assert "Coloured are the 8 classes with the lowest recall" in said
    assert "92 other classes" in said


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
