import ast
import importlib
from pathlib import Path

import pytest

import featcache


def names_for_type_checkers() -> dict[str, str]:
    """Read where `featcache/__init__.py` tells type checkers to find each name."""
    [block] = [
        node
        for node in ast.parse(Path(featcache.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {
        str(name.asname): f"{node.module}.{name.name}" for node in imports for name in node.names
    }


def test_type_checkers_and_the_interpreter_find_the_same_names_in_the_same_places() -> None:
    at_run_time = {
        name: f"featcache.{module}.{name}"
        for module, names in featcache._NAMES.items()
        for name in names
    }

    assert names_for_type_checkers() == at_run_time
    assert featcache.__all__ == sorted([*at_run_time, "__version__"])
    assert dir(featcache) == featcache.__all__


@pytest.mark.parametrize("name", featcache.__all__)
def test_a_public_name_is_what_its_home_calls_so(name: str) -> None:
    home = importlib.import_module(f"featcache.{featcache._HOME.get(name, 'version')}")

    assert getattr(featcache, name) is getattr(home, name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'featcache' has no attribute 'extrac'"):
        featcache.extrac  # noqa: B018
