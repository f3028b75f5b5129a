"""The options of an extraction, of a head, and of its training, each with default and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.core.arguments import (
    device_name,
    is_several,
    option_name,
    require_above_zero,
    require_at_least,
    typed,
)
from featcache.core.backbone_kinds import written_name
from featcache.core.dataset_names import dataset_name, with_columns
from featcache.core.options import AUTO, check_fields, option, options_in
from featcache.core.preprocess import MOST_PIXELS
from featcache.errors import UsageError, counted

IMPORTED = "imported"
NOTEBOOK_SIZE = 224  # side of what enters the notebook's backbones, in pixels

POOLS = ("default", "flatten", "avg", "max", "cls", "mean", "cls+mean")
BN_MODES = ("frozen", "adapted")
STORE_DTYPES = ("float32", "float16")
MAX_PIXELS = 178_956_970  # of an image; PIL's own: 0.5 GiB of RGB
# Counts that provenance keeps: images with values clipped to 0..255, and images not upright.
TOLD_OF_HEADERS = ("clipped_images", "exif_turned_images")
EXIF_ORIENTATIONS = ("ignore", "apply")
REGULARISATIONS = ("none", "l1", "l2", "l1l2", "dropout")
RECIPES = ("auto", "notebook", "general")
SPLITS = ("test", "val", "train")
MOST_LAYERS = 64
MOST_ROWS = 1 << 30  # in one step or pass; more than any split has
MOST_SEEDS = 10_000  # seeds of one training; each makes a folder
VAL_FRACTION = 0.2  # of the training rows, where neither a share nor a split "val" is given

# The options that each regularisation has, and the notebook's values of them.
OPTIONS_OF_REG: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "l1": ("l1",),
    "l2": ("weight_decay",),
    "l1l2": ("l1", "weight_decay"),
    "dropout": ("dropout",),
}
NOTEBOOK_VALUES: Mapping[str, Any] = {"l1": 1e-5, "weight_decay": 1e-4, "dropout": (0.5, 0.3)}
# What a recipe decides where it is not given.
OF_THE_RECIPE = ("hidden", "lr", "max_epochs", "patience", "select")


def _regs_with(name: str) -> str:
    """Name the regularisations that an option belongs to."""
    return " or ".join(reg for reg, names in OPTIONS_OF_REG.items() if name in names)


def _notebooks(name: str) -> str:
    """Write the notebook's value of an option."""
    return f"{typed(NOTEBOOK_VALUES[name])} with reg {_regs_with(name)}"


