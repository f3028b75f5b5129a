"""`featcache demo`: the main job on images that scikit-learn ships, without a network."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from featcache.config import ExtractSpec, RunSpec
from featcache.errors import counted
from featcache_cli.commands import cache
from featcache_cli.commands.cache_verify import verify
from featcache_cli.commands.evaluate import evaluate
from featcache_cli.commands.extract import extract
from featcache_cli.commands.train_head import train_head
from featcache_cli.console import duration, headline, note
from featcache_cli.options import options_of, takes
from featcache_cli.tables import show_facts

if TYPE_CHECKING:
    from featcache.extraction.cost import CostAccount
    from featcache.heads.run_files import HeadRun
    from featcache.training.train_result import TrainResult

_BACKBONE, _IMAGE_SIZE = "vgg16", 64
_LR, _MAX_EPOCHS = 1e-3, 8


@takes(options_of(ExtractSpec, "cache_dir"), options_of(RunSpec, "runs_dir"))
def demo(*, cache_dir: str, runs_dir: str) -> None:
    """Extract 1,797 digits and train heads on them, without a network.

    Through the backbones pixels and vgg16, then cache ls, info and verify, four heads, and eval.
    """
    from featcache import describe_backbone

    place = ["--cache-dir", cache_dir]

    shape = ["--image-size", str(_IMAGE_SIZE)]
    _tell("extract", "--dataset", "digits", "--backbone", "pixels", *shape, *place)
    [pixels] = extract(
        dataset="digits", backbone=["pixels"], image_size=_IMAGE_SIZE, cache_dir=cache_dir
    )
    described = describe_backbone(_BACKBONE, _IMAGE_SIZE)
    has_weights = described.weights[0] in described.weights_on_disk  # the first is DEFAULT
    weights = "DEFAULT" if has_weights else "random"
    shape += ["--weights", weights]
    _tell("extract", "--dataset", "digits", "--backbone", _BACKBONE, *shape, *place)
    [features] = extract(
        dataset="digits",
        backbone=[_BACKBONE],
        image_size=_IMAGE_SIZE,
        weights=weights,
        cache_dir=cache_dir,
    )
    _tell("cache", "ls", *place)
    cache.ls(cache_dir=cache_dir)
    _tell("cache", "info", str(features.path))
    cache.info(str(features.path))
    for path in (pixels.path, features.path):
        _tell("cache", "verify", str(path))
        verify(str(path))

    trained = [
        _trained(str(path), reg, runs_dir)
        for path in (pixels.path, features.path)
        for reg in ("none", "dropout")
    ]
    of_the_backbone = str(trained[2].path)
    _tell("eval", of_the_backbone)
    evaluate([of_the_backbone])

    headline("The demo is done.")
    if has_weights:
        note(f"{_BACKBONE} ran with its ImageNet weights, which are on this machine.")
    else:
        note(
            f"{_BACKBONE} ran with random weights (seed 0): its ImageNet weights are not on this "
            f"machine. All steps are the real ones, but accuracies on these features would mean "
            f"nothing; with a network, --weights DEFAULT fetches the real ones."
        )
    if features.account is not None:
        note(_cost(features.account, [run for result in trained[2:] for run in result.runs]))
    show_facts(
        {
            "made": pixels.path,
            "and": features.path,
            "heads": ", ".join(str(result.path) for result in trained),
            "next": "featcache extract --dataset cifar10 --backbone vgg16",
        }
    )


def _trained(cache: str, reg: str, runs_dir: str) -> TrainResult:
    options = ["--reg", reg, "--lr", str(_LR), "--max-epochs", str(_MAX_EPOCHS)]
    _tell("train-head", "--cache", cache, *options, "--runs-dir", runs_dir)
    result: TrainResult = train_head(
        cache=cache, reg=reg, lr=_LR, max_epochs=_MAX_EPOCHS, runs_dir=runs_dir
    )
    return result


def _cost(account: CostAccount, runs: list[HeadRun]) -> str:
    n_epochs = sum(run.n_epochs for run in runs)
    heads_s = sum(run.seconds for run in runs)
    end_to_end_s = n_epochs * account.end_to_end_epoch_s
    return (
        f"{_BACKBONE} cost {duration(account.extraction_s)} for its cache and {duration(heads_s)} "
        f"for {counted(len(runs), 'head')} of {counted(n_epochs, 'epoch')} together; with the "
        f"backbone in the loop these epochs take at least {duration(end_to_end_s)}."
    )


def _tell(*command: str) -> None:
    headline(f"$ featcache {shlex.join(command)}")
