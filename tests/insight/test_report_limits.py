"""Reports of runs that lack something, with hostile names, without paths, where they may not go."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import featcache
from featcache.errors import CacheMissingError, MismatchError, UsageError
from tests.feature_caches import CLASS_NAMES, MakeCache, Rows, learnable_rows
from tests.insight.pages import read
from tests.insight.reports import SECTIONS, Report, Train, anchors, body, words

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
        notes: list[str] = []

        found = report(run, on_note=notes.append)

        assert [note for note in notes if "its intervals stay as eval drew them" in note]
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


def test_runs_that_were_not_chosen_are_shown_untested(train: Train, report: Report) -> None:
    chosen, other = train().path, train(reg="l2").path

    found = report(chosen, beside=[other])

    assert not list(other.glob("eval-*"))
    assert found.best == "toy-none"
    assert "it was not tested, as another setting was chosen" in words(found.path)


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
