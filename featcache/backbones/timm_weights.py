"""Which of timm's models is meant, and the file of its weights: on this machine, or fetched."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.core.backbone_kinds import timm_name
from featcache.core.paths import expanded
from featcache.core.process_wide import WhileAnyInside, errors_alone
from featcache.core.stopping import breakable, working
from featcache.core.timm_names import unknown_timm_name
from featcache.errors import UsageError, WeightsError, WeightsUnavailableError, clipped

if TYPE_CHECKING:
    from timm.models._pretrained import PretrainedCfg

_CONFIG = "config.json"
# In this order; those of a folder and of the hub.
_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_OF_A_FOLDER = ("*.safetensors", "*.pth", "*.pt", "*.bin")
# What a stranger's configuration may not decide: create_model's own arguments.
_NOT_OF_A_MODEL = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "features_only",
        "num_classes",
        "in_chans",
    }
)
_HUB_TIMEOUT_S = 5.0
_COMMIT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")


@dataclass(frozen=True, eq=False)
class TimmModel:
    """One of timm's models, with what was published of its weights.

    Attributes:
        name: The backbone's, as it was typed.
        architecture: The model's name in timm, without the tag of its weights.
        published: timm's entry of the weights: where they are, their transform and licence.
        arguments: Of the constructor, beside its defaults; from a repository's or a folder's file.
        folder: Where its files are, of a local folder.
        revision: The commit of the hub's repository that was taken, where one was.
    """

    name: str
    architecture: str
    published: PretrainedCfg
    arguments: Mapping[str, Any]
    folder: Path | None = None
    revision: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """Timm's data configuration of the weights."""
        from timm.data import resolve_data_config

        found: dict[str, Any] = resolve_data_config(pretrained_cfg=self.published.to_dict())
        return found

    @property
    def hub_id(self) -> str:
        """The repository of the weights; empty where there is none."""
        return str(self.published.hf_hub_id or "").partition("@")[0]


def find_model(name: str) -> TimmModel:
    """Look up a model in timm's registry, or read what a repository or a folder says of it.

    Raises:
        UnknownNameError: If timm has no such model, or no such weights of it.
        WeightsUnavailableError: If the repository is neither here nor reachable.
        WeightsError: If its configuration cannot be read.
    """
    from timm.models import get_pretrained_cfg, is_model

    kind, rest, revision = timm_name(name)
    if kind == "registry":
        architecture = rest.partition(".")[0]
        published = get_pretrained_cfg(rest) if is_model(architecture) else None
        if published is None:
            raise unknown_timm_name(name)
        return TimmModel(name, architecture, published, {})
    if kind == "local-dir":
        folder = expanded(rest)
        if not (folder / _CONFIG).is_file():
            raise WeightsError(
                f"{folder} holds no {_CONFIG}, which says what model it is. Nothing was loaded. "
                f"timm's save_for_hf(model, FOLDER, safe_serialization=True) writes both."
            )
        return _configured(name, folder, revision="")
    config = _fetched(name, rest, _CONFIG, revision=revision)
    commit = _COMMIT.search(str(config))
    model = _configured(name, config.parent, revision=commit[1] if commit else revision)
    model.published.hf_hub_id = rest
    return model


def weights_here(model: TimmModel) -> Path | None:
    """Find the file of a model's weights on this machine."""
    if model.folder is not None:
        return _in_folder(model.folder)
    if model.hub_id:
        for file in _files_of(model):
            found = _cached(model.hub_id, file, revision=model.revision)
            if found is not None:
                return found
    if model.published.url:
        kept = _url_file(model)
        return kept if kept.is_file() else None
    return None


def fetch_weights(model: TimmModel) -> Path:
    """Return the file of a model's weights, downloaded first where it is not here yet.

    Raises:
        WeightsUnavailableError: If it is not on this machine and cannot be had.
        UsageError: If no weights were published.
    """
    found = weights_here(model)
    if found is not None:
        return found
    if model.folder is not None:
        raise WeightsUnavailableError(
            f"{model.folder} holds no weights: none of {', '.join(_OF_A_FOLDER)}. Nothing was "
            f"loaded. Put model.safetensors there, or give --weights PATH or random."
        )
    if model.hub_id:
        from huggingface_hub.errors import EntryNotFoundError

        for file in _files_of(model)[:-1]:
            with contextlib.suppress(EntryNotFoundError):
                return _fetched(model.name, model.hub_id, file, revision=model.revision)
        return _fetched(model.name, model.hub_id, _files_of(model)[-1], revision=model.revision)
    if model.published.url:
        kept = _url_file(model)
        raise WeightsUnavailableError(
            f"The weights of {model.name} are not on this machine, at {kept}. They are not on the "
            f"hub. Nothing was loaded. Download {model.published.url} and put it there, or go on "
            f"with --weights PATH or --weights random."
        )
    raise UsageError(
        f"timm publishes no weights of {model.name}. Nothing was started. Use --weights random, "
        f"or --weights PATH."
    )


