"""`featcache demo`: the main job on images that scikit-learn ships, without a network."""

from __future__ import annotations

import shlex
import subprocess
import sys

from featcache.specs import ExtractSpec
from featcache_cli.console import note, show_facts, stderr
from featcache_cli.options import CacheDirOption


def demo(cache_dir: CacheDirOption = ExtractSpec.cache_dir) -> None:
    """Extract, list, describe and verify: 1,797 digits through `pixels` and `vgg16`."""
    from featcache import describe_backbone

    has_weights = bool(describe_backbone("vgg16", 64).weights_on_disk)
    weights = "DEFAULT" if has_weights else "random"
    place = ["--cache-dir", cache_dir]
    pixels = ["extract", "--dataset", "digits", "--backbone", "pixels", *place]
    vgg16 = ["extract", "--dataset", "digits", "--backbone", "vgg16", "--image-size", "64"]
    commands = [
        pixels,
        [*vgg16, "--weights", weights, *place],
        ["cache", "ls", *place],
        ["cache", "info", "digits/vgg16", *place],
        ["cache", "verify", "digits/vgg16", *place],
        ["cache", "verify", "digits/pixels", *place],
    ]
    for command in commands:
        stderr.print(f"\n[bold]$ featcache {shlex.join(command)}[/bold]")
        finished = subprocess.run([sys.executable, "-m", "featcache_cli", *command], check=False)
        if finished.returncode:
            sys.exit(finished.returncode)
    if has_weights:
        note("\nvgg16 ran with its ImageNet weights, which are on this machine.")
    else:
        note(
            "\nvgg16 ran with random weights (seed 0): its ImageNet weights are not on this "
            "machine. All steps are the real ones, but accuracies on these features would mean "
            "nothing; with a network, --weights DEFAULT fetches the real ones."
        )
    show_facts(
        {
            "made": f"{cache_dir}/digits/pixels-*.h5 and {cache_dir}/digits/vgg16-*.h5",
            "next": "featcache extract --dataset cifar10 --backbone vgg16",
        }
    )
