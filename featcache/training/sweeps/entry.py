"""One head of a sweep, as far as it is, and the file that keeps all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featcache.config import TrainSpec
from featcache.core.from_file import from_file
from featcache.core.tensor_files import read_checkpoint
from featcache.errors import CorruptError
from featcache.heads.figures import Figures
from featcache.heads.history import EpochRow, History, history_from_json
from featcache.store import replace_file
from featcache.training.patience import Patience
from featcache.training.sweeps.head_bank import Member, MemberState

_WAY_OUT = "Remove it: the heads that were finished are kept, the others start again."


@dataclass(frozen=True, eq=False)
class EntryState:
    """How far one head is; all but its weights.

    Attributes:
        history: A row for each epoch, as of a HeadRun.
        seconds: Its share of the wall time.
        waited_from: The val_loss that early stopping waits to be beaten.
        n_waited: Epochs for which it was not.
        best_loss: The lowest val_loss.
        best: The parameters of that epoch, if they are to be kept.
        problem: Why it broke off; empty if it did not.
    """

    history: History = ()
    seconds: float = 0.0
    waited_from: float = math.inf
    n_waited: int = 0
    best_loss: float = math.inf
    best: Sequence[Tensor] | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give what a checkpoint keeps, which is JSON but for the tensors."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**kept, "history": [row.to_json() for row in self.history]}

    @classmethod
    def from_json(cls, said: Any) -> EntryState:
        """Read what a checkpoint says.

        Raises:
            ValueError: Naming what is wrong.
        """
        if not isinstance(said, Mapping):
            raise ValueError("a head is no mapping")
        history = history_from_json(said.get("history"))
        best = None if said.get("best") is None else _tensors(said["best"])
        return from_file(cls, said, history=history, best=best)


@dataclass(eq=False)
class Entry:
    """One head of a sweep.

    Attributes:
        path: Where its run will be.
        member: It in a bank.
        train: Its training.
        state: How far it is.
    """

    path: Path
    member: Member
    train: TrainSpec
    state: EntryState = field(default_factory=EntryState)

    def judge(self, losses: Tensor, sizes: Tensor, validated: Figures) -> None:
        """Enter an epoch: the losses and sizes of its steps, and its validation."""
        history, problem = self.state.history, self.state.problem
        n_before = int(history[-1].step) if history else 0
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            step = n_before + int(wrong[0]) + 1
            problem = f"the loss became {losses[wrong[0]].item()} at step {step}"
        elif not math.isfinite(validated.loss):
            problem = f"val_loss became {validated.loss} after step {n_before + len(losses)}"
        row = EpochRow(
            epoch=float(len(history) + 1),
            train_loss=float((losses.double() * sizes).sum() / sizes.sum()),
            val_loss=validated.loss,
            val_acc=validated.acc,
            step=float(n_before + len(losses)),
        )
        patience = self._patience.after(validated.loss)
        self.state = replace(
            self.state,
            history=(*history, row),
            waited_from=patience.waited_from,
            n_waited=patience.n_waited,
            problem=problem,
        )

    def keep_if_best(self, parameters: Sequence[Tensor]) -> None:
        """Note the last epoch if it is the best so far, with its weights if these are asked for."""
        val_loss = self.state.history[-1]["val_loss"]
        if val_loss < self.state.best_loss:
            best = parameters if self.train.select == "best" else self.state.best
            self.state = replace(self.state, best_loss=val_loss, best=best)

    @property
    def is_done(self) -> bool:
        """Whether it broke off, has stopped early or has seen all epochs."""
        has_seen_all = len(self.state.history) >= self.train.max_epochs
        return bool(self.state.problem) or self._patience.is_over or has_seen_all

    @property
    def _patience(self) -> Patience:
        assert self.train.patience is not None, "settled before"
        waited = self.state.waited_from, self.state.n_waited
        return Patience(self.train.patience, self.train.min_delta, *waited)


@dataclass(frozen=True, eq=False)
class SweepCheckpoint:
    """The heads of a pass after an epoch, and those that broke off.

    Attributes:
        epoch: Epochs that the heads of the pass have seen.
        heads: How far each is, by its key.
        states: Their weights and moments.
        broken: Heads that broke off, of earlier passes too.
    """

    epoch: int
    heads: Mapping[str, EntryState]
    states: Mapping[str, MemberState]
    broken: Mapping[str, EntryState]

    def write(self, path: Path) -> None:
        """Write it whole, or leave what was there."""
        content = {
            "epoch": self.epoch,
            "heads": {key: state.to_json() for key, state in self.heads.items()},
            "states": {key: vars(state) for key, state in self.states.items()},
            "broken": {key: state.to_json() for key, state in self.broken.items()},
        }
        replace_file(path, lambda file: torch.save(content, file))

    @classmethod
    def read(cls, path: Path) -> SweepCheckpoint:
        """Read one.

        Raises:
            CorruptError: If it is damaged, or says what it cannot.
        """
        said = read_checkpoint(path, ("epoch", "heads", "states", "broken"), way_out=_WAY_OUT)
        try:
            heads = {key: EntryState.from_json(head) for key, head in said["heads"].items()}
            states = {key: _member_state(state) for key, state in said["states"].items()}
            broken = {key: EntryState.from_json(head) for key, head in said["broken"].items()}
            if heads.keys() != states.keys():
                raise ValueError("heads and weights are not of the same names")
            return from_file(cls, said, heads=heads, states=states, broken=broken)
        except (ValueError, AttributeError) as err:
            raise CorruptError(
                f"{path} is damaged ({err}). Nothing was changed. {_WAY_OUT}"
            ) from err


def _member_state(said: Any) -> MemberState:
    names = ("parameters", "first_moments", "second_moments")
    if not isinstance(said, Mapping):
        raise ValueError("a head's weights are no mapping")
    return from_file(MemberState, said, **{name: _tensors(said.get(name)) for name in names})


def _tensors(said: Any) -> list[Tensor]:
    if not isinstance(said, list | tuple) or not all(isinstance(t, Tensor) for t in said):
        raise ValueError("what should be weights are no tensors")
    return list(said)
