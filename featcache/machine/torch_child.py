"""What only torch can tell of a machine; run in a process of its own, which prints it as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def torch_facts() -> dict[str, Any]:
    """Tell its version, and what it was built for."""
    import torch

    return {"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip}


def torchvision_facts() -> dict[str, Any]:
    """Tell torchvision's version; one of another torch cannot be imported."""
    import torchvision

    return {"version": torchvision.__version__}


def device_facts() -> dict[str, Any]:
    """Tell which device is chosen, why, and what it can do."""
    import torch

    from featcache.core.device import pick_device, pick_precision
    from featcache.core.memory import free_memory

    device = pick_device("auto")
    precision = pick_precision("auto", device.value)
    free = free_memory(device.value) if device.value != "cpu" else None
    return {
        "device": device.value,
        "why": device.why,
        "precision": precision.value,
        "free": None if free is None else free.n_bytes,
        "simd": torch.backends.cpu.get_cpu_capability(),
    }


def cores_facts() -> dict[str, Any]:
    """Tell the processor, and how much of it may be used."""
    import torch

    from featcache.core.device import processor_name
    from featcache.core.usable_cores import usable_cores

    cores = usable_cores()
    return {
        "processor": processor_name(),
        "n_cores": cores.value,
        "why": cores.why,
        "n_threads": torch.get_num_threads(),
    }


def memory_facts() -> dict[str, Any]:
    """Tell how much memory is free, within the limits of a container."""
    from featcache.core.memory import free_memory

    free = free_memory("cpu")
    return {"n_bytes": free.n_bytes, "kind": free.kind}


def weights_facts() -> dict[str, Any]:
    """Tell which of torchvision's weights are here, by backbone, and in which folder."""
    import torch

    from featcache.backbones.torchvision_weights import list_pretrained
    from featcache.core.backbone_names import torchvision_names

    here = {
        backbone: [one.name for one in list_pretrained(backbone) if one.file.is_file()]
        for backbone in torchvision_names()
    }
    folder = f"{torch.hub.get_dir()}/checkpoints"
    return {"here": {name: names for name, names in here.items() if names}, "folder": folder}


STEPS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_facts,
    "torchvision": torchvision_facts,
    "device": device_facts,
    "cores": cores_facts,
    "memory": memory_facts,
    "weights": weights_facts,
}


def facts() -> dict[str, dict[str, Any]]:
    """Take all steps; one that fails says {"failed": why}."""
    found = {}
    for name, step in STEPS.items():
        try:
            found[name] = step()
        except Exception as err:  # of what is broken there, of any kind
            found[name] = {"failed": f"{type(err).__name__}: {str(err).partition(chr(10))[0]}"}
    return found


def main() -> None:
    """Write them in the last line; what libraries print stands before it."""
    sys.stdout.write(f"\n{json.dumps(facts())}\n")
