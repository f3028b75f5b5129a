"""One word for one thing: a type's name tells which one it is."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import featcache

ROOT = Path(featcache.__file__).parent


def types_in(source: str) -> Iterator[str]:
    """Name the classes and type aliases of a module that others may import."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            names = (target.id for target in node.targets if isinstance(target, ast.Name))
            yield from (name for name in names if name[0].isupper() and not name.isupper())


def test_no_two_types_have_one_name() -> None:
    homes = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for name in types_in(path.read_text()):
            if not name.startswith("_") and name != "T":
                homes[name].append(str(path.relative_to(ROOT)))

    assert {"Progress", "FeatureBatch", "ImageBatch", "SplitRows"} <= set(homes)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
