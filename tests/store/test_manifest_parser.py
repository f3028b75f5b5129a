import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.errors import CorruptError, MismatchError
from featcache.store import CacheWriter, open_cache
from featcache.store.manifest import HEADER_LENGTH, MANIFEST_OFFSET, Manifest
from featcache.store.manifest_parser import FirstLine, parse_header, parse_manifest
from tests.faults.hostile_files import resigned
from tests.store.conftest import MakeRecipe, Recipe


def body_of(path: Path) -> bytes:
    raw = path.read_bytes()
    header = parse_header(raw[MANIFEST_OFFSET : MANIFEST_OFFSET + HEADER_LENGTH], name=path.name)
    return raw[MANIFEST_OFFSET + HEADER_LENGTH :][: header.length]


def parse(body: bytes, path: Path) -> Manifest:
    header = FirstLine(2, len(body), hashlib.sha256(body).hexdigest())
    return parse_manifest(body, header, file_size=path.stat().st_size, name=path.name)


def test_a_manifest_is_read_back_as_it_was_written(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(statistics=np.arange(3, dtype=np.float32))
    with recipe.create() as writer:
        written = writer.manifest

    manifest = parse(body_of(recipe.partial), recipe.partial)

    assert manifest == written
    assert manifest.to_bytes() == written.to_bytes()
    assert (manifest.identity, manifest.numerics) == (recipe.identity, recipe.numerics)


Edit = Callable[[dict[str, Any]], object]


def set_at(*keys: Any, to: Any) -> Edit:
    def edit(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return edit


TRAIN = ("splits", 0, "columns")


HUGE = 1 << 55


def overlap(manifest: dict[str, Any]) -> None:
    columns = manifest["splits"][0]["columns"]
    columns["labels"]["offset"] = columns["ids"]["offset"] + 8


def overlap_manifest(manifest: dict[str, Any]) -> None:
    manifest["splits"][0]["columns"]["labels"]["offset"] = MANIFEST_OFFSET + HEADER_LENGTH + 200


def more_rows(manifest: dict[str, Any]) -> None:
    split = manifest["splits"][0]
    split["n_rows"] = HUGE
    for column in split["columns"].values():
        column["shape"][0] = HUGE


def same_name(manifest: dict[str, Any]) -> None:
    manifest["splits"][1] = manifest["splits"][0]


def wide_statistics(n_dimensions: int) -> Edit:
    entries = [["running_mean", [1 << 54] * n_dimensions]]
    return set_at("statistics", to={"offset": 8192, "entries": entries})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (overlap, "two datasets overlap at byte"),
        (overlap_manifest, "two datasets overlap at byte"),
        (set_at(*TRAIN, "labels", "offset", to=0), "two datasets overlap at byte 0"),
        (set_at(*TRAIN, "ids", "offset", to=1 << 40), "behind the end of the file"),
        (set_at(*TRAIN, "features", "shape", to=[10, HUGE]), "overlap|behind the end"),
        (more_rows, r"a ledger .* for 9007199254740994 slots"),
        (set_at("rows_per_block", to=1), r"a ledger .* for 14 slots"),
        (set_at("ledger", "shape", to=[6, 64]), r"a ledger .* for 5 slots"),
        (set_at("ledger", "shape", to=[5, 32]), r"a ledger .* for 5 slots"),
        (set_at("ledger", "dtype", to="<f4"), r"a ledger .* for 5 slots"),
        (set_at("ledger", "offset", to=8200), r"a ledger .* for 5 slots"),
        (set_at(*TRAIN, "features", "dtype", to="<f8"), "dtype '<f8'"),
        (set_at(*TRAIN, "features", "dtype", to="|O"), r"dtype '\|O'"),
        (set_at(*TRAIN, "features", "dtype", to="<i8"), "features of split 'train' have dtype <i8"),
        (set_at(*TRAIN, "features", "dtype", to="<f4\n"), r"dtype '<f4\\n'"),
        (set_at(*TRAIN, "features", "dtype", to=4), "expected string"),
        (set_at(*TRAIN, "labels", "dtype", to="<f4"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "valid", "dtype", to="<i8"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "ids", "dtype", to="|u1"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "reason", "dtype", to="|u1"), "split 'train' has dtypes"),
        (set_at(*TRAIN, "ids", "dtype", to="|S0"), r"dtype '\|S0'"),
        (set_at(*TRAIN, "labels", "offset", to=-8), "-8 where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=True), "True where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to="9000"), "'9000' where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=9e3), "9000.0 where a count was expected"),
        (set_at(*TRAIN, "labels", "offset", to=1 << 56), "where a count was expected"),
        (
            set_at(*TRAIN, "labels", "shape", to=[9]),
            r"labels of .* are \(9,\) for 10 rows",
        ),
        (set_at(*TRAIN, "labels", "shape", to=[]), r"labels of .* are \(\) for 10 rows"),
        (
            set_at(*TRAIN, "labels", "shape", to=[10, 1]),
            r"labels of .* have shape \(10, 1\)",
        ),
        (set_at(*TRAIN, "features", "shape", to=[10, 0]), "0 where a count was expected"),
        (set_at(*TRAIN, "features", "shape", to=[10, 1, 1, 1, 1]), "shape of 5 dimensions"),
        (set_at(*TRAIN, "extra", to={}), "'dtype'"),
        (lambda m: m["splits"][0]["columns"].pop("valid"), "split 'train' has columns"),
        (set_at("splits", 0, "n_rows", to=0), "0 where a count was expected"),
        (set_at("splits", to=[]), "no splits"),
        (set_at("splits", to=3), "not iterable"),
        (set_at("splits", 0, "name", to=7), "7 where text was expected"),
        (same_name, "a ledger|not in canonical form"),
        (set_at("rows_per_block", to=0), "0 where a count was expected"),
        (set_at("class_names", to=["ant", 2]), "2 where text was expected"),
        (set_at("identity", "backbone", to="vgg16"), "fingerprint and identity disagree"),
        (set_at("identity", to=[["backbone", "toy"], ["seed", 0]]), "where a mapping was expected"),
        (set_at("unknown", to=1), "not in canonical form"),
        (set_at("statistics", to={"offset": 8192, "entries": []}), "statistics without entries"),
        (wide_statistics(2), r"a ledger .* for 6 slots"),
        (wide_statistics(100_000), "a shape of 100000 dimensions"),
        (lambda m: m.pop("ledger"), "'ledger'"),
    ],
)
def test_a_manifest_that_featcache_would_not_write_is_refused(
    built: Path, edit: Edit, message: str
) -> None:
    manifest = json.loads(body_of(built))
    edit(manifest)
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(CorruptError, match=message) as caught:
        parse(body, built)

    assert "toy-00000000.h5: the manifest is not one that featcache" in str(caught.value)


