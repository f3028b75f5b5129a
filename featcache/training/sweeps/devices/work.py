"""What the leader of a sweep tells its workers, and what they share in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.config import HeadSpec, TrainSpec
from featcache.core.workers.messages import start_command
from featcache.training.sweeps.entry import Entry, EntryState
from featcache.training.sweeps.groups import HeadGroup
from featcache.training.sweeps.head_bank import Member

_MAIN = "featcache.training.sweeps.devices.worker"
GROUPS = "groups"
"""Where the groups stand in the store: a grid may be longer than a command can be."""


@dataclass(frozen=True)
class SweepWork:
    """What every worker is told at its start.

    Attributes:
        cache: Its path.
        fingerprint: Of the cache, which is the one that the leader opened.
        devices: Where each worker computes, by its rank.
        stays_in_file: Why features are read from the file as they are needed; empty if each worker
            may keep them where they fit.
        n_threads: CPU threads of each.
        port: Of the store.
        leader: Process that started the workers; they end with it.
        path: Where it finds modules.
    """

    cache: str
    fingerprint: str
    devices: tuple[str, ...]
    stays_in_file: str
    n_threads: int
    port: int
    leader: int
    path: tuple[str, ...]

    def command(self) -> tuple[str, ...]:
        """Write the arguments of Python by which a worker starts."""
        return start_command(_MAIN, asdict(self))


def progress_key(number: int) -> str:
    """Name how far a group is: the fields of a `SweepProgress`, as JSON."""
    return f"progress/{number}"


def broken_key(number: int) -> str:
    """Name the heads of a group that broke off, as `written_states` writes them."""
    return f"broken/{number}"


def written_groups(groups: Sequence[HeadGroup]) -> str:
    """Write groups as text."""
    return json.dumps(
        [
            {
                "number": group.number,
                "checkpoint": str(group.checkpoint.absolute()),
                "heads": [
                    {
                        "path": str(entry.path.absolute()),
                        "head": asdict(entry.member.spec),
                        "train": asdict(entry.train),
                    }
                    for entry in group.entries
                ],
            }
            for group in groups
        ]
    )


def read_groups(content: bytes) -> list[HeadGroup]:
    """Read what `written_groups` wrote."""
    return [
        HeadGroup(one["number"], [_entry(head) for head in one["heads"]], Path(one["checkpoint"]))
        for one in json.loads(content)
    ]


def written_states(entries: Sequence[Entry]) -> str:
    """Write the states of heads that broke off, without their weights."""
    states = {e.member.key: e.state for e in entries if e.state.problem}
    return json.dumps({key: replace(s, best=None).to_json() for key, s in states.items()})


def read_states(content: bytes) -> dict[str, EntryState]:
    """Read what `written_states` wrote."""
    return {key: EntryState.from_json(said) for key, said in json.loads(content).items()}


def _entry(said: Mapping[str, Any]) -> Entry:
    path, head, train = Path(said["path"]), HeadSpec(**said["head"]), TrainSpec(**said["train"])
    return Entry(path, Member(path.name, head, train.lr, train.seed), train)
