import hashlib
import json
import pickle
from typing import Any

import pytest

from featcache.core.preprocess import Preprocess
from featcache.errors import MismatchError
from featcache.store import describe_cache, list_caches, open_cache, require_identity
from featcache.store.identity import Identity, NumericClass, Provenance
from tests.store.conftest import MakeRecipe

PREPROCESS = {
    "crop": None,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "resize": [64, 64],
    "std": [0.5, 0.5, 0.5],
}
ADAPTED = {"mode": "adapted", "batch_size": 256, "seed": 0}
EXTRACTED = {"backbone": "vgg16", "format": 1, "bn": ADAPTED, "preprocess": PREPROCESS}
LATER = {"backbone": "vgg16", "format": 1, "augment": {"views": 4}, "crop": None}


def test_what_the_code_reads_has_a_type() -> None:
    identity = Identity.from_json(EXTRACTED)

    assert (identity.backbone, identity.bn) == ("vgg16", "adapted")
    assert identity.preprocess == Preprocess.notebook(64)
    assert Identity.from_json({"backbone": "imported", "bn": "frozen"}).bn == "frozen"


@pytest.mark.parametrize("stored", [EXTRACTED, LATER, {"backbone": "toy"}])
def test_an_identity_keeps_its_json_to_the_letter(stored: dict[str, Any]) -> None:
    identity = Identity.from_json(stored)

    canonical = json.dumps(stored, sort_keys=True, separators=(",", ":"))
    assert identity.to_json() == stored
    assert identity.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()
    assert pickle.loads(pickle.dumps(identity)) == identity


def test_an_identity_is_a_mapping_of_all_its_fields() -> None:
    identity = Identity.from_json(LATER)

    assert identity == LATER
    assert identity != {"backbone": "vgg16"}
    assert {**identity} == LATER
    assert identity["augment"] == {"views": 4}
    assert "layer" not in identity


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": 7}, "7 where text was expected"),
        ({"backbone": "../vgg16"}, "no name of a backbone"),
        ({"pool": ["avg"]}, "where text was expected"),
        ({"weights_sha256": 5}, "5 where text was expected"),
        ({"dataset_sha256": None}, "None where text was expected"),
        ({"precision": ["fp32"]}, "where text was expected"),
        ({"layer": "x" * 9000}, "a name of 9000 characters"),
        ({"preprocess": {**PREPROCESS, "resize": []}}, "where a preprocessing was expected"),
        ({"preprocess": 3}, "3 where a preprocessing was expected"),
        ({"bn": 1}, "1 where text was expected"),
        ({"bn": {"mode": 1}}, "1 where text was expected"),
        ({"max_pixels": 0}, "0 where a count was expected"),
        ({"exif_orientation": "turn"}, "EXIF orientation 'turn'"),
        ({"layer": [[[[[1]]]]]}, "values within values"),
    ],
)
def test_a_field_of_another_type_is_refused_at_the_door(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Identity.from_json({**EXTRACTED, **wrong})


def test_an_identity_without_a_backbone_is_refused() -> None:
    with pytest.raises(KeyError, match="backbone"):
        Identity.from_json({"format": 1})


def test_a_provenance_reads_what_is_there_and_what_is_not() -> None:
    full = Provenance.from_json({"dataset": "digits", "limit": 24, "weights": "random (seed 0)"})
    bare = Provenance.from_json({"dataset": "digits"})

    assert (full.dataset, full.limit, full.weights) == ("digits", 24, "random (seed 0)")
    assert (bare.dataset, bare.limit, bare.weights) == ("digits", None, "none")
    assert bare.to_json() == {"dataset": "digits"}  # nothing is added
    for wrong in ({"dataset": 3}, {"limit": 0}, {"weights": []}):
        with pytest.raises((TypeError, ValueError), match="was expected"):
            Provenance.from_json({"dataset": "digits", **wrong})


def test_a_numeric_class_reads_the_batch_grid_and_the_engine() -> None:
    compiled = NumericClass.from_json({"batch_size": 16, "compiler": "inductor", "threads": 2})
    of_pixels = NumericClass.from_json({"pillow": "13"})

    assert (compiled.batch_size, compiled.compiler) == (16, "inductor")
    assert (of_pixels.batch_size, of_pixels.compiler) == (None, None)
    assert compiled.to_json() == {"batch_size": 16, "compiler": "inductor", "threads": 2}
    for wrong in ({"batch_size": 0}, {"compiler": 5}):
        with pytest.raises((TypeError, ValueError), match="was expected"):
            NumericClass.from_json(wrong)


def test_a_cache_of_a_later_version_is_shown_and_refused_by_the_field(
    make_recipe: MakeRecipe,
) -> None:
    path = make_recipe(identity=LATER).build()

    assert describe_cache(path).identity == LATER
    assert type(describe_cache(path).identity) is dict
    assert [(c.state, c.backbone) for c in list_caches(path.parents[1])] == [("complete", "vgg16")]
    with pytest.raises(
        MismatchError, match=r'augment\.views: found 4|augment: found \{"views":4\}'
    ):
        require_identity(
            path, open_cache(path).identity, Identity.from_json({"backbone": "vgg16", "format": 1})
        )
