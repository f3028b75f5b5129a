"""What a file says is checked by name and type before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from featcache.core.from_file import from_file


@dataclass(frozen=True)
class Kept:
    name: str
    n: int
    is_done: bool
    share: float | None
    loss: float = 0.5


SAID: dict[str, Any] = {"name": "a", "n": 3, "is_done": False, "share": None}


def test_fields_come_by_name_and_a_default_stands_in() -> None:
    assert from_file(Kept, SAID) == Kept("a", 3, False, None, 0.5)
    assert from_file(Kept, {**SAID, "share": 1, "loss": 2}) == Kept("a", 3, False, 1.0, 2.0)
    assert from_file(Kept, {"name": "a", "n": 3, "share": 0.5}, is_done=True).is_done


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], r"^\[\] where fields were expected$"),
        ({**SAID, "__class__": "x"}, "^the field __class__ is not known$"),
        ({"name": "a"}, "^the field n is missing$"),
        ({**SAID, "n": True}, "^the field n is True, which is no int$"),
        ({**SAID, "n": 3.0}, "^the field n is 3.0, which is no int$"),
        ({**SAID, "n": None}, "^the field n is None, which is no int$"),
        ({**SAID, "is_done": 1}, "^the field is_done is 1, which is no bool$"),
        ({**SAID, "loss": "0.1"}, "^the field loss is '0.1', which is no float$"),
        ({**SAID, "name": b"a"}, "^the field name is b'a', which is no str$"),
    ],
)
def test_anything_else_is_refused_by_the_name_of_the_field(said: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        from_file(Kept, said)
