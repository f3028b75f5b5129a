"""What a notebook shows: a bar while a call runs, and results as tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import featcache
from featcache.core.html_table import html_facts, html_table
from featcache.errors import UsageError
from tests.feature_caches import MakeCache

HOSTILE = "<script>alert('1')</script>\x1b[31m"
ESCAPED = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;\\x1b[31m"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "jupyter.md"
MORE_CELLS = (
    """
result = featcache.sweep(
    cache=cache.path, hidden=[()], lr=(1e-3, 1e-2), max_epochs=1,
    on_progress=featcache.JupyterProgress(),
)
report = featcache.verify_cache(cache.path, on_progress=featcache.JupyterProgress())
""",
    "cache",
    "featcache.evaluate(run.path)",
    "result",
)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What runs the cells of a notebook, with what it displays."""
    pytest.importorskip("IPython", reason="ipython is not installed; `dev` has it")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(
        config=config, display_pub_class=CapturingDisplayPublisher, colors="nocolor"
    )
    shell.kernel = object()  # as ipykernel's has one
    yield shell
    InteractiveShell.clear_instance()


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec")  # Lightning 2.6.6 on torch 2.14
def test_cells_of_a_notebook_show_bars_and_tables(shell: Any) -> None:
    cells = [*re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL), *MORE_CELLS]
    shown = []
    for cell in cells:
        done = shell.run_cell(cell)
        done.raise_error()
        shown.append(shell.display_formatter.format(done.result)[0].get("text/html"))

    bars = [said["data"]["text/html"] for said in shell.display_pub.outputs]
    assert any("</progress> 1437 of 1437 extract, train" in bar for bar in bars)
    assert any("epoch 2/2" in bar for bar in bars)
    assert len({said["transient"]["display_id"] for said in shell.display_pub.outputs}) == 4
    *_, cache, evaluation, sweep = shown
    assert "<td>train</td><td>1437</td><td>0</td>" in cache
    assert "<th>test_acc</th><td>0." in evaluation
    assert sweep.count("--reg none") == 2


def test_in_a_terminal_ipython_there_is_no_bar(shell: Any) -> None:
    shell.kernel = None

    with pytest.raises(UsageError, match="shows a bar in a Jupyter notebook, and this is none"):
        featcache.JupyterProgress()


def test_without_a_notebook_there_is_no_bar() -> None:
    with pytest.raises(UsageError, match="shows a bar in a Jupyter notebook, and this is none"):
        featcache.JupyterProgress()


def test_what_comes_from_outside_is_escaped() -> None:
    table = html_table([HOSTILE], [[HOSTILE, None]], caption=HOSTILE)
    facts = html_facts({HOSTILE: HOSTILE, "left out": None}, caption=HOSTILE)

    assert table.count(ESCAPED) == facts.count(ESCAPED) == 3
    assert "<script" not in table + facts
    assert "left out" not in facts


def test_a_cache_is_shown_with_the_names_that_it_was_given(make_cache: MakeCache) -> None:
    path = make_cache(provenance={"dataset": f"folder:{HOSTILE}", "weights": "w"})

    shown = featcache.open_cache(path)._repr_html_()

    assert f"folder:{ESCAPED}" in shown
    assert "<td>train</td><td>200</td><td>2</td>" in shown
    assert "<script" not in shown


def test_an_evaluation_is_shown_with_its_classes(
    train: Callable[..., Any],
) -> None:
    run = train().path

    shown = featcache.evaluate(run)._repr_html_()

    assert "<th>test_acc</th>" in shown
    assert [name in shown for name in ("ant", "bee", "cow")] == [True] * 3
