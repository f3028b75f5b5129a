"""State dicts: read without running code, and fitted to a backbone."""

from __future__ import annotations

import argparse
import contextlib
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.serialization import safe_globals

from featcache.backbones.unwrapping import find_backbone, state_dicts_in
from featcache.backbones.weights_file import existing_weights_file
from featcache.core.paths import file_and_part, is_utf8
from featcache.core.process_wide import WhileAnyInside, warnings_ignored
from featcache.core.tensor_files import UNREADABLE, refuse_inflating
from featcache.errors import UnsafeFileError, WeightsError, clipped

# torchvision's training scripts keep their arguments; it holds names and values, and no code.
_known_classes = WhileAnyInside(lambda: safe_globals([argparse.Namespace]))
_N_SHOWN = 5
_CALLS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE"})
_SAVE_ADVICE = (
    "Nothing was loaded. Save one with torch.save(model.state_dict(), PATH) or "
    "safetensors.torch.save_file(model.state_dict(), PATH)."
)


def read_state_dicts(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Read a .safetensors file or a torch.save file, running no code from it.

    Tensors of a torch.save file stay on disk until used.

    Returns:
        All mappings of names to tensors in it, by their place: "", "model", "ema.state_dict".

    Raises:
        UnsafeFileError: If the file can only be read by running code that it brings.
        WeightsError: If there is no such file, or it holds no state dict.
    """
    path = existing_weights_file(path)
    is_safetensors = path.suffix.lower() == ".safetensors"
    content = _read_safetensors(path) if is_safetensors else _read_torch(path)
    states = state_dicts_in(content)
    if not states:
        held = f", but a {type(content).__name__}"
        if isinstance(content, Mapping) and content:
            held += (
                f" with {', '.join(f'{str(n)!r} ({type(v).__name__})' for n, v in content.items())}"
            )
        raise WeightsError(f"{path} holds no state dict{clipped(held)}. {_SAVE_ADVICE}")
    return states


def fit_state_dict(
    state: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    *,
    ignored: Iterable[str] = (),
    source: str,
    backbone: str,
) -> dict[str, Tensor]:
    """Check a state dict against a backbone's and copy the backbone's tensors out of it.

    Floating types are converted to the backbone's float32. BatchNorm's `num_batches_tracked`, which
    older files lack and inference does not read, is 0 where it is missing.

    Args:
        state: What a file holds, under the backbone's own names.
        like: The backbone's own state dict; tensors may be on the meta device.
        ignored: Beginnings of names that are no part of the backbone (classifier, auxiliary heads).
        source: Names the file in messages.
        backbone: Names the backbone in messages.

    Returns:
        Names and order of `like`, in memory, contiguous.

    Raises:
        WeightsError: If backbone tensors are missing, surplus, of another shape, or not finite.
    """
    skipped = tuple(ignored)
    missing = [n for n in like if n not in state and not n.endswith(".num_batches_tracked")]
    surplus = [n for n in state if n not in like and not n.startswith(skipped)]
    unfit = [
        f"{n} expected {_describe(like[n])}, got {_describe(t)}"
        for n, t in state.items()
        if n in like and not _fits(t, like[n])
    ]
    if missing or surplus or unfit:
        kinds = {"missing": missing, "surplus": surplus, "of another shape or type": unfit}
        found = "; ".join(f"{len(v)} {k} ({_first(v)})" for k, v in kinds.items() if v)
        raise WeightsError(
            f"{source} does not fit the backbone of torchvision's {backbone}: {found}. Nothing was "
            f"loaded. Give a state dict of {backbone}, or name the --backbone that it belongs to."
        )
    fitted = {n: _copy(state.get(n), t) for n, t in like.items()}
    bad = [n for n, t in fitted.items() if t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{source} holds NaN or infinite numbers (as float32) in {len(bad)} tensor(s) of the "
            f"backbone: {_first(bad)}. Nothing was loaded. Give weights of a run that converged."
        )
    return fitted


def fill_backbone(
    backbone: nn.Module, path: str | Path, *, name: str, ignored: tuple[str, ...]
) -> str:
    """Load weights from a file into a backbone, and freeze it.

    Args:
        backbone: On the meta device.
        path: The file; "FILE#PART" takes one of several state dicts in it.
        name: Names the backbone in messages.
        ignored: Beginnings of names that are no part of it, like its classifier's.

    Returns:
        What stood around the weights in the file, for people; mostly empty.

    Raises:
        UnsafeFileError: If the file can only be read by running code that it brings.
        WeightsError: If there is no such file, or its weights do not fit or hold NaN.
    """
    own = backbone.state_dict()
    # A URL must come as it is: as a path it loses a slash.
    file, part = (path, "") if "://" in str(path) else file_and_part(str(path))
    found, others = find_backbone(read_state_dicts(file), own, part=part, source=str(path))
    told = found.told(others)
    source = f"{path} ({told})" if told else str(path)
    fitted = fit_state_dict(found.state, own, ignored=ignored, source=source, backbone=name)
    own.update(fitted)  # keeps the versions in own._metadata, which mnasnet insists on
    backbone.load_state_dict(own, assign=True)
    backbone.requires_grad_(requires_grad=False)
    left = [n for n, t in (*backbone.named_parameters(), *backbone.named_buffers()) if t.is_meta]
    if left:
        raise WeightsError(
            f"{path} does not fill {name}: {', '.join(left)} are no part of its state dict. "
            f"Nothing was loaded."
        )
    return told


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as err:
        raise WeightsError(
            f"{path} ends in .safetensors, but cannot be read as such: {err}. It is damaged, or "
            f"another kind of file: copy it again, or rename a torch.save file to .pth."
        ) from err


def _read_torch(path: Path) -> Any:
    refuse_inflating(path)
    try:
        # Files of torch < 1.6 are no zip archives and cannot be mapped into memory; nor can those
        # whose names are not UTF-8 here, which torch's C++ then does not find.
        mmap = zipfile.is_zipfile(path) and is_utf8(path)
        # Warnings about a pickle's protocol: the error below says more.
        with warnings_ignored(), _known_classes():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (*UNREADABLE, zipfile.BadZipFile) as err:
        # torch's own text advises weights_only=False; it stays in the traceback only.
        if "GLOBAL" in str(err) or _calls_code(path):
            wanted = re.search(r"GLOBAL ([\w.]+)", str(err))
            what = f" ({wanted[1]})" if wanted else ""
            raise UnsafeFileError(
                f"{path} was refused: it holds more than tensors, and reading it would run code "
                f"from it{what}. Nothing was run or loaded. If you trust its source, open it "
                f"there and save model.state_dict() as .safetensors."
            ) from err
        raise WeightsError(
            f"{path} cannot be read as a torch.save file ({type(err).__name__}). It is damaged, "
            f"cut short or another kind of file. Copy it again; give .safetensors files that "
            f"ending."
        ) from err


def _calls_code(path: Path) -> bool:
    """Tell whether the pickle in a file names functions; its opcodes are listed, not run."""
    try:
        with contextlib.ExitStack() as stack:
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                inner = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                pickled = stack.enter_context(archive.open(inner))
            else:
                pickled = stack.enter_context(path.open("rb"))
            return any(opcode.name in _CALLS for opcode, _, _ in pickletools.genops(pickled))
    except (*UNREADABLE, StopIteration, zipfile.BadZipFile, zlib.error):
        return False


def _fits(tensor: Tensor, like: Tensor) -> bool:
    return (
        tensor.shape == like.shape
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.is_floating_point() == like.is_floating_point()
        and not tensor.is_complex()
    )


def _copy(tensor: Tensor | None, like: Tensor) -> Tensor:
    out = torch.zeros(like.shape, dtype=like.dtype)
    return out if tensor is None else out.copy_(tensor.detach())


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _first(names: list[str]) -> str:
    more = ", ..." if len(names) > _N_SHOWN else ""
    return ", ".join(names[:_N_SHOWN]) + more