SQUARE = {"resize": [8, 8]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m["identity"].pop("backbone"), "it lacks 'backbone'"),
        (lambda m: m["provenance"].pop("dataset"), "it lacks 'dataset'"),
        (set_at("identity", "backbone", to=5), "5 where text was expected"),
        (set_at("identity", "backbone", to="../../out"), "which is no name of a backbone"),
        (set_at("identity", "backbone", to="x" * 101), "which is no name of a backbone"),
        (set_at("provenance", "dataset", to="x" * 8193), "a name of 8193 characters"),
        (set_at("provenance", "weights", to=[]), r"\[\] where text was expected"),
        (set_at("provenance", "limit", to="9"), "'9' where a count was expected"),
        (set_at("identity", "bn", to={}), "it lacks 'mode'"),
        (set_at("identity", "bn", to=7), "7 where text was expected"),
        (set_at("identity", "bn", to={"a": {"a": {"a": {}}}}), "deeper than any cache has"),
        (set_at("numerics", "any", to=[[[[]]]]), "deeper than any cache has"),
        (set_at("numerics", "compiler", to=5), "5 where text was expected"),
        (set_at("numerics", "batch_size", to=-1), "-1 where a count was expected"),
        (set_at("numerics", "batch_size", to=3), "blocks of 4 rows in batches of 3"),
        (set_at("rows_per_block", to=(1 << 20) + 1), "longer than any cache has"),
        (set_at("identity", "preprocess", to=5), "5 where a preprocessing was expected"),
        (set_at("identity", "preprocess", to={}), "where a preprocessing was expected"),
        (set_at("identity", "preprocess", to={**SQUARE, "x": 1}), "unexpected keyword"),
        (set_at("identity", "preprocess", to={"resize": [8, 8, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": [8.5, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": [1 << 30, 8]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={"resize": 8}), "needs a crop"),
        (set_at("identity", "preprocess", to={"resize": 8, "crop": 9}), "does not fit"),
        (set_at("identity", "preprocess", to={**SQUARE, "mean": [1]}), "a preprocessing was"),
        (set_at("identity", "preprocess", to={**SQUARE, "std": [0, 0, 0]}), "must be above 0"),
        (set_at("identity", "preprocess", to={**SQUARE, "std": [10**400] * 3}), "too large"),
        (set_at("identity", "preprocess", to={**SQUARE, "interpolation": "x"}), "not supported"),
    ],
)
def test_what_no_command_could_use_is_refused_at_the_door(
    built: Path, edit: Edit, message: str
) -> None:
    built.write_bytes(resigned(built.read_bytes(), edit))

    with pytest.raises(CorruptError, match=message) as caught:
        open_cache(built)

    assert "toy-00000000.h5: the manifest is not one that featcache" in str(caught.value)


