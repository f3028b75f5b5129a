"""The names of timm's models, read from its sources: importing timm imports torch, for seconds."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from featcache.core.backbone_kinds import TIMM, timm_name
from featcache.errors import UnknownNameError, UsageError

LISTING = "featcache backbones timm:PART"
_MODEL = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_TAGGED = re.compile(r"""^    ['"]([\w-]+)\.([\w.-]+)\*?['"]\s*:""", re.MULTILINE)


def require_timm(name: str) -> None:
    """Refuse a backbone of timm's where timm is not installed.

    Raises:
        UsageError: With the command that installs it.
    """
    if find_spec("timm") is None:
        raise UsageError(
            f"The backbone {name} needs timm, which is not installed. Nothing was started. Install "
            f"it with: pip install 'featcache[timm]'"
        )


def check_timm_name(name: str) -> None:
    """Refuse a backbone that timm does not have, as far as its sources say.

    A few models' tags are made while timm is imported: those are looked up later.

    Args:
        name: As in `timm:resnet18` or `timm:resnet18.a1_in1k`.

    Raises:
        UsageError: If timm is not installed, or nothing stands behind `timm:`.
        UnknownNameError: If timm has no such model, with the nearest three.
    """
    require_timm(name)
    kind, rest, _ = timm_name(name)
    if kind == "hf-hub" and not re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        raise UsageError(
            f"{name} is no model of the hub. Nothing was started. Write "
            f"timm:hf-hub:ORG/NAME, or timm:hf-hub:ORG/NAME@REVISION."
        )
    if kind == "local-dir" and not rest:
        raise UsageError(f"{name} names no folder. Nothing was started. Write timm:local-dir:PATH.")
    if kind != "registry":
        return
    architecture, dot, tag = rest.partition(".")
    known = _in_sources()
    tags = known.get(architecture)
    if tags is None or (dot and tags and tag not in tags):
        raise unknown_timm_name(name)


def is_known_to_timm(name: str) -> bool:
    """Tell whether timm, if it is installed, has a model of this name, written without `timm:`."""
    architecture, dot, tag = name.lower().partition(".")
    tags = _in_sources().get(architecture)
    return tags is not None and (not dot or tag in tags)


def unknown_timm_name(name: str) -> UnknownNameError:
    """Say that timm has no such model, or no such weights of it."""
    tagged = [f"{model}.{tag}" for model, tags in _in_sources().items() for tag in tags]
    architecture = timm_name(name).rest.partition(".")[0]
    of_model = [known for known in tagged if known.startswith(f"{architecture}.")]
    names = [f"{TIMM}{known}" for known in of_model or [*_in_sources(), *tagged]]
    return UnknownNameError("backbone", name, names, listing=LISTING)


@functools.cache
def _in_sources() -> Mapping[str, frozenset[str]]:
    """Map each model to the tags of its weights that the sources spell out."""
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec is not None else None
    sources = sorted(Path(folders[0], "models").glob("*.py")) if folders else []
    texts = [source.read_text(encoding="utf-8") for source in sources]
    tags: dict[str, set[str]] = {name: set() for text in texts for name in _MODEL.findall(text)}
    for text in texts:
        for name, tag in _TAGGED.findall(text):
            if name in tags:
                tags[name].add(tag)
    return {name: frozenset(found) for name, found in tags.items()}
