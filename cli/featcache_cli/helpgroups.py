"""The groups in which a help shows its options, each with an example of its own."""

from __future__ import annotations

from collections.abc import Container, Mapping

OUTPUT = "Output, as in --quiet"
_OTHERS = "Other options"

# By command, then by heading; "" is for every command. An option stands in the first that names it.
_GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "train-head": {
        "Cache, as in --dataset cifar10 --backbone vgg16": (
            "cache",
            "dataset",
            "backbone",
            "cache_dir",
        ),
    },
    "sweep": {
        "Cache, as in --dataset cifar10 --backbone vgg16": (
            "cache",
            "dataset",
            "backbone",
            "cache_dir",
        ),
        "Grid, as in --reg none,l2 --lr 1e-4,1e-3": (
            "recipe",
            "reg",
            "l1",
            "weight_decay",
            "dropout",
            "hidden",
            "lr",
            "seed",
            "seeds",
        ),
    },
    "eval": {
        "Figures, as in --split val --plot": ("split", "draws", "seed", "plot"),
    },
    "parity": {
        "Comparison, as in --levels 1,2,3": ("levels", "limit", "as_notebook"),
        "Training, as in --epochs 5 --lr 1e-3": (
            "epochs",
            "reg",
            "hidden",
            "lr",
            "batch_size",
            "seed",
            "seeds",
        ),
    },
    "reproduce": {
        "Systems, as in --only vgg16 --seeds 5": ("only", "backbone_for", "seed", "seeds"),
    },
    "backbones": {
        "Measuring, as in --image-size 32": ("image_size",),
    },
    "verify": {
        "Check, as in --subset 5%": ("subset",),
    },
    "rm": {
        "Answer, as in --yes": ("yes",),
    },
    "import": {
        "File, as in --features train_x --labels train_y": (
            "features",
            "labels",
            "ids",
            "test_features",
            "test_labels",
            "test_ids",
        ),
        "Cache, as in --name flowers --class-names rose,tulip": (
            "class_names",
            "n_classes",
            "name",
            "store_dtype",
            "cache_dir",
        ),
    },
    "": {
        "Images, as in --dataset folder:pets --limit 500": (
            "dataset",
            "path_column",
            "label_column",
            "limit",
            "max_pixels",
            "exif_orientation",
            "skip_undecodable",
            "rehash",
            "data_dir",
        ),
        "Images, as in --dataset folder:pets": ("dataset", "skip_undecodable", "data_dir"),
        "Images, as in --data-dir /data": ("data_dir",),
        "Backbone, as in --backbone resnet50 --weights random": (
            "backbone",
            "weights",
            "bn",
            "preprocess",
            "image_size",
            "seed",
        ),
        "Backbone, as in --weights random": ("weights", "bn", "image_size"),
        "Head, as in --reg dropout --hidden 50,20": (
            "reg",
            "l1",
            "weight_decay",
            "dropout",
            "hidden",
        ),
        "Training, as in --lr 1e-3 --max-epochs 50": (
            "recipe",
            "lr",
            "batch_size",
            "max_epochs",
            "patience",
            "min_delta",
            "select",
            "seed",
            "order_seed",
            "seeds",
        ),
        "Training, as in --max-epochs 50": (
            "batch_size",
            "max_epochs",
            "patience",
            "min_delta",
            "select",
        ),
        "Validation, as in --val-fraction 0.1": ("val_fraction", "split_seed"),
        "Machine, as in --device cpu --precision bf16": (
            "device",
            "precision",
            "batch_size",
            "n_workers",
            "compile",
        ),
        "Machine, as in --device cpu": ("device", "max_memory", "n_workers"),
        "Runs, as in --runs-dir /data/runs": ("resume", "runs_dir"),
        "Cache, as in --cache-dir /data/cache": (
            "cache",
            "store_dtype",
            "mix_numerics",
            "cache_dir",
        ),
        OUTPUT: ("json", "csv", "quiet", "verbose", "help", "version"),
    },
}


def heading_of(name: str, command: str, options: Container[str]) -> str:
    """Name the group of an option.

    Args:
        name: The option, as its parameter is called.
        command: The command.
        options: All options of the command, as typed: only an example that they allow is shown.
    """
    for groups in (_GROUPS.get(command, {}), _GROUPS[""]):
        for heading, names in groups.items():
            if name in names and all(word in options for word in examples_in(heading)):
                return heading
    return _OTHERS


def examples_in(heading: str) -> list[str]:
    """List the options that the example in a heading uses."""
    return [word for word in heading.split() if word.startswith("--")]
