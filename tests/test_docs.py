"""The examples in the documentation run, and the lists in it are true."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import featcache
from tests.deployment.heads import save_random_head

ROOT = Path(__file__).parents[1]


def python_block(document: str) -> str:
    """The first Python block of a document."""
    match = re.search(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert match is not None
    return match[1]


def test_the_example_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    exec(compile(python_block("README.md"), "README.md", "exec"), {})

    accuracy, *lines = capsys.readouterr().out.splitlines()
    assert accuracy.startswith("Estimate(value=0.")
    assert lines == ["(1437, 8, 8, 3) [0 1 2 3 4] ('0', '1', '2')", "(1437, 8, 8, 3) True"]


def test_the_example_with_images_from_python_runs(tmp_path: Path) -> None:
    guide = "docs/guides/your-own-images.md"
    names = {"tmp": tmp_path}

    exec(compile(python_block(guide), guide, "exec"), names)

    assert names["result"].n_rows == 6


def test_the_example_of_the_format_runs_without_featcache(tmp_path: Path) -> None:
    path = featcache.extract("digits", backbone="pixels", limit=20, cache_dir=tmp_path).path
    code = python_block("docs/format.md")
    assert "featcache" not in code

    seen: dict[str, object] = {"path": path}
    exec(compile(code, "docs/format.md", "exec"), seen)

    assert list(seen["ids"][:2]) == ["0", "71"]  # type: ignore[index]
    assert seen["first"].shape == (8, 8, 3)  # type: ignore[attr-defined]
    assert str(seen["manifest"]).startswith('b\'{"class_names":')


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")  # Lightning 2.6.6 on torch 2.14
def test_the_examples_of_the_guide_to_heads_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guides" / "heads.md").read_text()
    weights, lightning = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    cache = featcache.extract(
        "digits", backbone="mobilenet_v3_small", weights="random", image_size=32, limit=100
    )
    run = featcache.train_head(cache.path, max_epochs=1).path
    seen: dict[str, object] = {"path": run / "head.safetensors", "cache_path": cache.path}

    exec(compile(weights.replace("25088", "576"), "heads.md", "exec"), seen)
    exec(compile(lightning, "heads.md", "exec"), seen)

    assert len(seen["module"].history) == 2  # type: ignore[attr-defined]


def folder_with_damage() -> str:
    """Make a folder of dark and light images: one of each split is damaged, one misplaced."""
    for split in ("train", "test"):
        for name, grey in (("dark", 20), ("light", 220)):
            folder = Path("pets") / split / name
            folder.mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (8, 8), (grey + i, grey, grey)).save(folder / f"{i}.png")
        Path("pets", split, "dark", "4.png").write_bytes(b"damaged")
    Image.new("RGB", (8, 8), (220, 220, 220)).save("pets/test/dark/9.png")
    return "folder:pets"


def test_the_example_of_the_guide_to_probe_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        featcache.extract(
            "digits", backbone="pixels", image_size=side, limit=100, cache_dir=tmp_path
        ).path
        for side in (8, 16)
    )

    code = compile(python_block("docs/guides/probe.md"), "probe.md", "exec")
    exec(code, {"first": first, "second": second})

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["majority", "ncm", "knn", "logreg"]
    assert all("Estimate(value=0.0, low=0.0, high=0.0)" in line for line in lines)


def test_the_example_of_the_guide_to_similar_images_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = featcache.extract(
        "digits", backbone="pixels", image_size=8, limit=200, cache_dir=tmp_path
    ).path

    code = compile(python_block("docs/guides/similar.md"), "similar.md", "exec")
    exec(code, {"path": path})

    labels = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert labels == ["0", "0", "0"]


def test_the_example_of_the_guide_to_reports_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = featcache.extract("digits", backbone="pixels", image_size=8, limit=100).path
    run = featcache.train_head(cache, solver="ncm").path

    exec(
        compile(python_block("docs/guides/report.md"), "report.md", "exec"),
        {**globals(), "run": run},
    )

    assert capsys.readouterr().out == "('pixels-ncm',) 1 True\n"


def test_the_example_of_the_guide_to_audit_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = featcache.extract(folder_with_damage(), backbone="pixels", image_size=8).path

    code = compile(python_block("docs/guides/audit.md"), "audit.md", "exec")
    exec(code, {"path": path})

    lines = capsys.readouterr().out.splitlines()
    assert "exact train/dark/0.png test/dark/0.png True" in lines
    assert any(line == "test/dark/9.png dark light" for line in lines)


def test_the_examples_of_the_guide_to_export_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guides" / "export.md").read_text()
    sklearn, pandas, polars, numpy = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    path = featcache.extract(folder_with_damage(), backbone="pixels", image_size=8).path
    for format in ("npz", "parquet"):
        featcache.export_features(path, format=format, out=f"features.{format}")
    X, y = featcache.open_cache(path)["train"].arrays()  # noqa: N806 - as in the guide

    seen: dict[str, Any] = {"path": path}
    exec(compile(sklearn, "export.md", "exec"), seen)
    assert seen["wrong"] == ["test/dark/9.png"]
    for code, package in ((pandas, "pandas"), (polars, "polars"), (numpy, "numpy")):
        compiled = compile(code, "export.md", "exec")
        if importlib.util.find_spec(package) is None:
            continue  # it compiles, and the names of its columns are those of the file:
        found: dict[str, Any] = {}
        exec(compiled, found)
        np.testing.assert_array_equal(np.reshape(found["X"], X.shape), X)
        np.testing.assert_array_equal(found["y"], y)
    named = {*re.findall(r'(?:rows|col)[\[(]"(\w+)"[\])]', pandas + polars)}
    assert named == {"valid", "split", "features", "label"}
    assert named <= {*parquet.read_schema("features.parquet").names}


def test_the_example_of_the_guide_to_deployment_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = featcache.extract("digits", backbone="pixels", image_size=8, limit=100)
    run = featcache.train_head(cache.path, hidden=(), max_epochs=1).path
    code = python_block("docs/guides/deploy.md")

    seen: dict[str, Any] = {"run": run}
    exec(compile(code, "deploy.md", "exec"), seen)

    assert capsys.readouterr().out.startswith("64 of 64 images get the same class")
    assert seen["network"](torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).shape == (2, 10)


def test_the_example_of_the_guide_to_prediction_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    image = Image.fromarray(pixels[0])
    image.save("photo.png")
    cache = featcache.extract("digits", backbone="pixels", image_size=8, limit=40).path
    run = save_random_head(cache, tmp_path / "run").path
    names = {"run": run.parent, "image": image, "pixels": pixels}

    exec(compile(python_block("docs/guides/predict.md"), "predict.md", "exec"), names)

    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("(2, 10)")
    assert second == "6 {}"


def test_the_example_of_the_guide_to_own_backbones_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    exec(compile(python_block("docs/guides/your-own-backbone.md"), "own.md", "exec"), {})

    assert capsys.readouterr().out == "192 own-means\n"


def test_the_file_map_of_the_readme_is_true() -> None:
    listed = set(re.findall(r"^  (\w+)(?:\.py|/) ", (ROOT / "README.md").read_text(), re.MULTILINE))

    there = {
        path.stem
        for path in (ROOT / "featcache").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert listed == there - {"__init__"}


def test_the_files_that_the_readme_sends_to_exist() -> None:
    sources = [
        f"/{path.relative_to(ROOT)}"
        for path in (*ROOT.glob("featcache/**/*.py"), *ROOT.glob("cli/**/*.py"))
    ]

    map_of_files = (ROOT / "README.md").read_text().partition("## Map")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`", map_of_files)
    assert named
    assert [name for name in named if not any(s.endswith(f"/{name}") for s in sources)] == []


@pytest.mark.parametrize(
    "room",
    sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("featcache/**/__init__.py")),
    ids=str,
)
def test_the_files_that_a_room_names_exist(room: Path) -> None:
    text = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) or ""

    for name in re.findall(r"`([a-z_/.]+)`", text):
        path = name.removesuffix(".py").replace(".", "/")
        places = (ROOT / room / path, ROOT / "featcache" / path)
        is_there = any(p.is_dir() or p.with_suffix(".py").is_file() for p in places)
        assert is_there or name in featcache.__all__, name


def documents() -> list[Path]:
    """Every Markdown file that a reader of the repository can open."""
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def prose(document: Path) -> str:
    """A document without its blocks of code and output."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """What may follow a # in a link to it: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())

    for link in (link for link in links if not link.startswith(("https://", "http://"))):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_outside_tables_and_code_has_more_than_100_columns(document: Path) -> None:
    lines = prose(document).splitlines()

    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_every_exit_code_is_documented() -> None:
    errors = importlib.import_module("featcache.errors")
    codes = {e.exit_code for e in vars(errors).values() if hasattr(e, "exit_code")}

    guide = (ROOT / "docs" / "guides" / "extract.md").read_text()
    documented = {
        int(n) for row in re.findall(r"^\| ([\d, ]+) \|", guide, re.M) for n in row.split(",")
    }
    assert codes <= documented


class _Finder(doctest.DocTestFinder):
    """Finds the examples of decorated functions too, whose wrappers are of other modules."""

    def _from_module(self, module: ModuleType | None, found: object) -> bool:
        own = inspect.unwrap(found) if callable(found) else found
        return super()._from_module(module, own)  # type: ignore[misc]  # it has no stub


def test_the_examples_of_decorated_functions_are_found() -> None:
    module = importlib.import_module("featcache.training.train_head")

    names = {example.name for example in _Finder().find(module) if example.examples}

    assert names == {"featcache.training.train_head.train_head"}


@pytest.mark.parametrize(
    "name", sorted(m.name for m in pkgutil.walk_packages(featcache.__path__, "featcache."))
)
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    module = importlib.import_module(name)
    runner = doctest.DocTestRunner()
    for example in _Finder().find(module, extraglobs={"tmp": tmp_path}):
        runner.run(example)

    assert runner.summarize(verbose=False).failed == 0