def test_a_refusal_repeats_no_value_of_any_length(built: Path) -> None:
    manifest = json.loads(body_of(built))
    manifest["class_names"] = [["x" * 1_000_000]]
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(CorruptError, match=r"xxx\.\.\. \(10000\d\d characters\)") as caught:
        parse(body, built)

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed":0', b'"seed":0,"seed":0'),
        (b'"dataset":"toys"', b'"dataset":NaN'),
        (b'"dataset":"toys"', b'"dataset":-Infinity'),
        (b'"dataset":"toys"', b'"dataset":1e999'),
        (b'"dataset":"toys"', b'"dataset": "toys"'),
        (b'"dataset":"toys"', b'"dataset":"\xff"'),
        (b'"dataset":"toys"', b'"dataset":' + b"[" * 100_000 + b"]" * 100_000),
        (b'"dataset":"toys"', b'"dataset":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        (b'"dataset":"toys"', b'"dataset":' + b"9" * 10_000),
        (b'"dataset":"toys"', b'"dataset":"toys"' + b"]"),
    ],
)
def test_a_manifest_in_any_but_the_canonical_form_is_refused(
    built: Path, old: bytes, new: bytes
) -> None:
    body = body_of(built).replace(old, new)

    with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
        parse(body, built)


@pytest.mark.parametrize("body", [b"", b"[]", b"3", b"null", b'"text"', b"{}"])
def test_a_manifest_that_is_no_manifest_is_refused(built: Path, body: bytes) -> None:
    with pytest.raises(CorruptError, match="the manifest is not one that featcache writes"):
        parse(body, built)


def test_a_manifest_with_another_digest_is_refused(built: Path) -> None:
    body = body_of(built)

    with pytest.raises(CorruptError, match=r"the manifest is damaged \(its SHA-256 differs\)"):
        parse_manifest(
            body, FirstLine(2, len(body), "0" * 64), file_size=built.stat().st_size, name="a.h5"
        )


def test_a_file_cut_or_extended_is_refused_with_both_sizes(built: Path) -> None:
    n_bytes = built.stat().st_size
    os.truncate(built, n_bytes + 1)

    with pytest.raises(CorruptError, match=f"has {n_bytes + 1} bytes, but its manifest says"):
        open_cache(built)


def test_a_file_of_another_format_version_is_refused_by_name(built: Path) -> None:
    raw = built.read_bytes().replace(b"featcache manifest v002", b"featcache manifest v003")
    built.write_bytes(raw)

    with pytest.raises(
        MismatchError, match=r"made by a later featcache: its format version is 3, .* 1 to 2"
    ) as caught:
        open_cache(built)

    assert caught.value.exit_code == 12


def test_a_manifest_longer_than_any_is_not_read(built: Path) -> None:
    header = b"featcache manifest v002 length=9999999999 sha256=" + b"0" * 64 + b"\n"

    with pytest.raises(CorruptError, match="a manifest of 9999999999 bytes is more than any"):
        parse_header(header, name="a.h5")


def test_a_file_whose_manifest_promises_huge_rows_is_refused_at_once(
    recipe: Recipe, built: Path
) -> None:
    manifest = json.loads(body_of(built))
    more_rows(manifest)
    body = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(body).hexdigest()
    header = f"featcache manifest v002 length={len(body):010d} sha256={sha256}\n".encode()
    with built.open("r+b") as file:
        file.seek(MANIFEST_OFFSET)
        file.write(header + body)
    started = time.process_time()

    with pytest.raises(CorruptError, match="a ledger"):
        open_cache(built)

    assert time.process_time() - started < 1


def test_a_created_file_is_read_by_its_own_writer_before_the_first_row(recipe: Recipe) -> None:
    recipe.create().close()

    with CacheWriter.resume(recipe.path, recipe.rows()) as writer:
        assert len(writer.pending()) == 4
        assert writer.acknowledged() == []
