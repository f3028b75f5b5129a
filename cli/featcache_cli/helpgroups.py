"""The groups in which a help shows its options, each with an example of its own.

Which group an option belongs to is said where it is declared: in the specs of the library, or in
`rich_help_panel` where a command has an option of its own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

OUTPUT = "Output"
_OTHERS = "Other options"

# Of each group, the first example is shown whose options the group has in a command.
_EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "Images": (
        "--dataset folder:pets --limit 500",
        "--dataset folder:pets",
        "--data-dir /data",
    ),
    "Views": ("--views 4 --augment flip,crop", "--views 4"),
    "Backbone": ("--backbone resnet50 --weights random", "--weights random"),
    "Measuring": ("--image-size 32",),
    "Machine": ("--device cpu --precision bf16", "--device cpu"),
    "Scale": ("--share 3/16",),
    "Forecast": ("--plan --rows 1000000",),
    "Cache": (
        "--dataset cifar10 --backbone vgg16",
        "--name flowers --class-names rose,tulip",
        "--cache-dir /data/cache",
        "--mix-numerics",
    ),
    "File": (
        "--format onnx --input crop --out flowers.onnx",
        "--features train_x --labels train_y",
        "--format parquet --out clip.parquet",
    ),
    "Check": ("--subset 5%", "--check photos"),
    "Answer": ("--yes",),
    "Solver": ("--solver logreg --C 1e-3,1e-1,1",),
    "Head": ("--reg dropout --hidden 50,20",),
    "Grid": ("--reg none,l2 --lr 1e-4,1e-3",),
    "Training": ("--lr 1e-3 --max-epochs 50", "--epochs 5 --lr 1e-3", "--max-epochs 50"),
    "Validation": ("--val-fraction 0.1",),
    "Runs": ("--runs-dir /data/runs",),
    "Prediction": ("--run vgg16-none --top 3 --below 0.8", "--top 3 --below 0.8"),
    "Figures": ("--split val --plot", "--draws 10000"),
    "Comparison": ("--levels 1,2,3",),
    "Neighbours": ("--k 20 --split train",),
    "Audit": ("--top 50 --write-list keep.csv",),
    "Probe": ("--per-class 1,2,4,8,16 --tries 5",),
    "Page": ("--out flowers.html",),
    "Systems": ("--only vgg16 --seeds 5",),
    OUTPUT: ("--quiet",),
}


def heading_of(group: str | None, options: Container[str]) -> str:
    """Write the heading of a group.

    Args:
        group: Its name; None is that of options that say none.
        options: Those of the group that the command has, as typed.
    """
    for example in _EXAMPLES.get(group or "", ()):
        if all(word in options for word in example.split() if word.startswith("--")):
            return f"{group}, as in {example}"
    return _OTHERS
