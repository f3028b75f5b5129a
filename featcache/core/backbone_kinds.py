"""How backbones of other kinds than torchvision's are written, and what their files are called."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple

TIMM = "timm:"
PRE_LOGITS = "pre-logits"  # the layer that timm's models give of themselves
PYTHON_OBJECT = "python:"  # a module that was handed over in Python
_HUB, _LOCAL = "hf-hub:", "local-dir:"
_MOST_CHARACTERS = 100
_OWN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_NOT_IN_A_SLUG = re.compile(r"[^\w.-]")


class TimmName(NamedTuple):
    """What stands behind `timm:`.

    Attributes:
        kind: "registry" (one of timm's own models), "hf-hub" or "local-dir".
        rest: "resnet18.a1_in1k", "ORG/NAME", or the path of a folder.
        revision: Of a repository of the hub; empty for its newest.
    """

    kind: str
    rest: str
    revision: str = ""


def is_timm(name: str) -> bool:
    """Tell whether a backbone is one of timm's."""
    return name[: len(TIMM)].lower() == TIMM


def is_own(name: str) -> bool:
    """Tell whether a backbone is the user's own: `pkg.mod:function`, or given in Python."""
    return name.startswith(PYTHON_OBJECT) or (not is_timm(name) and bool(_OWN.fullmatch(name)))


def timm_name(name: str) -> TimmName:
    """Read `timm:NAME`, `timm:hf-hub:ORG/NAME@REVISION` or `timm:local-dir:PATH`."""
    rest = name[len(TIMM) :]
    if rest.lower().startswith(_HUB):
        repository, _, revision = rest[len(_HUB) :].partition("@")
        return TimmName("hf-hub", repository, revision)
    if rest.lower().startswith(_LOCAL):
        return TimmName("local-dir", rest[len(_LOCAL) :])
    return TimmName("registry", rest.lower())


def written_name(name: str) -> str:
    """Write the name of a backbone as all of them are written; case counts in places alone."""
    if is_own(name):
        return name
    if not is_timm(name):
        return name.lower()
    kind, rest, revision = timm_name(name)
    if kind == "registry":
        return f"{TIMM}{rest}"
    return f"{TIMM}{kind}:{rest}{'@' * bool(revision)}{revision}"


def told_name(name: str) -> str:
    """Write a backbone's name without the folders above it, as a cache may keep it."""
    if not is_timm(name) or timm_name(name).kind != "local-dir":
        return name
    return f"{TIMM}{_LOCAL}{_folder(timm_name(name).rest)}"


def backbone_slug(name: str) -> str:
    """Give the name that a backbone has in its files' names and in identities.

    That of torchvision's and of `pixels` is their own.
    """
    if is_own(name):
        return _slug("own", name.rpartition(":")[2])
    if not is_timm(name):
        return name
    kind, rest, _ = timm_name(name)
    if kind == "registry":
        return _slug("timm", rest)
    return _slug("hub", rest) if kind == "hf-hub" else _slug("local", _folder(rest))


def _folder(path: str) -> str:
    return PurePath(path).name or "folder"


def _slug(kind: str, name: str) -> str:
    return f"{kind}-{_NOT_IN_A_SLUG.sub('_', name.replace('/', '-'))}"[:_MOST_CHARACTERS]


def must_be_named(name: str) -> bool:
    """Tell whether a backbone is code or a folder of its user's, which no file may name."""
    return is_own(name) or (is_timm(name) and timm_name(name).kind == "local-dir")
