"""The state dict of a backbone, found in whatever a training script saved around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from featcache.errors import WeightsError

_DEPTH = 3
# Of what is called so is taken where several hold the backbone.
_USUAL = ("state_dict", "model_state_dict", "model")
# DataParallel and AveragedModel, and torch.compile, put these between dots.
_SEGMENTS = frozenset({"module", "_orig_mod"})
# What AveragedModel counts, and what a LightningModule's loss and metrics keep.
_BESIDE = re.compile(r"n_averaged$|(\w+_)?(loss|criterion|metrics?)(_\w+)?(\.|$)")
# torchvision's densenet files are older than the ban on dots in module names.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_BACKBONE = "features."  # names of `model.features` alone lack it
_N_SHOWN = 5


class Reading(NamedTuple):
    """A state dict in a file that holds all of a backbone, or the most of it.

    Attributes:
        state: Under the backbone's own names, with what belongs to its classifier.
        part: Where it was: "" or, say, "model_ema".
        stripped: What stood around it or in its names, for people.
        left_out: Names of tensors beside it.
    """

    state: dict[str, Tensor]
    part: str
    stripped: tuple[str, ...]
    left_out: tuple[str, ...]

    def told(self, others: Sequence[str]) -> str:
        """Say what was stripped and left; empty if the file held nothing else."""
        said = [f"stripped {', '.join(self.stripped)}"] if self.stripped else []
        if self.left_out:
            more = ", ..." if len(self.left_out) > _N_SHOWN else ""
            said.append(f"left out {', '.join(self.left_out[:_N_SHOWN])}{more}")
        if others:
            said.append(f"the file also holds the backbone in {', '.join(others)}")
        return "; ".join(said)


def state_dicts_in(content: Any) -> dict[str, dict[str, Tensor]]:
    """Find mappings of names to tensors, by their place: "", "model", "ema.state_dict"."""
    return dict(_walk(content, ()))


def find_backbone(
    states: Mapping[str, Mapping[str, Tensor]],
    like: Mapping[str, Tensor],
    *,
    part: str = "",
    source: str,
) -> tuple[Reading, list[str]]:
    """Choose the state dict that holds the backbone.

    Args:
        states: From `state_dicts_in`; at least one.
        like: The backbone's own state dict; its tensors may be on the meta device.
        part: The place to take it from; empty takes the usual one.
        source: Names the file in messages.

    Returns:
        What was found, and the other places that hold all of the backbone. Where none does, what
        holds most of it.

    Raises:
        WeightsError: If there is no such part, or several hold the backbone and none is usual.
    """
    needed = [name for name in like if not name.endswith(".num_batches_tracked")]
    found = [f for place, state in states.items() for f in _readings(place, state, needed)]
    if part:
        parts = sorted({f.part or "(no name)" for f in found})
        found = [f for f in found if f.part == part or f.part.endswith(f".{part}")]
        if not found:
            raise WeightsError(
                f"{source} has no part {part!r}. Nothing was loaded. It has: {', '.join(parts)}."
            )
    whole = [f for f in found if all(name in f.state for name in needed)]
    if not whole:
        return max(found, key=lambda f: sum(name in f.state for name in needed)), []
    whole.sort(key=lambda f: (not _is_usual(f.part), f.part.count("."), f.part))
    others = [f.part for f in whole[1:]]
    if others and not _is_usual(whole[0].part):
        raise WeightsError(
            f"{source} holds the backbone more than once, in {', '.join(f.part for f in whole)}. "
            f"Nothing was loaded. Say which: --weights FILE#{whole[0].part}."
        )
    return whole[0], others


def _is_usual(part: str) -> bool:
    return not part or set(part.split(".")) <= set(_USUAL)


def _walk(content: Any, place: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping):
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield ".".join(place), tensors
    if len(place) < _DEPTH:
        for name, value in named.items():
            yield from _walk(value, (*place, name))


def _readings(place: str, state: Mapping[str, Tensor], needed: Sequence[str]) -> Iterator[Reading]:
    """Read a state dict with each beginning of names that the backbone's could stand behind."""
    has_segments = any(_SEGMENTS & set(name.split(".")) for name in needed)
    plain, segments = dict(state), set[str]()
    if not has_segments:
        plain, segments = _without_segments(state)
    plain = {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in plain.items()}
    for prefix in _prefixes(plain, needed):
        inside = {n.removeprefix(prefix): t for n, t in plain.items() if n.startswith(prefix)}
        outside = [n for n in plain if not n.startswith(prefix)]
        beside = [n for n in inside if _BESIDE.match(n)]
        features = _with_backbone_names(inside, needed)
        part = ".".join(filter(None, (place, prefix.rstrip("."))))
        stripped = [f"'{s}'" for s in (place, prefix, *(f"{s}." for s in sorted(segments))) if s]
        kept = {n: t for n, t in features.items() if n not in beside}
        yield Reading(kept, part, tuple(stripped), tuple(outside + beside))


def _without_segments(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    plain, found = {}, set[str]()
    for name, tensor in state.items():
        segments = name.split(".")
        found |= _SEGMENTS & set(segments[:-1])
        kept = [s for s in segments[:-1] if s not in _SEGMENTS]
        plain[".".join([*kept, segments[-1]])] = tensor
    return plain, found


def _prefixes(state: Mapping[str, Tensor], needed: Sequence[str]) -> list[str]:
    """Beginnings behind which names of the backbone stand; "" where there are none."""
    probes = {needed[i] for i in (0, len(needed) // 2, -1)}
    probes |= {name.removeprefix(_BACKBONE) for name in probes}
    found = {
        name.removesuffix(probe)
        for name in state
        for probe in probes
        if name == probe or name.endswith(f".{probe}")
    }
    # "features." is the backbone's own where all of its names have it.
    return sorted(p for p in found if not p.endswith(_BACKBONE) or p == "") or [""]


def _with_backbone_names(state: Mapping[str, Tensor], needed: Sequence[str]) -> dict[str, Tensor]:
    if any(name in state for name in needed):
        return dict(state)
    prefixed = {f"{_BACKBONE}{name}": tensor for name, tensor in state.items()}
    return prefixed if any(name in prefixed for name in needed) else dict(state)
