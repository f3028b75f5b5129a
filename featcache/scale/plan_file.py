"""plan.json: what all shares of a cache have in common, made once and never changed."""

from __future__ import annotations

import base64
import binascii
import glob
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.config import ExtractSpec
from featcache.config.scale_specs import MOST_SHARES
from featcache.core.backbone_kinds import backbone_slug
from featcache.core.files import make_folder, named_failures, read_at
from featcache.core.identity import canonical_json, differing_fields
from featcache.core.replace import write_new_file
from featcache.core.reporting import NoteCallback
from featcache.errors import (
    CacheMissingError,
    CorruptError,
    FeatcacheError,
    MismatchError,
    clipped,
)
from featcache.scale.shares import Share, blocks_of_share
from featcache.store import (
    Extent,
    Identity,
    Manifest,
    cache_path,
    extract_command,
    opened_readonly,
)
from featcache.store.json_values import count, mapping, text
from featcache.store.manifest import HEADER_LENGTH
from featcache.store.manifest_parser import FirstLine, parse_manifest
from featcache.store.merging import part_identity

NAME = "plan.json"
_VERSION = 1
# More than the statistics of the largest networks, and the digests of 99,999 shares.
_MOST_BYTES = 256 << 20
# What may differ from machine to machine, and what no file depends on.
_LOCAL = (
    "batch_size",
    "cache_dir",
    "compile",
    "data_dir",
    "device",
    "mix_numerics",
    "n_workers",
    "rehash",
    "skip_undecodable",
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PartsPlan:
    """What all shares of a cache have in common.

    Attributes:
        folder: Of the parts.
        asked: The options of `extract` that decide the cache.
        data_dir: Where the images were when it was made, for the commands that it tells.
        n_shares: How many shares there are.
        manifest: That of the whole file.
        shares_sha256: Of each share, the digest of its labels, ids and images, hex; empty for one
            without blocks.
        statistics: Running statistics of an adapted backbone, one after the other; else None.
        reference: Reference rows, (2, D); None where no network runs.
    """

    folder: Path
    asked: Mapping[str, Any]
    data_dir: str
    n_shares: int
    manifest: Manifest
    shares_sha256: tuple[str, ...]
    statistics: Floats | None
    reference: Floats | None

    @property
    def path(self) -> Path:
        """The file of the plan."""
        return self.folder / NAME

    @property
    def identity(self) -> Identity:
        """That of the whole."""
        return self.manifest.identity

    @property
    def whole(self) -> Path:
        """Where the parts are merged to."""
        return cache_path(self.folder.parent, self.identity.backbone, self.identity.fingerprint)

    @property
    def n_rows(self) -> int:
        """Rows of all shares."""
        return sum(split.n_rows for split in self.manifest.splits.values())

    def blocks(self, index: int) -> tuple[int, int]:
        """Give the first block of a share and the one behind its last; equal where it is empty."""
        return blocks_of_share(index, self.n_shares, self.manifest.n_blocks)

    @property
    def filled(self) -> list[int]:
        """Numbers of the shares that have blocks, and so a part."""
        ranges = [self.blocks(index) for index in range(self.n_shares)]
        return [index for index, (first, stop) in enumerate(ranges) if first < stop]

    def part(self, index: int) -> Path:
        """Name the part of a share that has blocks."""
        identity = part_identity(self.identity, *self.blocks(index), self.manifest.n_blocks)
        name = f"part-{index:05d}-of-{self.n_shares:05d}-{identity.fingerprint[:8]}.h5"
        return self.folder / name

    def command(self, share: Share, *, cache_dir: str | None = None) -> str:
        """Write the command that computes a share, with the options that decide the cache.

        Args:
            share: Which one.
            cache_dir: Where the parts are, if they are not those of this folder.
        """
        place = cache_dir or str(self.folder.parent.parent)
        said = {**self.asked, "data_dir": self.data_dir, "cache_dir": place}
        return f"{extract_command(said)} --share {share}"

    def write(self) -> bool:
        """Write the file, unless there is one; tell whether it was written."""
        content = self._to_bytes()
        with named_failures(self.path, kept="Nothing was computed."):
            make_folder(self.folder)
        return write_new_file(self.path, lambda file: file.write(content))

    def _to_bytes(self) -> bytes:
        said: dict[str, Any] = {
            "version": _VERSION,
            "asked": self.asked,
            "n_shares": self.n_shares,
            "shares_sha256": self.shares_sha256,
            "statistics": _to_text(self.statistics),
            "reference": _to_text(self.reference),
            "format_version": self.manifest.version,
            "manifest": json.loads(self.manifest.to_bytes()[HEADER_LENGTH:]),
        }
        if self.data_dir != ExtractSpec.data_dir:
            said["data_dir"] = self.data_dir
        sealed = {**said, "sha256": _sha256(said)}
        return json.dumps(sealed, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def asked_of(spec: ExtractSpec) -> dict[str, Any]:
    """Give the options that decide a cache, on whatever machine."""
    return {name: value for name, value in asdict(spec).items() if name not in _LOCAL}


def read_plan(folder: Path) -> PartsPlan:
    """Read the plan of a folder of parts.

    Raises:
        CacheMissingError: If there is none.
        CorruptError: If it is damaged, or no plan.
        MismatchError: If a later featcache wrote it.
    """
    path = folder / NAME
    if os.path.isfile(folder):  # noqa: PTH113 - Path.is_file raises for a name too long
        raise CacheMissingError(
            f"{folder} is a file, but the parts of a cache lie in a folder, <name>.parts. Nothing "
            f"was done. What the file is: featcache cache info {shlex.quote(str(folder))}"
        )
    if not os.path.lexists(path):
        raise CacheMissingError(
            f"There is no {path}, so {folder} is no folder of parts. Nothing was done. The first "
            f"share makes it: featcache extract ... --share 0/N."
        )
    with opened_readonly(path) as fd:
        content = read_at(fd, min(_MOST_BYTES, os.fstat(fd).st_size), 0)
    try:
        sealed = json.loads(content)
        if sealed.pop("sha256") != _sha256(sealed):
            raise ValueError("its SHA-256 differs")
        if sealed["version"] != _VERSION:
            raise MismatchError(
                f"{path} was made by another featcache: its version is "
                f"{clipped(repr(sealed['version']))}, and this one knows {_VERSION}. Nothing was "
                f"changed. Use one featcache for all shares."
            )
        return _from_json(folder, sealed)
    except MismatchError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as err:
        why = f"it lacks {err}" if isinstance(err, KeyError) else str(err)
        raise CorruptError(
            f"{path} is not a plan that featcache wrote ({clipped(why)}). Nothing was changed. "
            f"Remove {shlex.quote(str(folder))} and compute the shares again."
        ) from err


def find_plan(
    folder: Path, spec: ExtractSpec, n_shares: int, *, on_note: NoteCallback
) -> PartsPlan | None:
    """Find the plan for these options among the caches of a dataset; None if there is none.

    A plan that cannot be read, by whatever options it was made, is told and left alone.

    Raises:
        MismatchError: If it is of another number of shares.
    """
    asked = canonical_json(asked_of(spec))
    pattern = f"{glob.escape(backbone_slug(spec.backbone))}-*.parts/{NAME}"
    for path in sorted(folder.glob(pattern)):
        try:
            plan = read_plan(path.parent)
        except FeatcacheError as err:
            on_note(f"a plan was left out: {err}")
            continue
        if canonical_json(plan.asked) == asked:
            require_shares(plan, n_shares)
            return plan
    return None


def require_shares(plan: PartsPlan, n_shares: int) -> None:
    """Refuse another number of shares than a plan has, while its cache is not there.

    Raises:
        MismatchError: With both.
    """
    if plan.n_shares != n_shares and not plan.whole.is_file():
        raise MismatchError(
            f"{plan.path} is of another number of shares (n_shares: found {plan.n_shares}, wanted "
            f"{n_shares}). Nothing was changed. Go on with --share I/{plan.n_shares}, or remove "
            f"{shlex.quote(str(plan.folder))} to begin anew."
        )


def require_plan_of(plan: PartsPlan, identity: Identity) -> None:
    """Refuse to compute a share of something else than was planned.

    Raises:
        MismatchError: With the fields that differ.
    """
    differing = differing_fields(plan.identity, identity)
    if differing:
        raise MismatchError(
            f"{plan.path} plans another cache than this machine would make: "
            f"{'; '.join(differing)}. Nothing was changed. Give this machine the same weights, "
            f"options and device, or remove {shlex.quote(str(plan.folder))} to plan anew."
        )


def _from_json(folder: Path, said: dict[str, Any]) -> PartsPlan:
    body = canonical_json(said["manifest"]).encode()
    version = count(said["format_version"], least=1)
    first_line = FirstLine(version, len(body), hashlib.sha256(body).hexdigest())
    size = count(said["manifest"]["file_size"])
    manifest = parse_manifest(body, first_line, file_size=size, name=str(folder / NAME))
    n_shares = count(said["n_shares"], least=1)
    digests = tuple(text(digest) for digest in said["shares_sha256"])
    if n_shares > MOST_SHARES or len(digests) != n_shares:
        raise ValueError(f"{len(digests)} digests of {n_shares} shares")
    statistics = None if manifest.statistics is None else manifest.statistics.extent
    return PartsPlan(
        folder=folder,
        asked=mapping(said["asked"]),
        data_dir=text(said.get("data_dir", ExtractSpec.data_dir)),
        n_shares=n_shares,
        manifest=manifest,
        shares_sha256=digests,
        statistics=_from_text(said["statistics"], statistics),
        reference=_from_text(said["reference"], manifest.reference),
    )


def _to_text(values: Floats | None) -> str | None:
    return None if values is None else base64.b64encode(values.astype("<f4").tobytes()).decode()


def _from_text(content: Any, extent: Extent | None) -> Floats | None:
    if (content is None) != (extent is None):
        raise ValueError("statistics or reference rows without a place, or a place without them")
    if extent is None:
        return None
    try:
        values = np.frombuffer(base64.b64decode(content, validate=True), "<f4")
    except binascii.Error as err:
        raise ValueError("numbers that are not in base64") from err
    return values.reshape(extent.shape)


def _sha256(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()