@options_in("Backbone")
@dataclass(frozen=True, kw_only=True)
class ExtractSpec:
    """Everything that `extract` can be asked for."""

    dataset: str = option(
        "cifar10",
        "The images: cifar10, cifar100, digits, torchvision:NAME, folder:PATH, images:PATH, "
        "list:FILE, parquet:FILES, tar:SHARDS or zip:FILE.",
        group="Images",
    )
    backbone: str = option(
        "vgg16",
        "The frozen network: a torchvision classification model, timm:NAME, "
        "PACKAGE.MODULE:FUNCTION, or pixels.",
    )
    weights: str = option(
        "DEFAULT", "DEFAULT, the name of torchvision weights, a file, FILE#PART, or random."
    )
    layer: str | None = option(
        None,
        "Take the output of this part of the backbone; `backbones NAME --layers` lists them.",
        unset="what enters the classifier",
    )
    pool: str = option(
        "default",
        "How that output becomes a row; default is avg for maps, mean for tokens, and without "
        "--layer the backbone's own.",
        choices=POOLS,
    )
    bn: str = option(
        "frozen",
        "BatchNorm statistics: those of the weights, or estimated again on the training images.",
        choices=BN_MODES,
    )
    preprocess: str = option(
        AUTO,
        "Preparation of the images: notebook (a square, mean and std 0.5), or that of the weights. "
        "auto is weights for timm, else notebook.",
        choices=(AUTO, "notebook", "weights"),
    )
    image_size: int | None = option(
        None,
        "Side of the square that enters the backbone, in pixels; auto: that of timm's weights, "
        f"else {NOTEBOOK_SIZE}.",
        least=1,
        most=MOST_PIXELS,
        unset=AUTO,
    )
    precision: str = option(
        "auto",
        "Arithmetic of the backbone. auto is fp32 on a CPU, and tf32 on a GPU with tensor cores.",
        choices=("auto", "fp32", "tf32", "bf16", "fp16"),
        group="Machine",
    )
    store_dtype: str = option(
        "float32", "Type of the stored features.", choices=STORE_DTYPES, group="Cache"
    )
    device: str = option("auto", "Where to compute: auto, cpu, cuda or cuda:N.", group="Machine")
    batch_size: int | None = option(
        None,
        "Images in one forward pass; auto: by free memory.",
        least=1,
        most=MOST_ROWS,
        unset=AUTO,
        group="Machine",
    )
    n_workers: int | None = option(
        None,
        "Processes that decode image files; auto: one for each core, 8 at most for a CPU.",
        least=0,
        unset=AUTO,
        group="Machine",
    )
    limit: int | None = option(
        None,
        "Take only this many images of each split, evenly spaced.",
        least=1,
        unset="all",
        group="Images",
    )
    path_column: str | None = option(
        None,
        "Column of a list or table with the images or their paths.",
        unset="path, file_name",
        group="Images",
    )
    label_column: str | None = option(
        None,
        "Column of a list or table, or key of KEY.json in an archive, with the labels.",
        unset="label",
        group="Images",
    )
    seed: int = option(0, "Seed of random weights.", least=0)
    cache_dir: str = option("cache", "Folder of all caches.", group="Cache")
    data_dir: str = option("data", "Folder of downloaded datasets.", group="Images")
    compile: str = option(
        "auto",
        "Compile the backbone. auto tries it where the job is long enough to pay; winograd and "
        "inductor are for a CPU, fused is for CUDA.",
        choices=("auto", "never", "winograd", "inductor", "fused"),
        group="Machine",
    )
    mix_numerics: bool = option(
        False, "Continue a partial file of different hardware or library versions.", group="Cache"
    )
    max_pixels: int = option(
        MAX_PIXELS, "Do not decode an image file that has more pixels.", least=1, group="Images"
    )
    exif_orientation: str = option(
        "ignore",
        "Rotation that EXIF asks for: ignore it as torchvision does, or apply it (phone photos).",
        choices=EXIF_ORIENTATIONS,
        group="Images",
    )
    skip_undecodable: bool = option(
        False,
        "Continue where this machine cannot decode an image, for lack of memory or time; `cache "
        "repair` can compute it later.",
        group="Images",
    )
    rehash: bool = option(
        False,
        "Read every file of the images and weights again, also where size and times say that it "
        "did not change.",
        group="Images",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", dataset_name(self.dataset))
        check_fields(self)
        self._put_columns_into_the_name()
        object.__setattr__(self, "device", device_name(self.device))
        object.__setattr__(self, "backbone", written_name(self.backbone))

    def _put_columns_into_the_name(self) -> None:
        """Say the columns in the name, by which a repair and others find the images again."""
        asked = {"path": self.path_column, "label": self.label_column}
        said = {kind: column for kind, column in asked.items() if column is not None}
        object.__setattr__(self, "dataset", with_columns(self.dataset, said))
        for kind in said:
            object.__setattr__(self, f"{kind}_column", None)


@options_in("Head")
@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """The shape of a head and its regularisation; None stands for the notebook's value."""

    hidden: tuple[int, ...] = option(
        (50, 20),
        "Widths of the hidden layers, each followed by ReLU. Empty ('') is a linear probe.",
        least=1,
    )
    reg: str = option("none", "Regularisation.", choices=REGULARISATIONS)
    l1: float | None = option(
        None,
        "Factor of the L1 penalty in the loss: the sum of |p| over weights and biases.",
        unset=_notebooks("l1"),
    )
    weight_decay: float | None = option(
        None, "Adam's (coupled) L2 factor.", unset=_notebooks("weight_decay")
    )
    dropout: tuple[float, ...] | None = option(
        None,
        "Probability after each hidden layer.",
        unset=_notebooks("dropout"),
    )

    def __post_init__(self) -> None:
        is_one = self.dropout is not None and not is_several(self.dropout)
        check_fields(self)
        if len(self.hidden) > MOST_LAYERS:
            raise UsageError(
                f"--hidden has {len(self.hidden)} layers, but must have at most {MOST_LAYERS}."
            )
        if is_one and self.dropout and self.reg == "dropout":
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden))
        self._settle("l1", off=0.0)
        self._settle("weight_decay", off=0.0)
        self._settle("dropout", off=())
        of_reg = OPTIONS_OF_REG[self.reg]
        require_above_zero("--l1", self.l1, or_zero="l1" not in of_reg)
        require_above_zero(
            "--weight-decay", self.weight_decay, or_zero="weight_decay" not in of_reg
        )
        self._check_dropout()

    def _settle(self, name: str, *, off: Any) -> None:
        """Put the notebook's value where none was given; refuse one that `reg` has no use for."""
        value = getattr(self, name)
        if name in OPTIONS_OF_REG[self.reg]:
            object.__setattr__(self, name, NOTEBOOK_VALUES[name] if value is None else value)
        elif value is None or value == off:
            object.__setattr__(self, name, off)
        else:
            raise UsageError(
                f"{option_name(name)} {typed(value)} does nothing with --reg {self.reg}. "
                f"Nothing was started. Use --reg {_regs_with(name)}, or leave it out."
            )

    def _check_dropout(self) -> None:
        if self.reg != "dropout":
            return
        assert self.dropout is not None, "settled before"
        if not self.hidden:
            raise UsageError(
                "--reg dropout zeroes hidden units, but a linear probe (--hidden '') has none. "
                "Nothing was started. Use another --reg, or --hidden."
            )
        if len(self.dropout) != len(self.hidden):
            raise UsageError(
                f"--dropout has {counted(len(self.dropout), 'probability')} "
                f"({typed(self.dropout)}), but --hidden has {counted(len(self.hidden), 'layer')} "
                f"({typed(self.hidden)}); expected one for each hidden layer."
            )
        for p in self.dropout:
            if not 0 <= p < 1:
                raise UsageError(f"--dropout has {p:g}, but must be at least 0 and below 1.")


