"""The user's own networks: a function that he names, or a module that he hands over in Python."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.family import BackboneInfo, LoadedBackbone
from featcache.config import NOTEBOOK_SIZE
from featcache.core.backbone_kinds import PYTHON_OBJECT, is_own
from featcache.core.backbone_names import DEFAULT
from featcache.core.preprocess import Preprocess
from featcache.errors import UnknownNameError, UsageError, clipped

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.torchvision_weights import Pretrained

_OUTPUT = "output"


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network of one's own, for `extract(dataset, backbone=...)`.

    The contract is in docs/guides/your-own-backbone.md. It is checked before anything is computed.

    Attributes:
        module: (B, 3, s, s) float32 -> (B, D), in evaluation mode.
        preprocess: How images are prepared for it; None is the notebook's way.
        name: Under which its files are kept; empty is the name of the module's class.
    """

    module: nn.Module
    preprocess: Preprocess | None = None
    name: str = ""


class _Given(threading.local):
    """What Python calls of this thread handed over, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Backbone] = {}


_GIVEN = _Given()


@contextlib.contextmanager
def given_backbone(backbone: str | Backbone | nn.Module) -> Iterator[str]:
    """Give a backbone a name for the calls inside; text is a name already.

    Raises:
        UsageError: If it is neither text, a `Backbone` nor a module.
    """
    if isinstance(backbone, str):
        yield backbone
        return
    own = _as_backbone(backbone, "--backbone")
    name = f"{PYTHON_OBJECT}{own.name or type(own.module).__name__}"
    before = dict(_GIVEN.by_name)
    _GIVEN.by_name[name] = own
    try:
        yield name
    finally:
        _GIVEN.by_name = before


class Own:
    """The family of networks that featcache does not know."""

    runs_network = True
    usual_preprocess = "weights"
    is_known_by_files = False

    def owns(self, name: str) -> bool:
        """Take `pkg.mod:function`, and what Python calls handed over."""
        return is_own(name)

    def names(self) -> Sequence[str]:
        """List none."""
        return ()

    def check_weights(self, name: str, weights: str) -> None:
        """Refuse weights: the module brings its own. Refuse a package that is not there."""
        if weights != DEFAULT:
            raise UsageError(
                f"The backbone {name} brings its own weights, but --weights is {weights!r}. "
                f"Nothing was started. Load them in the function, or leave the option out."
            )
        if name.startswith(PYTHON_OBJECT):
            _found(name)
            return
        package = name.partition(":")[0].partition(".")[0]
        with _this_folder():
            is_there = package in sys.modules or find_spec(package) is not None
        if not is_there:
            raise UsageError(
                f"The backbone {name} names the package {package!r}, which is neither installed "
                f"nor in {Path.cwd()}. Nothing was started. Install it, or run from its folder."
            )

    def check_size(self, name: str, weights: str, image_size: int | None) -> None:
        """Take any size; the module itself is asked later."""

    def usual_size(self, name: str) -> int:
        """Give the size of its own preprocessing, or the notebook's."""
        preprocess = _found(name).preprocess
        return NOTEBOOK_SIZE if preprocess is None else preprocess.out_size[0]

    def describe(self, name: str, image_size: int) -> BackboneInfo:
        """Check the contract, and measure one image on the CPU."""
        from featcache.backbones.contract import check_contract
        from featcache.backbones.measure import cost

        module = _found(name).module
        check_contract(module, name=name, image_size=image_size)
        measured = cost(module, image_size, device="cpu")
        return BackboneInfo(name, image_size, **measured._asdict(), weights=(), weights_on_disk=())

    def blank(self, name: str, image_size: int) -> nn.Module:
        """Refuse: its layers are its maker's."""
        raise UsageError(
            f"--layer and --pool are for torchvision's and timm's backbones, not for {name}. "
            f"Nothing was started. Return a module that gives what you want."
        )

    def build(
        self, name: str, *, weights: str, seed: int, image_size: int, check_file: bool
    ) -> LoadedBackbone:
        """Copy the module, so that its maker's stays where and as it is."""
        from featcache.backbones.batchnorm import has_batch_norm
        from featcache.backbones.contract import frozen_copy
        from featcache.core.tensor_files import state_digest, whole_state

        module = frozen_copy(_found(name).module, name=name)
        return LoadedBackbone(
            name=name,
            module=module,
            n_features=self.describe(name, image_size).n_features,
            layer=_OUTPUT,
            weights=DEFAULT,
            weights_sha256=state_digest(whole_state(module)),
            has_batchnorm=has_batch_norm(module),
            note="those of the module",
            identity={"library": "own"},
            told={"backbone": name},
        )

    def weights(self, name: str) -> Sequence[Pretrained]:
        """List none."""
        return ()

    def preprocess(self, name: str, weights: str, image_size: int) -> Preprocess:
        """Take its own, or the notebook's."""
        own = _found(name).preprocess
        if own is None:
            return Preprocess.notebook(image_size)
        own.require_possible()
        if own.out_size != (image_size, image_size):
            raise UsageError(
                f"The preprocessing of {name} gives {own.out_size[0]} x {own.out_size[1]} px, but "
                f"--image-size is {image_size}. Nothing was started. Leave the option out."
            )
        return own


def _found(name: str) -> Backbone:
    """Find what was handed over under a name, or call the function that it names, once."""
    if not name.startswith(PYTHON_OBJECT):
        return _called(name)
    if name not in _GIVEN.by_name:
        raise UsageError(
            f"The backbone {name} was handed over in Python, and only there it can be had again. "
            f"Nothing was started. Give the module itself: backbone=featcache.Backbone(module)."
        )
    return _GIVEN.by_name[name]


@functools.lru_cache(maxsize=1)
def _called(name: str) -> Backbone:
    """Import a module and call its function; only ever because the user typed its name."""
    place, _, function = name.partition(":")
    with _this_folder():
        try:
            module = importlib.import_module(place)
        except Exception as err:  # whatever the user's code raises
            raise _failed(name, f"{place} cannot be imported", err) from err
        if not callable(getattr(module, function, None)):
            known = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
            raise UnknownNameError(f"function of {place}", function, known, listing=f"dir({place})")
        try:
            made = getattr(module, function)()
        except Exception as err:
            raise _failed(name, f"{function}() failed", err) from err
    return _as_backbone(made, f"{function}()")


def _as_backbone(made: Any, what: str) -> Backbone:
    from torch import nn

    own = made if isinstance(made, Backbone) else Backbone(made)
    if not isinstance(own.module, nn.Module):
        raise UsageError(
            f"{what} is {clipped(repr(own.module))}, but must be a torch.nn.Module or a "
            f"featcache.Backbone. Nothing was started."
        )
    return own


def _failed(name: str, what: str, err: Exception) -> UsageError:
    return UsageError(
        f"The backbone {name} cannot be had: {what} ({type(err).__name__}: {clipped(str(err))}). "
        f"Nothing was started."
    )


@contextlib.contextmanager
def _this_folder() -> Iterator[None]:
    """Let Python find packages in the working directory, behind those that are installed."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
