"""A batch that a device works on: waited for, then looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from featcache.backbones.in_flight import InFlight
from featcache.backbones.runner import BackboneRunner
from featcache.core.preprocess import Preprocess
from featcache.errors import NonFiniteError


class Landing:
    """What a GPU would record: the rows are there when it has been waited for."""

    def __init__(self, out: Tensor, largest: Tensor) -> None:
        self.out, self.largest = out, largest

    def synchronize(self) -> None:
        self.out.fill_(3.0)
        self.largest.fill_(float("inf"))


def in_flight(**fields: Any) -> InFlight:
    runner = BackboneRunner(
        torch.nn.Flatten(),
        preprocess=Preprocess.notebook(8),
        device="cpu",
        precision="fp32",
        batch_size=2,
    )
    out, largest = torch.zeros(2, 4), torch.ones(2)
    landing: Any = Landing(out, largest)
    return InFlight(out, largest, runner=runner, is_there=landing, **fields)


def test_rows_are_given_once_they_are_there() -> None:
    flight = in_flight()

    rows = flight.rows()

    assert (rows == 3.0).all()
    assert flight.runner is not None
    assert flight.runner.seconds["trunk"] > 0


def test_rows_are_looked_at_once_they_are_there() -> None:
    flight = in_flight(ids=["cat/1.png", "dog/2.png"])

    with pytest.raises(NonFiniteError, match=r"NaN or infinite features: image 'cat/1.png', 'dog"):
        flight.rows()


def test_what_a_row_may_hold_is_said_by_the_type_of_its_room() -> None:
    rows, largest = torch.full((1, 4), 65504.0), torch.tensor([65520.0])

    kept = InFlight(rows, largest, ids=["a.png"]).rows()

    assert kept is rows
    with pytest.raises(NonFiniteError, match=r"beyond float16's range of 65504: image 'a.png'"):
        InFlight(rows.half(), largest, ids=["a.png"]).rows()
