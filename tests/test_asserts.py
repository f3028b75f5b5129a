"""Under `python -O` an assert is not there: none may guard a file, or what a user gives."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import featcache

_UNFINISHED = """
import sys
from pathlib import Path
import numpy as np
from featcache.errors import CorruptError
from featcache.store import CacheWriter, FilePlan, SplitPlan, SplitRows
from featcache.store import Identity, NumericClass, Provenance

if __debug__:
    sys.exit("asserts are on")
split = SplitPlan(2, (3,), "<f4", id_nbytes=1, has_reasons=False)
said = Identity({"backbone": "toy"}), NumericClass({}), Provenance({"dataset": "toys"})
plan = FilePlan(*said, ("a",), 1, {"train": split})
rows = SplitRows(np.zeros(2, np.int64), ["a", "b"])


def refused(act, *given):
    try:
        act(*given)
    except CorruptError as err:
        print(err)


path = Path("cache.h5")
long = rows._replace(ids=["a", "bb"])
refused(CacheWriter.create, path, plan, {"train": long})
refused(CacheWriter.create, path, plan, {"train": rows._replace(labels=np.zeros(1, np.int64))})
with CacheWriter.create(path, plan, {"train": rows}) as writer:
    first, second = writer.pending()
    refused(writer.write_block, first, np.zeros((1, 4), "f4"), np.ones(1, np.bool_))
    writer.write_block(first, np.zeros((1, 3), "f4"), np.ones(1, np.bool_))
    writer.commit()
    refused(writer.finish)
print(path.exists())
"""


def test_an_incomplete_file_gets_no_name_under_python_o(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", _UNFINISHED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "an id is not as it was planned: it is longer than its place. It was not written.",
        "train is not as it was planned: its labels, ids or digests of images are others. It was "
        "not written.",
        "cache.h5.partial is not as it was planned: its rows are others. It was not written.",
        "cache.h5.partial is not as it was planned: 1 blocks are not acknowledged (train rows 1 "
        "to 1, ...). It was not written.",
        "False",
    ]


def test_asserts_tell_the_type_checker_what_a_value_is_and_nothing_else() -> None:
    asserts = [
        (path.name, node)
        for path in Path(featcache.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]

    others = [f"{n}:{a.lineno}: {ast.unparse(a)}" for n, a in asserts if not _is_of_a_type(a.test)]

    assert others == []
    assert asserts


def _is_of_a_type(test: ast.expr) -> bool:
    text = ast.unparse(test)
    return text.endswith(" is not None") or text.removeprefix("not ").startswith("isinstance(")
