from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

import featcache.backbones.engines.trial
from featcache.errors import FeatcacheError, UnknownNameError, counted, did_you_mean


def kinds(parent: type[FeatcacheError] = FeatcacheError) -> Iterator[type[FeatcacheError]]:
    for kind in parent.__subclasses__():
        if kind.__module__ in ("featcache.errors", featcache.backbones.engines.trial.__name__):
            yield kind
            yield from kinds(kind)


def an_error(kind: type[FeatcacheError]) -> FeatcacheError:
    if issubclass(kind, UnknownNameError):
        return kind("backbone", "vgg61", ["vgg16"], listing="featcache backbones")
    return kind("What happened. Nothing was written.")


@pytest.mark.parametrize("kind", {kind.__name__: kind for kind in kinds()}.values())
def test_an_error_goes_to_another_process_and_back(kind: type[FeatcacheError]) -> None:
    error = an_error(kind)
    error.add_note("in job 3")

    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert other.exit_code == error.exit_code
        assert other.__notes__ == ["in job 3"]


def test_a_count_stands_before_a_noun_in_its_number() -> None:
    nouns = ("row", "class", "probability", "HEIC file", "epoch", "batch")

    told = {n: [counted(n, noun) for noun in nouns] for n in (0, 1, 2)}

    assert told == {
        0: ["0 rows", "0 classes", "0 probabilities", "0 HEIC files", "0 epochs", "0 batches"],
        1: ["1 row", "1 class", "1 probability", "1 HEIC file", "1 epoch", "1 batch"],
        2: ["2 rows", "2 classes", "2 probabilities", "2 HEIC files", "2 epochs", "2 batches"],
    }


def test_the_names_most_like_a_wrong_one_are_asked_about() -> None:
    known = ["resnet18", "VGG16_bn", "vgg16"]

    assert did_you_mean("Vgg16", known) == " Did you mean vgg16, VGG16_bn?"
    assert did_you_mean("Vgg16", known, most=1, show=repr) == " Did you mean 'vgg16'?"
    assert did_you_mean("xyz", known) == ""