def _configured(name: str, folder: Path, *, revision: str) -> TimmModel:
    """Read a model's configuration, of which only names and numbers are believed."""
    from timm.models import is_model
    from timm.models._hub import load_model_config_from_path
    from timm.models._pretrained import PretrainedCfg

    file = folder / _CONFIG
    try:
        said, architecture, arguments = load_model_config_from_path(folder)
        said = {key: value for key, value in said.items() if key not in ("file", "source")}
        published = PretrainedCfg(**said, architecture=architecture)
        arguments = dict(arguments or {})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise WeightsError(
            f"{file} does not describe a model of timm's ({type(err).__name__}: "
            f"{clipped(str(err))}). Nothing was loaded."
        ) from err
    refused = sorted(_NOT_OF_A_MODEL & arguments.keys() - {"num_classes", "in_chans"})
    if refused or not is_model(architecture):
        what = f"asks for {', '.join(refused)}" if refused else f"names {architecture!r}"
        raise WeightsError(
            f"{file} {clipped(what)}, which is no model of the installed timm or no argument of "
            f"one. Nothing was loaded."
        )
    arguments = {key: value for key, value in arguments.items() if key not in _NOT_OF_A_MODEL}
    is_local = timm_name(name).kind == "local-dir"
    return TimmModel(
        name, architecture, published, arguments, folder if is_local else None, revision
    )


def _in_folder(folder: Path) -> Path | None:
    for file in _FILES:
        if (folder / file).is_file():
            return folder / file
    found = (path for pattern in _OF_A_FOLDER for path in sorted(folder.glob(pattern)))
    return next(found, None)


def _files_of(model: TimmModel) -> tuple[str, ...]:
    """Name the files that may hold the weights, safetensors first."""
    named = model.published.hf_hub_filename
    if not named:
        return _FILES
    return (
        (named.removesuffix(".bin") + ".safetensors", named) if named[-4:] == ".bin" else (named,)
    )


def _url_file(model: TimmModel) -> Path:
    """Where torch.hub keeps a file that is not on the hub."""
    import torch

    url = str(model.published.url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _hub_folder() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_HUB_CACHE") or str(constants.HF_HUB_CACHE)


def _cached(repository: str, file: str, *, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        repository, file, cache_dir=_hub_folder(), revision=revision or None
    )
    return Path(found) if isinstance(found, str) else None


def _fetched(name: str, repository: str, file: str, *, revision: str) -> Path:
    """Find a file of a repository here, or download it.

    Raises:
        WeightsUnavailableError: If it cannot be had.
        EntryNotFoundError: If the repository has no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = _cached(repository, file, revision=revision)
    if found is not None:
        return found
    try:
        with working(), breakable(), _no_bars(), _quiet():
            _require_hub()
            return Path(
                hf_hub_download(
                    repository, file, cache_dir=_hub_folder(), revision=revision or None
                )
            )
    except EntryNotFoundError as err:
        if not isinstance(err, LocalEntryNotFoundError) and file not in (_CONFIG, _FILES[-1]):
            raise
        raise _unavailable(name, repository, file, revision, err) from err
    except Exception as err:  # whatever the client, the network or the disk complains of
        raise _unavailable(name, repository, file, revision, err) from err


def _unavailable(
    name: str, repository: str, file: str, revision: str, err: Exception
) -> WeightsUnavailableError:
    said = clipped(str(err).strip().partition("\n")[0], 400) or type(err).__name__
    at = f" --revision {revision}" if revision else ""
    return WeightsUnavailableError(
        f"{name} is not on this machine: {file} of {repository} was looked for in "
        f"{_hub_folder()}, and the hub did not give it ({said}). Nothing was loaded. Run `hf "
        f"download {repository}{at}` where there is a network, and copy what it made in that "
        f"folder here; or put config.json and model.safetensors into a folder, and give --backbone "
        f"timm:local-dir:FOLDER."
    )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()


_no_bars = WhileAnyInside(_without_bars)
_quiet = errors_alone("huggingface_hub")  # it tells each retry


def _require_hub() -> None:
    """Ask the hub once, by the user's proxies: `hf_hub_download` asks six times, in half a minute.

    Raises:
        Exception: What its client raises where no answer comes.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
