from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch

import featcache
from featcache.core.identity import canonical_json
from featcache.errors import CorruptError
from featcache.heads.head_file import load_head
from featcache.store import open_cache
from featcache.store.manifest import HEADER, MANIFEST_OFFSET
from featcache.store.reader import opened_readonly, read_manifest
from featcache.training.train_result import TrainResult
from featcache_cli.tables import show_facts, show_table
from tests.faults.hostile import claims
from tests.faults.hostile_files import resigned
from tests.feature_caches import MakeCache, cache, make_cache, train
from tests.store.conftest import Recipe, random_rows

__all__ = ["cache", "make_cache", "train"]


def test_every_claim_holds(tmp_path: Path) -> None:
    found = claims(tmp_path, quick=True)

    assert [c.line for c in found if not c.holds] == []


def test_a_signed_hole_of_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = Recipe(tmp_path / "a.h5", {"train": random_rows(3, 2)}).build()
    with opened_readonly(path) as fd:
        raw = read_manifest(fd, name="a").to_bytes()
    manifest = {**json.loads(raw.split(b"\n", 1)[1]), "file_size": 1 << 41}
    body = canonical_json(manifest).encode()
    head = HEADER.format(version=2, length=len(body), sha256=hashlib.sha256(body).hexdigest())
    with path.open("r+b") as file:
        file.seek(MANIFEST_OFFSET)
        file.write(head.encode() + body)
    os.truncate(path, 1 << 41)
    started = time.perf_counter()

    with pytest.raises(CorruptError, match="bytes outside all datasets"):
        open_cache(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"n_features": 10**9},
        {"n_features": float("inf")},
        {"class_names": ["x"] * 10**6},
        {"format": 2, "versions": []},
    ],
)
def test_a_head_that_promises_more_than_it_holds_is_refused_at_once(
    train: Callable[..., TrainResult], changes: dict[str, object]
) -> None:
    path = train().path / "head.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["featcache"]) | changes
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state, path, metadata={"featcache": json.dumps(description)})

    with pytest.raises(CorruptError, match="describes a head that it does not hold"):
        load_head(path)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("identity", "backbone", "../../../out", "which is no name of a backbone"),
        ("provenance", "dataset", "../../../out", r"names its dataset '\.\./\.\./\.\./out'"),
        ("provenance", "dataset", "folder:a\0b", r"names its dataset 'folder:a\\x00b'"),
        ("provenance", "dataset", "x" * 300, "which is none that featcache knows"),
    ],
)
def test_what_a_cache_names_leads_out_of_no_folder(
    make_cache: MakeCache, tmp_path: Path, part: str, name: str, value: str, message: str
) -> None:
    path = make_cache()
    path.write_bytes(resigned(path.read_bytes(), lambda m: m[part].update({name: value})))

    with pytest.raises(CorruptError, match=message):
        featcache.train_head(path, max_epochs=1, runs_dir=tmp_path / "runs")
    assert not list(tmp_path.glob("**/out*"))


def test_names_of_facts_and_columns_are_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    show_facts({"a\x1b[2J[red]": 1})
    show_table(["#b\x1b[2J[red]"], [[2]])

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"a\x1b[2J[red]  1" in shown
    assert r"b\x1b[2J[red]" in shown