@options_in("Training")
@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a head is trained; the defaults are the notebook's VGG16 systems."""

    lr: float = option(1e-5, "Learning rate of Adam.")
    batch_size: int = option(
        64, "Rows in one step; the last batch of an epoch may be smaller.", least=1, most=MOST_ROWS
    )
    max_epochs: int = option(5, "Train for at most this many epochs.", least=1)
    patience: int | None = option(
        None,
        "Stop after this many epochs without a better val_loss; 0 is never.",
        least=0,
        unset="the recipe's",
    )
    min_delta: float = option(0.001, "By how much val_loss must fall to count as better.")
    val_fraction: float | None = option(
        None,
        "Share of the training rows kept for validation.",
        unset=f"{VAL_FRACTION}, or split val",
        group="Validation",
    )
    split_seed: int = option(
        42, "Seed of the choice of the validation rows.", least=0, group="Validation"
    )
    select: str = option(
        "last",
        "Keep the weights of the last epoch, or of the best by val_loss.",
        choices=("last", "best"),
    )
    seed: int = option(0, "Seed of the initial weights, the order of batches and dropout.", least=0)
    order_seed: int | None = option(
        None,
        "Seed of the order of batches. Set it to train one head of a sweep again.",
        least=0,
        unset="the seed",
    )
    window_rows: int | None = None  # rows in memory, shuffled among themselves; from max_memory

    def __post_init__(self) -> None:
        check_fields(self)
        if self.order_seed == self.seed:
            object.__setattr__(self, "order_seed", None)  # the default; keep it out of the identity
        require_above_zero("--lr", self.lr)
        require_above_zero("--min-delta", self.min_delta, or_zero=True)
        require_at_least("window_rows", self.window_rows, 1)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UsageError(
                f"--val-fraction is {self.val_fraction:g}, but must be above 0 and below 1."
            )

    @property
    def seed_of_order(self) -> int:
        """What seeds the order of batches."""
        return self.seed if self.order_seed is None else self.order_seed
